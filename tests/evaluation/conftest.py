"""Evaluations made by hand from labels and predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from fairtat.evaluation import AttackSettings, ClassFigures, Evaluation, Samples


def confusion(label: Sequence[int], pred: Sequence[int], classes: int) -> torch.Tensor:
    matrix = torch.zeros(classes, classes, dtype=torch.int64)
    for true, predicted in zip(label, pred, strict=True):
        matrix[true, predicted] += 1
    return matrix


@pytest.fixture
def make_evaluation() -> Callable[..., Evaluation]:
    def make(
        label: Sequence[int],
        clean: Sequence[int],
        robust: Sequence[int],
        names: Sequence[str] = ("cat", "dog", "ship"),
        **changes: Any,
    ) -> Evaluation:
        attack = AttackSettings(**{"eps": 8 / 255, "step_size": 2 / 255, **changes})
        return Evaluation(
            class_names=tuple(names),
            attack=attack,
            clean=ClassFigures(confusion(label, clean, len(names))),
            robust=ClassFigures(confusion(label, robust, len(names))),
            samples=Samples(
                sample_ids=np.arange(100, 100 + len(label)),
                label=np.array(label, dtype=np.int64),
                clean_pred=np.array(clean, dtype=np.int64),
                robust_pred=np.array(robust, dtype=np.int64),
            ),
            source={"data": "hand-made"},
        )

    return make
