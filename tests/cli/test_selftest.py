from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fairtat import backends
from fairtat.cli.selftest import Check, run_selftest


def outcome(op: str, backend: str) -> Check:
    return next(check for check in run_selftest() if (check.op, check.backend) == (op, backend))


def one_ulp_off(*arguments: Any) -> None:
    kernel = REAL["reference"]["pgd_step"]
    kernel(*arguments)
    x_adv: Tensor = arguments[0]
    flat = x_adv.view(-1) if x_adv.is_contiguous() else x_adv.permute(0, 2, 3, 1).reshape(-1)
    flat[-1] = torch.nextafter(flat[-1], torch.tensor(2.0))


def wrong_sign(logits: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    loss, dlogits, pred, reached = REAL["reference"]["logit_loss"](logits, *arguments)
    return loss, -dlogits, pred, reached


def own_label(label: Tensor, *arguments: Any) -> Tensor:
    return label.clone()


def no_noise(out: Tensor, x: Tensor, *arguments: Any) -> None:
    out.copy_(x)


def broken(*arguments: Any) -> None:
    raise RuntimeError("launch failed")


REAL = {name: dict(kernels) for name, kernels in backends._KERNELS.items()}


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("op", "fault"),
    [
        ("pgd_init", no_noise),
        ("pgd_step", one_ulp_off),
        ("logit_loss", wrong_sign),
        ("sample_targets", own_label),
        ("class_stats", broken),
        ("logit_stats", broken),
    ],
)
def test_a_faulty_kernel_is_found_where_it_is_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, backend: str, op: str, fault: Callable[..., Any]
) -> None:
    if not backends.status()[backend].available:
        pytest.skip("the compiled core is absent")
    monkeypatch.setitem(backends._KERNELS[backend], op, fault)
    check = outcome(op, backend)
    assert not check.passed
    assert check.detail
    # A fault of the reference shows in the backends that are compared with it as well.
    bystanders = [c for c in run_selftest() if c.op != op]
    assert all(c.passed for c in bystanders)


def test_what_a_kernel_raises_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backends._KERNELS["reference"], "pgd_init", broken)
    assert outcome("pgd_init", "reference").detail == "RuntimeError: launch failed"
