"""FairTAT: targets, radii and errors, epoch by epoch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from epochs import CLASSES, EPS, epoch_batches, run_epoch, same
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode

from fairtat import ClassStats, FairTAT
from fairtat.fairness import MARGIN_RULES, TARGET_RULES, class_radii, target_weight
from fairtat.fairness.by_class import _by_label


@pytest.mark.parametrize("begin", [1, 3])
def test_until_begin_targets_are_uniform_and_radii_plain(begin: int) -> None:
    fair = FairTAT(CLASSES, EPS, begin=begin)
    for epoch in range(begin):
        assert fair.epoch == epoch
        assert fair.class_eps.tolist() == torch.tensor([EPS] * CLASSES).tolist()
        assert fair.target_weight is not None
        assert fair.target_weight.tolist() == [1.0] * CLASSES
        run_epoch(fair, epoch_batches(epoch))
        fair.end_epoch()
    assert fair.target_weight is not None
    assert fair.class_eps.unique().numel() > 1
    assert fair.target_weight.unique().numel() > 1


def test_an_epoch_by_hand() -> None:
    fair = FairTAT(3, EPS, lam=0.5, tau=2.0)
    # 0: 3 of 4 right, one taken for 1; 1: 1 of 2 right, one taken for 2; 2: none of 2 right, both taken for 1.
    label = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    pred = torch.tensor([0, 0, 0, 1, 1, 2, 1, 1])
    fair.update(torch.eye(3)[pred], label, fair.sample_targets(label))
    fair.end_epoch()
    assert fair.class_eps.dtype == torch.float32
    assert fair.class_eps.tolist() == pytest.approx([1.25 * EPS, 1.0 * EPS, 0.5 * EPS], rel=1e-6)
    assert fair.target_weight is not None
    assert fair.target_weight.tolist() == pytest.approx([1.0, math.exp(1.5), math.exp(0.5)], rel=1e-12)
    assert fair.eps_for(torch.tensor([2, 0, 0])).tolist() == pytest.approx([0.5 * EPS, 1.25 * EPS, 1.25 * EPS])
    assert fair.last is not None
    assert fair.last.count.tolist() == [4, 2, 2]
    assert fair.stats.count.tolist() == [0, 0, 0]


@pytest.mark.parametrize("targets", ["none", "random", "cfps", "confusion"])
@pytest.mark.parametrize("margins", ["fixed", "G-rob", ["G-rob", "G-cfns"]])
def test_settings_reach_the_rules(targets: str, margins: str | list[str]) -> None:
    clamp = (4 / 255, 9 / 255)
    fair = FairTAT(CLASSES, EPS, targets=targets, margins=margins, lam=0.7, tau=1.5, combine="min", clamp=clamp, seed=3)
    run_epoch(fair, epoch_batches(0))
    fair.end_epoch()
    assert fair.last is not None
    radii = class_radii(fair.last, EPS, margins, lam=0.7, combine="min", clamp=clamp)
    assert torch.equal(fair.class_eps, radii.float())
    expected = target_weight(fair.last, targets, tau=1.5)
    if expected is None:
        assert fair.target_weight is None
        assert fair.sample_targets(torch.tensor([0, 1])) is None
    else:
        assert fair.target_weight is not None
        assert torch.equal(fair.target_weight, expected)


@pytest.mark.parametrize("targets", ["random", "cfps", "confusion"])
def test_targets_are_never_the_label_and_differ_between_epochs_and_seeds(targets: str) -> None:
    label, ids = torch.arange(CLASSES).repeat(200), torch.arange(CLASSES * 200)
    fair, other = FairTAT(CLASSES, targets=targets, seed=1), FairTAT(CLASSES, targets=targets, seed=2)
    drawn = []
    for epoch in range(3):
        target, again = fair.sample_targets(label, ids), fair.sample_targets(label, ids)
        different = other.sample_targets(label, ids)
        assert target is not None
        assert again is not None
        assert different is not None
        assert not (target == label).any()
        assert torch.equal(target, again)
        assert not torch.equal(target, different)
        drawn.append(target)
        for each in (fair, other):
            run_epoch(each, epoch_batches(epoch))
            each.end_epoch()
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])


def test_a_sample_gets_the_same_target_in_any_batch() -> None:
    fair = FairTAT(CLASSES)
    label, ids = torch.arange(101) % CLASSES, torch.arange(101) * 7
    whole = fair.sample_targets(label, ids)
    assert whole is not None
    order = torch.randperm(101, generator=torch.Generator().manual_seed(0))
    for part in order.split([1, 60, 40]):
        drawn = fair.sample_targets(label[part], ids[part])
        assert drawn is not None
        assert torch.equal(drawn, whole[part])


def test_without_ids_samples_are_numbered_through_the_epoch() -> None:
    label = torch.zeros(300, dtype=torch.int64)
    fair, split = FairTAT(CLASSES), FairTAT(CLASSES)
    first, second = fair.sample_targets(label), fair.sample_targets(label)
    numbered = FairTAT(CLASSES).sample_targets(label.repeat(2), torch.arange(600))
    assert first is not None
    assert second is not None
    assert numbered is not None
    assert not torch.equal(first, second)
    assert torch.equal(torch.cat([first, second]), numbered)
    parts = [split.sample_targets(part) for part in label.repeat(2).split([0, 7, 500, 93])]
    assert torch.equal(torch.cat([part for part in parts if part is not None]), numbered)
    fair.end_epoch()
    afresh, from_zero = fair.sample_targets(label), fair.sample_targets(label, torch.arange(300))
    assert afresh is not None
    assert from_zero is not None
    assert torch.equal(afresh, from_zero)


def test_a_draw_that_failed_does_not_move_the_numbering() -> None:
    fair, fresh = FairTAT(CLASSES), FairTAT(CLASSES)
    with pytest.raises(ValueError, match=r"y must lie in \[0, 5\)"):
        fair.sample_targets(torch.full((3,), CLASSES))
    label = torch.zeros(50, dtype=torch.int64)
    assert same([fair.sample_targets(label)], [fresh.sample_targets(label)])  # type: ignore[list-item]


def test_an_empty_batch_and_an_empty_epoch() -> None:
    fair = FairTAT(CLASSES, EPS)
    empty = torch.zeros(0, dtype=torch.int64)
    target = fair.sample_targets(empty)
    assert target is not None
    assert target.shape == fair.eps_for(empty).shape == (0,)
    fair.update(torch.zeros(0, CLASSES), empty, target)
    fair.end_epoch()
    assert fair.epoch == 1
    assert fair.class_eps.tolist() == torch.tensor([EPS] * CLASSES).tolist()
    assert fair.target_weight is not None
    assert fair.target_weight.tolist() == [1.0] * CLASSES


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_classes": 1}, ValueError, "num_classes must be an int and >= 2, got 1"),
        ({"eps": -0.1}, ValueError, "eps must be finite and >= 0.0, got -0.1"),
        ({"eps": math.inf}, ValueError, "eps must be finite"),
        ({"eps": "big"}, TypeError, "eps must be a real number"),
        ({"targets": "confuson"}, ValueError, "did you mean 'confusion'"),
        ({"margins": "G-robb"}, ValueError, "did you mean 'G-rob'"),
        ({"margins": []}, ValueError, "at least one"),
        ({"lam": math.nan}, ValueError, "lam must be finite"),
        ({"tau": math.inf}, ValueError, "tau must be finite"),
        ({"combine": "mean"}, ValueError, "combine must be one of 'avg', 'min'"),
        ({"clamp": (0.1, 0.0)}, ValueError, "low <= high"),
        ({"clamp": 0.1}, TypeError, "clamp must be None or a pair"),
        ({"begin": 0}, ValueError, "begin must be an int and >= 1, got 0"),
        ({"begin": 1.0}, TypeError, "begin must be an int, got 1.0"),
        ({"seed": 2**64}, ValueError, "seed"),
        ({"seed": "0"}, TypeError, "seed"),
        ({"targets": "none", "margins": ["G-rob", "T-rob"]}, ValueError, "targets must be random, cfps or confusion"),
    ],
)
def test_settings_that_cannot_be_are_errors(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FairTAT(**{"num_classes": CLASSES, **options})


@pytest.mark.parametrize("seed", [-(2**63), 2**64 - 1])
def test_the_extreme_seeds_draw(seed: int) -> None:
    label = torch.arange(CLASSES)
    target = FairTAT(CLASSES, seed=seed).sample_targets(label)
    assert target is not None
    assert not (target == label).any()


def test_target_relative_margins_ask_for_the_target() -> None:
    fair = FairTAT(CLASSES, margins="T-rob")
    with pytest.raises(ValueError, match="target must be given"):
        fair.update(torch.zeros(2, CLASSES), torch.tensor([0, 1]))
    assert fair.stats.count.sum() == 0


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (torch.zeros(3), TypeError, "y must be int64, got float32"),
        (torch.zeros(3, 1, dtype=torch.int64), ValueError, r"y must have shape \(3,\), got \(3, 1\)"),
        (torch.tensor(1), ValueError, r"y must have shape \(0,\), got \(\)"),
        (torch.zeros(3, dtype=torch.int64, device="meta"), ValueError, "y must be on the device of class_eps"),
        ([0, 1, 2], TypeError, "y must be a tensor, got list"),
    ],
)
def test_labels_of_a_wrong_kind_are_errors(y: Any, error: type[Exception], message: str) -> None:
    fair = FairTAT(CLASSES)
    for call in (fair.eps_for, fair.sample_targets, lambda y: fair.update(torch.zeros(3, CLASSES), y)):
        with pytest.raises(error, match=message):
            call(y)
    assert fair.stats.count.sum() == 0


def test_a_rule_of_ones_own_has_a_name_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TARGET_RULES, "worst", lambda stats, tau: torch.exp(-tau * stats.accuracy.nan_to_num(1.0)))
    monkeypatch.setitem(MARGIN_RULES, "error", lambda stats: 1 - stats.accuracy)
    fair = FairTAT(CLASSES, EPS, targets="worst", margins="error", tau=3.0, lam=0.0)
    run_epoch(fair, epoch_batches(0))
    fair.end_epoch()
    assert fair.last is not None
    assert fair.target_weight is not None
    assert torch.equal(fair.target_weight, torch.exp(-3.0 * fair.last.accuracy))
    assert torch.equal(fair.class_eps, ((1 - fair.last.accuracy) * EPS).float())


def test_an_epoch_of_logits_that_are_not_finite_adapts_nothing() -> None:
    fair = FairTAT(4, EPS)
    y = torch.arange(4)
    fair.update(torch.full((4, 4), math.nan), y, (y + 1) % 4)
    before = fair.class_eps.clone()
    with pytest.raises(
        ValueError, match=r"^epoch 0: .* 1 of 1 samples of class 0, .* 4 of 4 in all; at most 1% of a class"
    ):
        fair.end_epoch()
    assert (fair.epoch, fair.last) == (0, None)
    assert torch.equal(fair.class_eps, before)
    assert fair.target_weight is not None
    assert fair.target_weight.tolist() == [1.0] * 4


@pytest.mark.parametrize(("spoiled", "accepted"), [(0, True), (1, True), (2, True), (3, False), (200, False)])
def test_at_most_one_sample_in_a_hundred_may_have_no_finite_logits(
    spoiled: int, accepted: bool, recwarn: pytest.WarningsRecorder
) -> None:
    """200 samples of class 1, of which 150 would be right, and one of class 0."""
    fair = FairTAT(2, EPS, targets="random", lam=0.5)
    logits = torch.eye(2)[torch.tensor([0] + [1] * 150 + [0] * 50)]
    y = torch.tensor([0] + [1] * 200)
    logits[1 : 1 + spoiled, 0] = math.nan
    fair.update(logits, y, 1 - y)
    if not accepted:
        with pytest.raises(ValueError, match=rf"{spoiled} of 200 samples of class 1"):
            fair.end_epoch()
        return
    fair.end_epoch()
    assert fair.class_eps.tolist() == pytest.approx([1.5 * EPS, (0.5 + (150 - spoiled) / 200) * EPS])
    found = [str(w.message) for w in recwarn if issubclass(w.category, RuntimeWarning)]
    assert len(found) == (spoiled > 0)
    assert all(f"{spoiled} of 200 samples of class 1" in message and "count as wrong" in message for message in found)
    assert all(w.filename == __file__ for w in recwarn if issubclass(w.category, RuntimeWarning))


def test_the_class_that_suffers_most_decides() -> None:
    fair = FairTAT(2, EPS)
    y = torch.tensor([0] * 1000 + [1])
    logits = torch.eye(2)[y]
    logits[-1] = torch.nan  # 1 of 1001 samples, and all of class 1
    fair.update(logits, y, 1 - y)
    with pytest.raises(ValueError, match="1 of 1 samples of class 1, and for 1 of 1001 in all"):
        fair.end_epoch()


@pytest.mark.parametrize("bad", [-1, CLASSES, 2**40, -(2**63)])
@pytest.mark.parametrize(
    "method", ["eps_for", "step_scale_for", "weight_for", "robust_weight_for", "beta_for", "sample_targets", "update"]
)
def test_a_label_out_of_range_is_named(method: str, bad: int) -> None:
    fair = FairTAT(CLASSES, EPS, weights="cfol")
    run_epoch(fair, epoch_batches(0))
    fair.end_epoch()
    fair.class_step = torch.ones(CLASSES)  # no rule sets all three
    call = getattr(fair, method)
    y = torch.tensor([0, 1, bad])
    more = {"beta_for": (6.0,), "update": (torch.tensor([1, 0, 2]),)}.get(method, ())
    before = (torch.zeros(3, CLASSES),) if method == "update" else ()
    with pytest.raises(ValueError, match=r"^y must lie in \[0, 5\), got .*" + str(bad)):
        call(*before, y, *more)
    assert fair.stats.count.sum() == 0


@pytest.mark.parametrize("bad", [-1, CLASSES, 2**40, -(2**63)])
def test_where_a_bad_label_cannot_raise_its_radius_is_nan(monkeypatch: pytest.MonkeyPatch, bad: int) -> None:
    """The code for GPUs, on a tensor that says that it is on one."""

    class Elsewhere(Tensor):
        @property
        def device(self) -> torch.device:  # type: ignore[override]
            return torch.device("cuda")

    by_class = torch.tensor([1.0, 2.0, 3.0])
    y = torch.tensor([2, bad, 0]).as_subclass(Elsewhere)
    assert _by_label(by_class, y).tolist() == pytest.approx([3.0, math.nan, 1.0], nan_ok=True)


def test_a_batch_never_waits_for_the_device() -> None:
    """On fake tensors, which have no values, reading one back (.item(), bool(tensor), .tolist()) raises."""
    fair = FairTAT(CLASSES)
    with FakeTensorMode(allow_non_fake_inputs=True):
        y = torch.zeros(8, dtype=torch.int64)
        target = fair.sample_targets(y)
        assert isinstance(target, FakeTensor)
        fair.update(torch.randn(8, CLASSES), y, target)
        assert isinstance(fair.eps_for(y), FakeTensor)
        fair.stats.buffer = torch.zeros_like(fair.stats.buffer)
        for name, value in vars(ClassStats).items():
            if isinstance(value, property) and name != "device":
                assert isinstance(getattr(fair.stats, name), FakeTensor), name
        with pytest.raises(DataDependentOutputException):
            fair.stats.worst()


def all_errors_land_on_class_0(fair: FairTAT) -> FairTAT:
    """An epoch after which, at a high temperature, class 0 is all but certain as a target."""
    label = torch.arange(CLASSES)
    fair.update(torch.eye(CLASSES)[torch.zeros_like(label)], label, fair.sample_targets(label))
    fair.end_epoch()
    return fair


@pytest.mark.parametrize("margins", ["fixed", "G-rob"])
def test_targets_follow_the_errors_whatever_the_margins(margins: str) -> None:
    """In the published code they stay uniform unless the radii adapt."""
    fair = all_errors_land_on_class_0(FairTAT(CLASSES, margins=margins, tau=100.0))
    target = fair.sample_targets(torch.arange(1, CLASSES).repeat(500))
    assert target is not None
    assert (target == 0).all()


def test_the_one_sample_of_a_batch_that_collides_gets_another_target() -> None:
    """The published code redraws colliding samples, except when there is exactly one of them."""
    fair = all_errors_land_on_class_0(FairTAT(CLASSES, tau=100.0))
    label = torch.arange(CLASSES)  # every draw without rejection would be 0: sample 0 alone collides
    for _ in range(500):
        target = fair.sample_targets(label)
        assert target is not None
        assert target[0] != 0
        assert (target[1:] == 0).all()


@pytest.mark.parametrize("targets", ["random", "cfps", "confusion"])
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_a_batch_of_one_never_keeps_its_label(targets: str, classes: int) -> None:
    fair = FairTAT(classes, targets=targets)
    fair.update(torch.eye(classes), torch.arange(classes).roll(1), torch.arange(classes).roll(2))
    fair.end_epoch()
    for label in torch.arange(classes).repeat(100).split(1):
        target = fair.sample_targets(label)
        assert target is not None
        assert target.item() != label.item()


def test_radii_of_imbalanced_data_divide_by_the_classes_own_counts() -> None:
    """The published code takes every class to have N / C samples, so that A would be 0.98 and 0.02 here."""
    fair = FairTAT(2, EPS, lam=0.5)
    label = torch.tensor([0] * 98 + [1] * 2)
    pred = torch.tensor([0] * 49 + [1] * 49 + [1, 0])
    fair.update(torch.eye(2)[pred], label, 1 - label)
    fair.end_epoch()
    assert fair.class_eps.tolist() == pytest.approx([1.0 * EPS, 1.0 * EPS], rel=1e-6)
