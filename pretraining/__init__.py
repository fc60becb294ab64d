"""Pre-training data: text to shards, shards to masked sentence pairs, pairs to batches."""
