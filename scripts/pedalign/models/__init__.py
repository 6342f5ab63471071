"""Checkpoints, the prompt format, adapters, and log-probabilities."""
