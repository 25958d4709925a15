"""Rows that the tables of bad input of several ops have: name -> (changed arguments, error, message)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

Row = tuple[dict[str, Any], type[Exception], str]


def bad_backends(op: str, **float64: Tensor) -> dict[str, Row]:
    """A backend that there is not, and arguments in float64, for which the compiled core has no kernel."""
    return {
        "backend unknown": ({"backend": "avx2"}, ValueError, "backend must be 'auto' or one of .*'avx2'"),
        "float64 on the compiled core": (
            {**float64, "backend": "cpu"}, ValueError, f"backend='cpu' (cannot run {op} here: float64|is not)",
        ),
    }  # fmt: skip
