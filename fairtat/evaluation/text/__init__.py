"""Evaluations and comparisons in words and in terminal tables."""
