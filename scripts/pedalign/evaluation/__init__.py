"""Metrics, perplexity and statistics."""
