"""Answers kept on disk, and the checks that decide whether a kept answer still holds."""
