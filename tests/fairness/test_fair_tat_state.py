"""The state of FairTAT: a loop that stops and goes on is the loop that never stopped."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from epochs import CLASSES, EPS, epoch_batches, run_epoch, same, saved_and_loaded

from fairtat import FairTAT


@pytest.mark.parametrize("with_ids", [True, False])
@pytest.mark.parametrize("targets", ["none", "cfps", "confusion"])
@pytest.mark.parametrize("stop", [0, 2, 4])
def test_resuming_is_as_if_never_interrupted(targets: str, with_ids: bool, stop: int) -> None:
    """Stopped in epoch 1 after `stop` of its four batches, and again between epochs."""
    straight = FairTAT(CLASSES, targets=targets, margins=["G-rob", "G-cfps"], seed=9)
    expected = []
    for epoch in range(3):
        expected += run_epoch(straight, epoch_batches(epoch), with_ids)
        straight.end_epoch()

    def fresh(state: dict[str, Any]) -> FairTAT:
        fair = FairTAT(CLASSES, targets=targets, margins=["G-rob", "G-cfps"], seed=9)
        fair.load_state_dict(saved_and_loaded(state))
        return fair

    fair = FairTAT(CLASSES, targets=targets, margins=["G-rob", "G-cfps"], seed=9)
    seen = run_epoch(fair, epoch_batches(0), with_ids)
    fair.end_epoch()
    seen += run_epoch(fair, epoch_batches(1)[:stop], with_ids)
    fair = fresh(fair.state_dict())
    seen += run_epoch(fair, epoch_batches(1)[stop:], with_ids)
    fair.end_epoch()
    fair = fresh(fair.state_dict())
    seen += run_epoch(fair, epoch_batches(2), with_ids)
    fair.end_epoch()
    assert same(seen, expected)
    assert fair.last is not None
    assert straight.last is not None
    assert torch.equal(fair.last.buffer, straight.last.buffer)
    assert torch.equal(fair.class_eps, straight.class_eps)


def test_a_state_is_a_copy() -> None:
    fair = FairTAT(CLASSES)
    run_epoch(fair, epoch_batches(0)[:2])
    state = fair.state_dict()
    before = state["stats"]["buffer"].clone()
    run_epoch(fair, epoch_batches(0)[2:])
    assert torch.equal(state["stats"]["buffer"], before)
    restored = FairTAT(CLASSES)
    restored.load_state_dict(state)
    run_epoch(restored, epoch_batches(0)[2:])
    assert torch.equal(state["stats"]["buffer"], before)


def test_a_loaded_state_follows_the_settings_of_the_constructor() -> None:
    fair = FairTAT(CLASSES, EPS, tau=2.0)
    run_epoch(fair, epoch_batches(0))
    fair.end_epoch()
    other = FairTAT(CLASSES, EPS, margins="fixed", tau=0.0)
    other.load_state_dict(fair.state_dict())
    assert other.class_eps.tolist() == torch.tensor([EPS] * CLASSES).tolist()
    assert other.target_weight is not None
    assert other.target_weight.tolist() == [1.0] * CLASSES
    assert other.epoch == 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"num_classes": 4}, ValueError, "num_classes=5, got 4"),
        ({"epoch": -1}, ValueError, "epoch must be an int and >= 0, got -1"),
        ({"epoch": 1.5}, TypeError, "epoch must be an int, got 1.5"),
        ({"next_sample_id": -3}, ValueError, "next_sample_id"),
        ({"epoch": 0}, ValueError, "'last'"),
        ({"last": None}, ValueError, "'last'"),
        ({"last": {"num_classes": 5, "buffer": torch.zeros(9, 5, dtype=torch.int64)}}, ValueError, "buffer"),
        ({"stats": None}, TypeError, "ClassStats state"),
        ({"extra": 0}, ValueError, "unexpected"),
    ],
)
def test_a_wrong_state_is_an_error_and_changes_nothing(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    source, fair = FairTAT(CLASSES), FairTAT(CLASSES)
    for each, epochs in ((source, 2), (fair, 1)):
        for epoch in range(epochs):
            run_epoch(each, epoch_batches(epoch))
            each.end_epoch()
    run_epoch(fair, epoch_batches(7)[:1])
    expected = run_epoch(fair, epoch_batches(8))
    before = fair.state_dict()
    with pytest.raises(error, match=message):
        fair.load_state_dict({**source.state_dict(), **change})
    assert fair.epoch == 1
    assert torch.equal(fair.stats.buffer, before["stats"]["buffer"])
    assert same(run_epoch(fair, epoch_batches(8)), expected)
