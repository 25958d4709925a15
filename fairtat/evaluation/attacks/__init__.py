"""Attacks by name, their settings, and the classifier that they run on."""
