"""Whole attacks and training steps, and how their cost grows."""
