"""What holds for every rule: warm-up, memory, and weights that an optimiser can live with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from epochs import saved_and_loaded
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from fairtat import ClassStats
from fairtat.fairness import WEIGHT_RULES, ClassFactors, WeightRule, make_weights

CLASSES = 5
OPTIONS: dict[str, dict[str, Any]] = {
    "dafa": {"warmup": 2, "lam": 1.5},
    "frl": {"tau1": 0.02, "tau2": 0.02, "alpha1": 0.5, "alpha2": 0.5},
    "wat": {"eta": 1.0},
    "cfol": {"eta": 2.0},
    "fair_ard": {"clamp": [0.1, 10.0]},
    "even_success": {"alpha": 0.5},
}
RULES = sorted(OPTIONS)
VALIDATION_RULES = ["frl", "wat"]


def make(name: str, **options: Any) -> WeightRule:
    rule = make_weights(name, CLASSES, {**OPTIONS[name], **options})
    assert rule is not None
    return rule


def same(a: ClassFactors, b: ClassFactors) -> bool:
    return all((x is None and y is None) or torch.equal(x, y) for x, y in zip(a, b, strict=True))  # type: ignore[arg-type]


def test_every_rule_is_covered_here() -> None:
    assert set(OPTIONS) == set(WEIGHT_RULES)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("warmup", [1, 3])
def test_nothing_is_weighted_during_the_warm_up(name: str, warmup: int, make_epoch: Any) -> None:
    rule = make(name, warmup=warmup)
    for epoch in range(warmup):
        assert rule.factors == ClassFactors()
        make_epoch(epoch).run(rule)
    assert any(factor is not None and factor.unique().numel() > 1 for factor in rule.factors)


@pytest.mark.parametrize("name", RULES)
def test_only_the_last_epoch_of_the_warm_up_counts(name: str, make_epoch: Any) -> None:
    rule, other = make(name, warmup=3), make(name, warmup=3)
    for epoch in (0, 1, 2):
        make_epoch(epoch).run(rule)
    for epoch in (7, 8, 2):
        make_epoch(epoch).run(other)
    assert same(rule.factors, other.factors)


@pytest.mark.parametrize("name", RULES)
def test_factors_are_positive_and_finite_however_long_it_goes_on(name: str, make_epoch: Any) -> None:
    rule = make(name)
    for _ in range(200):
        make_epoch(0).run(rule)
    for factor in rule.factors:
        assert factor is None or (factor.dtype == torch.float64 and factor.shape == (CLASSES,))
        assert factor is None or (factor.isfinite().all() and (factor > 0).all())


@pytest.mark.parametrize("name", ["frl", "wat", "cfol"])
def test_loss_weights_average_to_one(name: str, make_epoch: Any) -> None:
    """So a rule moves weight between classes and leaves the effective learning rate alone."""
    rule = make(name)
    for epoch in range(6):
        make_epoch(epoch).run(rule)
    assert rule.factors.weight is not None
    assert rule.factors.robust_weight is not None
    assert rule.factors.weight.mean().item() == pytest.approx(1.0, rel=1e-12)
    assert rule.factors.robust_weight.mean().item() == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("stop", ["start", "mid-epoch", "observed", "end"])
@pytest.mark.parametrize("stopped_epoch", [0, 1, 2])
def test_resuming_is_as_if_never_interrupted(name: str, stop: str, stopped_epoch: int, make_epoch: Any) -> None:
    straight = make(name)
    for number in range(4):
        make_epoch(number).run(straight)

    rule = make(name)

    def interrupt(here: str, number: int) -> None:
        nonlocal rule
        if (here, number) == (stop, stopped_epoch):
            state = saved_and_loaded(rule.state_dict())
            rule = make(name)
            rule.load_state_dict(state)

    for number in range(4):
        epoch = make_epoch(number)
        interrupt("start", number)
        for batch, (logits, label) in enumerate(epoch.batches):
            if batch == 2:
                interrupt("mid-epoch", number)
            epoch.tell(rule, logits, label)
        rule.observe_validation(epoch.clean, epoch.robust)
        interrupt("observed", number)
        rule.end_epoch(epoch.train)
        interrupt("end", number)
    assert same(rule.factors, straight.factors)
    for key in rule.memory:
        assert torch.equal(getattr(rule, key), getattr(straight, key))


@pytest.mark.parametrize("name", RULES)
def test_a_state_is_a_copy(name: str, make_epoch: Any) -> None:
    rule = make(name)
    make_epoch(0).run(rule)
    epoch = make_epoch(1)
    epoch.tell(rule, *epoch.batches[0])
    rule.observe_validation(epoch.clean, epoch.robust)
    state = rule.state_dict()
    before = saved_and_loaded(state)
    epoch.run(rule)
    restored = make(name)
    restored.load_state_dict(state)
    epoch.run(restored)
    assert str(state) == str(before)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rule": "other"}, ValueError, "must be one of the rule '{name}', got 'other'"),
        ({"num_classes": 4}, ValueError, "num_classes=5, got 4"),
        ({"epoch": -1}, ValueError, "epoch must be an int and >= 0, got -1"),
        ({"extra": 0}, ValueError, r"unexpected \['extra'\]"),
        ({"{memory}": 3}, TypeError, "{memory} must be a tensor, got int"),
        ({"{memory}": torch.zeros(3)}, ValueError, r"{memory} must be .* got torch.float32 of shape \(3,\)"),
    ],
)
def test_a_wrong_state_is_an_error_and_changes_nothing(
    name: str, change: dict[str, Any], error: type[Exception], message: str, make_epoch: Any
) -> None:
    rule, source = make(name), make(name)
    for number in range(2):
        make_epoch(number).run(rule)
        make_epoch(number + 5).run(source)
    before = rule.factors
    change = {key.format(memory=rule.memory[0]): value for key, value in change.items()}
    with pytest.raises(error, match=message.format(name=name, memory=rule.memory[0])):
        rule.load_state_dict({**source.state_dict(), **change})
    assert same(rule.factors, before)
    assert rule.epoch == 2


@pytest.mark.parametrize("name", VALIDATION_RULES)
def test_a_wrong_observation_in_a_state_changes_nothing(name: str, make_epoch: Any) -> None:
    rule, source = make(name), make(name)
    make_epoch(0).run(rule)
    epoch = make_epoch(1)
    source.observe_validation(epoch.clean, epoch.robust)
    state = source.state_dict()
    state["observed"]["robust"] = ClassStats(3).state_dict()
    before = rule.factors
    with pytest.raises(ValueError, match="num_classes=5, got 3"):
        rule.load_state_dict(state)
    assert same(rule.factors, before)
    assert rule.epoch == 1


@pytest.mark.parametrize("name", VALIDATION_RULES)
def test_an_epoch_that_needs_validation_does_not_end_without_it(name: str, make_epoch: Any) -> None:
    rule, epoch = make(name, warmup=2), make_epoch(0)
    assert not rule.needs_validation
    rule.end_epoch(epoch.train)
    assert rule.needs_validation
    with pytest.raises(ValueError, match=f"validation statistics of epoch 1 for weights='{name}'"):
        rule.end_epoch(epoch.train)
    assert rule.epoch == 1
    rule.observe_validation(epoch.clean, epoch.robust)
    rule.end_epoch(epoch.train)
    assert rule.epoch == 2
    with pytest.raises(ValueError, match="epoch 2"):
        rule.end_epoch(epoch.train)


@pytest.mark.parametrize("name", VALIDATION_RULES)
def test_observed_statistics_may_be_reset_by_their_owner_and_observed_again(name: str, make_epoch: Any) -> None:
    rule, once, epoch, other = make(name), make(name), make_epoch(0), make_epoch(1)
    rule.observe_validation(other.clean, other.robust)
    rule.observe_validation(epoch.clean, epoch.robust)
    once.observe_validation(epoch.clean, epoch.robust)
    epoch.clean.reset()
    epoch.robust.reset()
    rule.end_epoch(epoch.train)
    once.end_epoch(epoch.train)
    assert same(rule.factors, once.factors)
    assert rule.factors.weight is not None
    assert rule.factors.weight.unique().numel() > 1


@pytest.mark.parametrize("name", VALIDATION_RULES)
def test_observations_are_checked(name: str) -> None:
    rule = make(name)
    with pytest.raises(TypeError, match="robust must be ClassStats, got Tensor"):
        rule.observe_validation(ClassStats(CLASSES), torch.zeros(CLASSES))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="clean must have num_classes=5, got 3"):
        rule.observe_validation(ClassStats(3), ClassStats(CLASSES))


@pytest.mark.parametrize("name", RULES)
def test_an_epoch_without_samples_leaves_finite_factors(name: str) -> None:
    rule = make(name, warmup=1)
    rule.observe_validation(ClassStats(CLASSES), ClassStats(CLASSES))
    rule.end_epoch(ClassStats(CLASSES))
    for factor in rule.factors:
        assert factor is None or factor.tolist() == pytest.approx([1.0] * CLASSES, rel=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_no_rule_waits_for_the_device(name: str) -> None:
    """On fake tensors, which have no values, reading one back (.item(), bool(tensor), .tolist()) raises."""
    with FakeTensorMode():
        rule = make(name, warmup=1)
        train, clean, robust = (ClassStats(CLASSES) for _ in range(3))
        for _ in range(2):
            rule.update(torch.randn(8, CLASSES), torch.zeros(8, dtype=torch.int64))
            rule.observe_validation(clean, robust)
            rule.end_epoch(train)
        assert any(isinstance(factor, FakeTensor) for factor in rule.factors)
