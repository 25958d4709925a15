"""The fixtures of attacks and engines."""

from attack_fixtures import alone, company, compiles, h, recorded, stub

__all__ = ["alone", "company", "compiles", "h", "recorded", "stub"]
