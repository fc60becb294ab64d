"""Processes, streams, command lines and whole files: what is not about BERT."""
