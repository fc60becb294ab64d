"""Pre-training data: text to shards, shards to masked sentence pairs, pairs to batches.

Row: data and loop. It imports only from rows below (ARCHITECTURE.md).
"""
