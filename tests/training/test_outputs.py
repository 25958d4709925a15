"""Models that return tensors, and those that return objects with logits."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from fairtat.training.outputs import logits_of


def test_both_kinds() -> None:
    logits = torch.rand(2, 3)
    assert logits_of(logits) is logits
    assert logits_of(SimpleNamespace(logits=logits, hidden=None)) is logits
