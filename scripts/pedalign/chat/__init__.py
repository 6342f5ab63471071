"""Talking to tutors."""
