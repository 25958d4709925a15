"""The Triton kernels against the reference: under the interpreter, and compiled where there is a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fairtat.backends import OPS

Script = Callable[..., list[dict[str, Any]]]

LONG = ("pgd_init", "pgd_step", "logit_loss")  # under the interpreter


Outcomes = list[dict[str, Any]]


@pytest.fixture(scope="module")
def interpreted(script: Script) -> Outcomes:
    """Of the ops that are soon done, in one process: Triton takes seconds to import."""
    return script("equality.py", *(op for op in OPS if op not in LONG), interpret=True)


def check(op: str, outcomes: Outcomes) -> None:
    own = [outcome for outcome in outcomes if outcome["op"] == op]
    failures = [f"{outcome['case']}: {outcome['failure']}" for outcome in own if outcome["failure"]]
    assert not failures, "\n".join(failures)
    assert own


@pytest.mark.parametrize("op", [op for op in OPS if op not in LONG])
def test_the_interpreted_kernels_meet_the_reference(interpreted: Outcomes, op: str) -> None:
    check(op, interpreted)


@pytest.mark.slow
@pytest.mark.parametrize("op", LONG)
def test_the_slowly_interpreted_kernels_meet_the_reference(script: Script, op: str) -> None:
    check(op, script("equality.py", op, interpret=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("op", OPS)
def test_the_compiled_kernels_meet_the_reference(script: Script, op: str) -> None:
    check(op, script("equality.py", op))
