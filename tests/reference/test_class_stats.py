"""What class_stats does where it may not synchronise: on a GPU a bad index cannot raise."""

from __future__ import annotations

import pytest
import torch

from fairtat.reference import class_stats_


@pytest.mark.parametrize("argument", ["pred", "label", "target"])
@pytest.mark.parametrize("index", [-1, 3, 2**40])
def test_a_sample_with_a_bad_index_is_left_out_without_the_check(
    monkeypatch: pytest.MonkeyPatch, argument: str, index: int
) -> None:
    monkeypatch.setattr("fairtat.reference.class_stats.check_range", lambda *_: None)
    columns = {"pred": [0, 2, 1], "label": [0, 1, 1], "target": [2, 2, 0]}
    loss = torch.tensor([0.5, float("nan"), 2.0])
    expected = torch.zeros(10, 3, dtype=torch.int64)
    class_stats_(expected, *(torch.tensor(columns[k][:2]) for k in ("pred", "label")), loss[:2], torch.tensor([2, 2]))

    columns[argument][2] = index
    pred, label, target = (torch.tensor(columns[k]) for k in ("pred", "label", "target"))
    buffer = torch.zeros(10, 3, dtype=torch.int64)
    class_stats_(buffer, pred, label, loss, target)
    assert torch.equal(buffer, expected)
