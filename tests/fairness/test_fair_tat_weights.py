"""FairTAT with a rule of weights: what a training loop is given, and how it composes with margins and targets."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from fairness_samples import CLASSES, WEIGHT_OPTIONS, samples
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from fairtat import ClassStats, FairTAT
from fairtat.fairness import WEIGHT_RULES, ClassFactors, WeightRule, class_radii
from fairtat.training.config import AttackConfig, FairnessConfig, TrainConfig, make_fairness

EPS = 8 / 255


def draw(seed: int, n: int) -> tuple[Tensor, Tensor]:
    return samples(seed, n)[:2]


def validation(epoch: int) -> tuple[ClassStats, ClassStats]:
    return ClassStats(CLASSES).update(*draw(100 + epoch, 67)), ClassStats(CLASSES).update(*draw(200 + epoch, 67))


def count(fair: FairTAT, logits: Tensor, label: Tensor) -> None:
    """A batch, with numbers of steps for a rule that counts them."""
    fair.update(logits, label, fair.sample_targets(label))
    if fair.weight_rule is not None:
        fair.weight_rule.observe_steps((logits[:, 0].abs() * 5).long(), label)


def run_epoch(fair: FairTAT, epoch: int) -> None:
    for batch in range(3):
        logits, label = draw(10 * epoch + batch, 41)
        count(fair, logits, label)
    fair.observe_validation(*validation(epoch))
    fair.end_epoch()


def answers(fair: FairTAT, y: Tensor) -> list[Tensor | None]:
    return [
        fair.eps_for(y),
        fair.step_scale_for(y),
        fair.weight_for(y),
        fair.robust_weight_for(y),
        fair.beta_for(y, 6.0),
    ]


def same(a: list[Tensor | None], b: list[Tensor | None]) -> bool:
    return all(torch.equal(x, y) if x is not None and y is not None else x is y for x, y in zip(a, b, strict=True))


def test_without_weights_there_is_nothing_to_multiply() -> None:
    fair = FairTAT(CLASSES, EPS)
    run_epoch(fair, 0)
    y = torch.tensor([0, 3])
    assert fair.weight_rule is None
    assert (fair.step_scale_for(y), fair.weight_for(y), fair.robust_weight_for(y)) == (None, None, None)
    assert not fair.needs_validation


@pytest.mark.parametrize("weights", sorted(WEIGHT_OPTIONS))
@pytest.mark.parametrize("margins", ["fixed", "G-rob"])
def test_each_sample_gets_the_factors_of_its_class(weights: str, margins: str) -> None:
    fair = FairTAT(CLASSES, EPS, margins=margins, weights=weights, weight_options=WEIGHT_OPTIONS[weights])
    for epoch in range(2):
        run_epoch(fair, epoch)
    assert fair.weight_rule is not None
    assert fair.last is not None
    factors = fair.weight_rule.factors
    y = torch.tensor([4, 0, 2, 2])
    eps = class_radii(fair.last, EPS, margins)
    expected = [
        (eps if factors.eps is None else eps * factors.eps)[y],
        None if factors.step is None else factors.step[y],
        None if factors.weight is None else factors.weight[y],
        None if factors.robust_weight is None else factors.robust_weight[y],
    ]
    for ours, theirs in zip(answers(fair, y)[:-1], expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            assert ours.dtype == torch.float32
            assert ours.tolist() == theirs.float().tolist()
    assert any(factor is not None and factor.unique().numel() > 1 for factor in factors)


def test_dafa_as_published() -> None:
    """Untargeted, fixed margins: radii, steps and cross-entropy of the harder class grow, those of the easier fall."""
    fair = FairTAT(2, EPS, targets="none", margins="fixed", weights="dafa", weight_options={"warmup": 1})
    probability = torch.tensor([[0.6, 0.4], [0.1, 0.9]])
    fair.update(probability.log(), torch.tensor([0, 1]))
    fair.end_epoch()
    y = torch.tensor([1, 0, 0])
    expected = [0.64, 1.36, 1.36]
    step, weight = fair.step_scale_for(y), fair.weight_for(y)
    assert step is not None
    assert weight is not None
    assert step.tolist() == weight.tolist() == pytest.approx(expected, rel=1e-6)
    assert fair.eps_for(y).tolist() == pytest.approx([EPS * w for w in expected], rel=1e-6)
    assert fair.robust_weight_for(y) is None


def test_the_clamp_of_the_margins_bounds_what_the_weights_then_multiply() -> None:
    fair = FairTAT(2, 0.1, clamp=(0.09, 0.11), weights="even_success", weight_options={"alpha": 0.5})
    label = torch.tensor([0, 0, 1, 1])
    fair.update(torch.eye(2)[torch.tensor([0, 0, 0, 0])], label, 1 - label)
    fair.end_epoch()
    expected = [0.11 * math.exp(0.25), 0.09 * math.exp(-0.25)]
    assert fair.class_eps.tolist() == pytest.approx(expected, rel=1e-6)


def test_weights_do_not_wait_for_begin() -> None:
    fair = FairTAT(CLASSES, EPS, begin=10, weights="cfol")
    run_epoch(fair, 0)
    assert fair.class_eps.unique().numel() == 1
    assert fair.class_weight is not None
    assert fair.class_weight.unique().numel() > 1


@pytest.mark.parametrize("weights", sorted(WEIGHT_OPTIONS))
@pytest.mark.parametrize("stop", ["mid-epoch", "observed", "end"])
def test_resuming_is_as_if_never_interrupted(weights: str, stop: str) -> None:
    def fresh(state: dict[str, Any] | None = None) -> FairTAT:
        fair = FairTAT(CLASSES, EPS, weights=weights, weight_options=WEIGHT_OPTIONS[weights], seed=3)
        if state is not None:
            file = io.BytesIO()
            torch.save(state, file)
            file.seek(0)
            fair.load_state_dict(torch.load(file, weights_only=True))
        return fair

    y = torch.arange(CLASSES)
    straight, fair = fresh(), fresh()
    for epoch in range(4):
        run_epoch(straight, epoch)
        for batch in range(3):
            if (stop, batch) == ("mid-epoch", 1):
                fair = fresh(fair.state_dict())
            logits, label = draw(10 * epoch + batch, 41)
            count(fair, logits, label)
        fair.observe_validation(*validation(epoch))
        if stop == "observed":
            fair = fresh(fair.state_dict())
        fair.end_epoch()
        if stop == "end":
            fair = fresh(fair.state_dict())
        assert same(answers(fair, y), answers(straight, y))
        assert same([fair.sample_targets(y)], [straight.sample_targets(y)])


@pytest.mark.parametrize(("ours", "theirs"), [("frl", "wat"), ("none", "cfol"), ("cfol", "none")])
def test_a_state_with_other_weights_is_refused_and_changes_nothing(ours: str, theirs: str) -> None:
    fair, source = FairTAT(CLASSES, EPS, weights=ours), FairTAT(CLASSES, EPS, weights=theirs)
    run_epoch(fair, 0)
    for epoch in (1, 2):
        run_epoch(source, epoch)
    before = answers(fair, torch.arange(CLASSES))
    with pytest.raises(ValueError, match=f"{ours}.*got {None if theirs == 'none' else repr(theirs)}"):
        fair.load_state_dict(source.state_dict())
    assert fair.epoch == 1
    assert same(answers(fair, torch.arange(CLASSES)), before)


def test_an_epoch_that_needs_validation_keeps_its_counts_until_it_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it get as far as the collective: one process would wait there for the others, or sum its sums again."""
    summed: list[Any] = []
    monkeypatch.setattr("fairtat.fairness.fair_tat.sum_over_processes", summed.append)
    fair = FairTAT(CLASSES, EPS, weights="wat")
    logits, label = draw(0, 41)
    fair.update(logits, label)
    assert fair.needs_validation
    with pytest.raises(ValueError, match="call observe_validation"):
        fair.end_epoch()
    assert not summed
    assert fair.epoch == 0
    assert fair.stats.count.sum() == 41
    fair.observe_validation(*validation(0))
    fair.end_epoch()
    assert len(summed) == 1
    assert fair.last is not None
    assert fair.last.count.sum() == 41


def test_a_rule_of_ones_own_has_a_name_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    class Halve(WeightRule):
        name = "halve"

        def learn(self, train: ClassStats) -> None:
            pass

        def make_factors(self) -> ClassFactors:
            return ClassFactors(weight=self._zeros(self.num_classes) + 0.5)

    monkeypatch.setitem(WEIGHT_RULES, "halve", Halve)
    fair = FairTAT(CLASSES, EPS, weights="halve", weight_options={"warmup": 2})
    for epoch, expected in enumerate([None, None, [0.5] * CLASSES]):
        weight = fair.weight_for(torch.arange(CLASSES))
        assert (None if weight is None else weight.tolist()) == expected
        run_epoch(fair, epoch)


@pytest.mark.parametrize("weights", sorted(WEIGHT_OPTIONS))
def test_a_batch_never_waits_for_the_device(weights: str) -> None:
    """On fake tensors, which have no values, reading one back (.item(), bool(tensor), .tolist()) raises."""
    fair = FairTAT(CLASSES, weights=weights, weight_options=WEIGHT_OPTIONS[weights])
    for epoch in range(1 if weights == "dafa" else 2):  # the next epoch is the one that DAFA measures
        run_epoch(fair, epoch)
    with FakeTensorMode(allow_non_fake_inputs=True):
        y = torch.zeros(8, dtype=torch.int64)
        fair.update(torch.randn(8, CLASSES), y, fair.sample_targets(y))
        given = [answer for answer in answers(fair, y) if answer is not None]
        assert len(given) >= 2
        assert all(isinstance(answer, FakeTensor) for answer in given)


@pytest.mark.parametrize("spoiled", ["clean", "robust"])
def test_validation_that_is_not_finite_is_not_learned_from(spoiled: str) -> None:
    fair = FairTAT(CLASSES, weights="wat")
    stats = dict(zip(("clean", "robust"), validation(0), strict=True))
    stats[spoiled].update(torch.full((1, CLASSES), torch.nan), torch.tensor([2]))
    with pytest.raises(ValueError, match=rf"^{spoiled} validation: .* 1 of \d+ samples of class 2"):
        fair.observe_validation(**stats)
    FairTAT(CLASSES).observe_validation(**stats)  # without a rule nobody looks


@pytest.mark.parametrize("method", ["step_scale_for", "weight_for", "robust_weight_for"])
@pytest.mark.parametrize("weights", ["none", "frl"])
def test_labels_are_checked(method: str, weights: str) -> None:
    fair = FairTAT(CLASSES, weights=weights)
    with pytest.raises(TypeError, match="y must be int64"):
        getattr(fair, method)(torch.zeros(3))


def test_beta_by_hand() -> None:
    fair = FairTAT(4, EPS, lam=0.5, targets="none")
    label = torch.tensor([0, 0, 1, 1, 2])
    assert fair.beta_for(label, 6.0) is None
    fair.update(torch.eye(4)[torch.tensor([0, 0, 1, 2, 1])], label)  # robust accuracy 1, 1/2, 0; none of class 3
    fair.end_epoch()
    y = torch.tensor([3, 0, 1, 2, 2])
    beta, other = fair.beta_for(y, 6.0), fair.beta_for(y, 6.0, lam=0.25)
    assert beta is not None
    assert other is not None
    assert beta.dtype == torch.float32
    assert beta.tolist() == [6.0, 9.0, 6.0, 3.0, 3.0]
    assert other.tolist() == [6.0, 7.5, 4.5, 1.5, 1.5]


def test_beta_waits_for_begin_and_does_not_depend_on_the_margins() -> None:
    fair = FairTAT(CLASSES, EPS, begin=2, margins="fixed", targets="none")
    y = torch.arange(CLASSES)
    run_epoch(fair, 0)
    assert fair.beta_for(y, 6.0) is None
    run_epoch(fair, 1)
    assert fair.last is not None
    beta = fair.beta_for(y, 6.0)
    assert beta is not None
    assert beta.tolist() == pytest.approx([6 * (0.5 + a) for a in fair.last.accuracy.tolist()], rel=1e-6)


@pytest.mark.parametrize(("beta", "lam"), [(-1.0, None), (math.nan, None), (6.0, -0.5)])
def test_a_beta_that_cannot_be_is_an_error(beta: float, lam: float | None) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        FairTAT(CLASSES).beta_for(torch.tensor([0]), beta, lam=lam)


@pytest.mark.parametrize("weights", sorted(WEIGHT_OPTIONS))
def test_a_configuration_makes_the_rule(weights: str) -> None:
    options = {"warmup": 7}
    config = TrainConfig(attack=AttackConfig(), fairness=FairnessConfig(weights=weights, weight_options=options))  # type: ignore[arg-type]
    rule = make_fairness(config, 10).weight_rule
    assert type(rule) is WEIGHT_RULES[weights]
    assert rule.warmup == 7
    assert rule.num_classes == 10
