"""Supervised fine-tuning and alignment."""
