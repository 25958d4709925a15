"""The model under attack: frozen, called, looked at, and its random numbers."""
