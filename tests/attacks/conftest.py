"""The fixtures of attacks and engines."""

from attack_fixtures import alone, company, compiles, fallbacks_are_errors, h, recorded, stub

__all__ = ["alone", "company", "compiles", "fallbacks_are_errors", "h", "recorded", "stub"]
