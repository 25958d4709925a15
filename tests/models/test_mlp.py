"""The multilayer perceptron."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from fairtat.models import mlp


@pytest.mark.parametrize(("width", "depth"), [(128, 1), (16, 3), (5, 0)])
def test_shapes_and_parameters(width: int, depth: int) -> None:
    model = mlp(10, 1, (8, 8), width=width, depth=depth)
    assert model(torch.rand(3, 1, 8, 8)).shape == (3, 10)
    sizes = [64] + [width] * depth + [10]
    expected = sum(a * b + b for a, b in pairwise(sizes))
    assert sum(p.numel() for p in model.parameters()) == expected
