"""What every benchmark script shares: cases, equality, interleaved timing, environment."""

from harness import gpu
from harness.case import (
    Benchmark,
    Case,
    CaseSpec,
    Contestant,
    Device,
    Entrant,
    Outcome,
    Role,
    Settings,
    Target,
    Unavailable,
    Verify,
)
from harness.equality import Mismatch, close_to, equal_to
from harness.timing import Measurement, Spread, measure

__all__ = [
    "Benchmark",
    "Case",
    "CaseSpec",
    "Contestant",
    "Device",
    "Entrant",
    "Measurement",
    "Mismatch",
    "Outcome",
    "Role",
    "Settings",
    "Spread",
    "Target",
    "Unavailable",
    "Verify",
    "close_to",
    "equal_to",
    "gpu",
    "measure",
]
