"""The figures of an epoch against counting by hand, and as strict JSON."""

from __future__ import annotations

import json
import math

import torch

from fairtat import ClassStats
from fairtat.training.events import ClassAccuracy, numbers


def test_accuracies_of_an_unbalanced_count() -> None:
    label = torch.tensor([0] * 8 + [1] * 2)
    pred = torch.tensor([0] * 6 + [1] * 2 + [1] + [0])
    logits = torch.nn.functional.one_hot(pred, 3).float() * 5
    accuracy = ClassAccuracy.of(ClassStats(3).update(logits, label), ("a", "b", "c"))
    assert accuracy.average == 0.7
    assert accuracy.per_class == [0.75, 0.5, None]  # class c has no samples
    assert (accuracy.worst_class, accuracy.worst_class_name, accuracy.worst) == (1, "b", 0.5)


def test_nan_becomes_null_at_any_depth() -> None:
    values = numbers(torch.tensor([[0.5, math.nan], [math.nan, 2.0]]))
    assert json.dumps(values, allow_nan=False) == "[[0.5, null], [null, 2.0]]"
    assert numbers(torch.tensor([1, 2])) == [1, 2]
