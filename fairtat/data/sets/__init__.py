"""Readers of data sets: bundled ones, files and folders, and Hugging Face."""
