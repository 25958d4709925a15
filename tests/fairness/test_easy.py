"""Which samples TRIX attacks towards a target, by loops in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fairtat.fairness import in_easy_class


def by_loops(logits: Tensor, y: Tensor) -> list[bool]:
    classes, labels = logits.shape[1], y.tolist()
    p = [np.exp(row - row.max()) / np.exp(row - row.max()).sum() for row in logits.double().numpy()]
    mean = {c: np.mean([q for q, label in zip(p, labels, strict=True) if label == c], axis=0) for c in set(labels)}
    weight = dict.fromkeys(range(classes), 1.0)
    for i in mean:
        for j in mean:
            if mean[i][i] < mean[j][j]:
                weight[i] += mean[i][j] * mean[j][j]
            elif mean[i][i] > mean[j][j]:
                weight[i] -= mean[j][i] * mean[i][i]
    drawn = [weight[label] for label in labels]
    return [w < np.mean(drawn) for w in drawn]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("n", "classes"), [(33, 5), (7, 10), (64, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_by_loops(n: int, classes: int, seed: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=generator)
    logits = torch.randn(n, classes, generator=generator)
    logits[torch.arange(n), y] += torch.linspace(0.5, 4, classes)[y]
    logits = logits.to(dtype)
    easy = in_easy_class(logits, y)
    assert easy.tolist() == by_loops(logits, y)
    assert 0 < easy.sum() < n


def test_edges() -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    assert in_easy_class(logits, torch.ones(6, dtype=torch.int64)).tolist() == [False] * 6
    assert in_easy_class(logits[:0], torch.zeros(0, dtype=torch.int64)).shape == (0,)
    same = torch.tensor([[2.0, 0.0], [0.0, 2.0]])  # a tie: neither is easier
    assert in_easy_class(same, torch.tensor([0, 1])).tolist() == [False, False]


def test_the_surer_of_two_classes_is_easy() -> None:
    logits = torch.tensor([[3.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
    assert in_easy_class(logits, torch.tensor([0, 0, 1])).tolist() == [True, True, False]
