"""engine="auto" of an evaluation on a CPU: chosen for all images of an attack at once, and part of the question."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fairtat.engines import operations
from fairtat.evaluation import evaluate

pytestmark = pytest.mark.usefixtures("compiles", "fallbacks_are_errors")
ASKED = {"attacks": ["square"], "steps": 30, "eps": 0.01, "check_sanity": False}


@pytest.fixture
def case() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10)).double().eval()
    x = torch.rand(24, 1, 8, 8, dtype=torch.float64)
    return model, x, model(x).argmax(1)


def test_batches_of_any_size_get_the_engine_of_all_images(case, compiles, monkeypatch, tmp_path: Path) -> None:
    model, x, y = case
    # Worth a program for 24 images and not for any of the batches.
    count = operations.OperationCount()
    with torch.no_grad(), count:
        model(x)
    needed = operations.EAGER_PER_BUILD * operations.build_seconds(model)
    monkeypatch.setattr(operations, "_FLOPS", 0.9 * 5001 * count.total / needed)
    asked = {**ASKED, "attacks": ["square"]}
    small = evaluate(model, (x, y), batch_size=10, cache=tmp_path, **asked)
    assert compiles
    large = evaluate(model, (x, y), batch_size=24, **asked)
    eager = evaluate(model, (x, y), engine="eager", **asked)
    for other in (large, eager):
        assert np.array_equal(small.samples.pred, other.samples.pred)
    # What was kept is found again by the same call, whatever its batches, and not by the eager engine's.
    assert "square" in evaluate(model, (x, y), batch_size=7, cache=tmp_path, **asked).reused
    assert "square" not in evaluate(model, (x, y), cache=tmp_path, engine="eager", **asked).reused
    built = len(compiles)
    evaluate(model, (x[:12], y[:12]), batch_size=10, **asked)
    assert len(compiles) == built


def test_other_attacks_stay_eager(case, compiles, monkeypatch) -> None:
    model, x, y = case
    monkeypatch.setattr(operations, "_FLOPS", 1.0)
    evaluate(model, (x, y), attacks=["pgd-3", "cw-3"], eps=0.01, check_sanity=False)
    assert compiles == []
