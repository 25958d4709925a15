"""What logit_loss refuses, and how it says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from refused import Row, bad_backends

from fairtat.ops import logit_loss

LOGITS, INDEX = torch.zeros(2, 5), torch.tensor([0, 1])


MASK = torch.tensor([True, False])


BAD: dict[str, Row] = {
    "logits a list": ({"logits": [[0.0]]}, TypeError, "logits must be a tensor, got list"),
    "logits of integers": ({"logits": LOGITS.long()}, TypeError, "logits must be float32 .* got int64"),
    "logits 1-d": ({"logits": torch.zeros(5)}, ValueError, r"logits must have shape \(N, C\), got \(5,\)"),
    "target a list": ({"target": [0, 1]}, TypeError, "target must be a tensor, got list"),
    "target in int32": ({"target": INDEX.int()}, TypeError, "target must be int64, got int32"),
    "target one-hot": (
        {"target": torch.zeros(2, 5).long()}, ValueError, r"target must have shape \(2,\), got \(2, 5\)",
    ),
    "target for another batch": ({"target": torch.arange(3)}, ValueError, r"target must have shape \(2,\), got \(3,\)"),
    "target elsewhere": (
        {"target": INDEX.to("meta")}, ValueError, r"target must be on the device of logits \(cpu\), got",
    ),
    "kind unknown": ({"kind": "dlrr"}, ValueError, "kind must be one of .*'dlrr'; did you mean 'dlr'"),
    "y for another kind": ({"y": INDEX}, ValueError, "y is used by kind 'dlr' alone, got kind 'ce'"),
    "y in int32": ({"kind": "dlr", "y": INDEX.int()}, TypeError, "y must be int64, got int32"),
    "y for another batch": ({"kind": "dlr", "y": torch.arange(3)}, ValueError, r"y must have shape \(2,\), got \(3,\)"),
    "clean_logits missing": ({"kind": "kl"}, ValueError, "clean_logits goes with kind 'kl'"),
    "clean_logits unused": ({"clean_logits": LOGITS}, ValueError, "clean_logits goes with kind 'kl'.*'ce'"),
    "clean_logits of another shape": (
        {"kind": "kl", "clean_logits": torch.zeros(2, 4)}, ValueError, r"clean_logits must have shape \(2, 5\), got",
    ),
    "clean_logits of integers": (
        {"kind": "kl", "clean_logits": LOGITS.long()}, TypeError, "clean_logits must be float32 .* got int64",
    ),
    "clean_logits elsewhere": (
        {"kind": "kl", "clean_logits": LOGITS.to("meta")}, ValueError, "clean_logits must be on the device of logits",
    ),
    "no class": ({"logits": torch.zeros(2, 0)}, ValueError, "loss 'ce' needs at least 1 classes, got 0"),
    "margin of one": ({"logits": torch.zeros(2, 1), "kind": "margin"}, ValueError, "'margin' needs at least 2 classes"),
    "dlr of two": (
        {"logits": torch.zeros(2, 2), "kind": "dlr"}, ValueError,
        "'dlr' needs at least 3 classes, got 2; use kind 'margin'",
    ),
    "targeted dlr of three": (
        {"logits": torch.zeros(2, 3), "kind": "dlr", "y": INDEX}, ValueError,
        "'dlr' with y needs at least 4 classes, got 3",
    ),
    "kind of three": ({"kind": ("ce",) * 3}, TypeError, "kind must be a name or a pair of names, got .'ce', 'ce'"),
    "kind a number": ({"kind": 3}, TypeError, "kind must be a name or a pair of names, got 3"),
    "second kind unknown": (
        {"kind": ("ce", "dlrr"), "targeted": MASK}, ValueError, "kind must be one of .*; did you mean 'dlr'",
    ),
    "a pair without a mask": ({"kind": ("ce", "kl")}, ValueError, "targeted goes with a pair .* got targeted None"),
    "a mask without a pair": ({"targeted": MASK}, ValueError, "targeted goes with a pair of kinds, .* kind 'ce'"),
    "a mask of integers": ({"kind": ("ce", "ce"), "targeted": INDEX}, TypeError, "targeted must be bool, got int64"),
    "a mask of another batch": (
        {"kind": ("ce", "ce"), "targeted": MASK[:1]}, ValueError, r"targeted must have shape \(2,\), got \(1,\)",
    ),
    "a mask elsewhere": (
        {"kind": ("ce", "ce"), "targeted": MASK.to("meta")}, ValueError, "targeted must be on the device of logits",
    ),
    "y for the second kind alone": (
        {"kind": ("ce", "dlr"), "targeted": MASK, "y": INDEX}, ValueError, "y is used by kind 'dlr' alone, got kind",
    ),
    "clean_logits missing for the second kind": (
        {"kind": ("ce", "kl"), "targeted": MASK}, ValueError, "clean_logits goes with kind 'kl'",
    ),
    "a second kind of more classes": (
        {"logits": torch.zeros(2, 2), "kind": ("ce", "dlr"), "targeted": MASK}, ValueError,
        "'dlr' needs at least 3 classes, got 2",
    ),
    "backend absent": ({"backend": "cuda"}, ValueError, "backend='cuda' is not available"),
    **bad_backends("logit_loss", logits=LOGITS.double()),
}  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        logit_loss(**{"logits": LOGITS, "target": INDEX, **change})


@pytest.mark.parametrize("index", [-1, 5, 2**40, -(2**63)])
@pytest.mark.parametrize("name", ["target", "y"])
def test_an_index_out_of_range_is_named(backend: str, name: str, index: int) -> None:
    arguments = {"target": INDEX, "y": INDEX.flip(0), name: torch.tensor([1, index])}
    with pytest.raises(ValueError, match=rf"{name} must lie in \[0, 5\), got .*{index}"):
        logit_loss(LOGITS, arguments["target"], kind="dlr", y=arguments["y"], backend=backend)
