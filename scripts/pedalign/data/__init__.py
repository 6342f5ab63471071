"""Conversations, rubrics, replies, splits and preference pairs."""
