"""Checks of the inputs, the model and the figures, which report findings."""
