"""The Triton kernels against the reference: under the interpreter, and compiled where there is a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

Script = Callable[..., list[dict[str, Any]]]

OPS = ("pgd_init", "pgd_step", "logit_loss", "sample_targets", "class_stats")
LONG = ("pgd_init", "logit_loss")  # under the interpreter


def check(outcomes: list[dict[str, Any]]) -> None:
    failures = [f"{outcome['case']}: {outcome['failure']}" for outcome in outcomes if outcome["failure"]]
    assert not failures, "\n".join(failures)
    assert len(outcomes) > 30


@pytest.mark.parametrize("op", [pytest.param(op, marks=pytest.mark.slow) if op in LONG else op for op in OPS])
def test_the_interpreted_kernels_meet_the_reference(script: Script, op: str) -> None:
    check(script("equality.py", op, interpret=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("op", OPS)
def test_the_compiled_kernels_meet_the_reference(script: Script, op: str) -> None:
    check(script("equality.py", op))
