"""Settings that every test shares."""

from __future__ import annotations

from hypothesis import settings

# The same examples in every run, and no verdict from the clock: machines are shared.
settings.register_profile("fairtat", deadline=None, derandomize=True, database=None, max_examples=40)
settings.load_profile("fairtat")
