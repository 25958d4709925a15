from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from fairtat import ClassStats
from fairtat.fairness.margins import MARGIN_RULES, class_radii

EPS = 8 / 255
# Class 3 has no samples, but attracts an error. Targets are reached for samples 3 and 5.
LABEL = [0, 0, 0, 0, 1, 1, 2]
PRED = [0, 0, 0, 1, 1, 3, 2]
TARGET = [1, 2, 3, 1, 0, 3, 0]

SCORES = {
    "G-rob": [3 / 4, 1 / 2, 1.0],
    "G-cfps": [0.0, 1 / 2, 0.0],
    "G-cfns": [1 / 2, 1 / 2, 0.0],
    "T-rob": [1 / 4, 1 / 2, 0.0],
    "T-cfps": [3 / 5, 1 / 5, 1 / 5],
    "T-cfns": [3 / 5, 1 / 5, 1 / 5],
}


@pytest.mark.parametrize("rule", SCORES)
def test_each_rule_by_hand(counted: Any, rule: str) -> None:
    radii = class_radii(counted(4, LABEL, PRED, TARGET), EPS, rule, lam=0.5)
    assert radii.dtype == torch.float64
    expected = [(0.5 + score) * EPS for score in SCORES[rule]] + [EPS]  # an absent class keeps the plain radius
    assert radii.tolist() == pytest.approx(expected, rel=1e-12)


def test_fixed_is_the_plain_radius(counted: Any) -> None:
    assert class_radii(counted(4, LABEL, PRED, TARGET), EPS, "fixed").tolist() == [EPS] * 4


def published_scores(pred: list[int], label: list[int], target: list[int], num_classes: int) -> dict[str, list[float]]:
    """Every score by a loop over samples: `hit` is pred == label for G-, pred == target for T-."""
    scores = {}
    for side, goal in (("G", label), ("T", target)):
        right, fp, fn, n = ([0] * num_classes for _ in range(4))
        for p, k, g in zip(pred, label, goal, strict=True):
            n[k] += 1
            if p == g:
                right[k] += 1
            else:
                fp[p] += 1
                fn[k] += 1
        scores[f"{side}-rob"] = [right[k] / n[k] for k in range(num_classes)]
        scores[f"{side}-cfps"] = [fp[k] / sum(fp) for k in range(num_classes)]
        scores[f"{side}-cfns"] = [fn[k] / sum(fn) for k in range(num_classes)]
    return scores


@pytest.mark.parametrize("rule", [name for name in MARGIN_RULES if name != "fixed"])
def test_each_rule_is_that_of_a_loop_over_imbalanced_samples(counted: Any, rule: str) -> None:
    generator = torch.Generator().manual_seed(3)
    label = ((torch.rand(311, generator=generator) ** 3) * 5).long()
    pred = torch.randint(5, (311,), generator=generator)
    target = (label + torch.randint(1, 5, (311,), generator=generator)) % 5
    lists = pred.tolist(), label.tolist(), target.tolist()
    expected = [(0.3 + score) * 0.1 for score in published_scores(*lists, num_classes=5)[rule]]
    radii = class_radii(counted(5, lists[1], lists[0], lists[2]), 0.1, rule, lam=0.3)
    assert radii.tolist() == pytest.approx(expected, rel=1e-12)


def test_several_rules_are_averaged_or_the_smallest_wins(counted: Any) -> None:
    stats = counted(4, LABEL, PRED, TARGET)
    rules = ["G-rob", "G-cfns", "T-rob"]
    each = [class_radii(stats, EPS, rule).tolist() for rule in rules]
    average = class_radii(stats, EPS, rules, combine="avg").tolist()
    smallest = class_radii(stats, EPS, rules, combine="min").tolist()
    assert average == pytest.approx([sum(radii) / 3 for radii in zip(*each, strict=True)], rel=1e-12)
    assert smallest == [min(radii) for radii in zip(*each, strict=True)]


def test_clamp_is_in_pixels_and_bounds_only_what_the_rules_give(counted: Any) -> None:
    stats = counted(4, LABEL, PRED, TARGET)
    radii = class_radii(stats, EPS, "G-rob", clamp=(9 / 255, 10.5 / 255))
    # (0.5 + A) * 8/255 = 10, 8 and 12 /255; the absent class keeps the plain 8/255.
    assert radii.tolist() == pytest.approx([10 / 255, 9 / 255, 10.5 / 255, 8 / 255], rel=1e-12)
    assert class_radii(stats, EPS, "fixed", clamp=(9 / 255, 10 / 255)).tolist() == [EPS] * 4


def test_samples_without_a_target_do_not_count_for_target_relative_rules(counted: Any) -> None:
    stats = counted(4, LABEL, PRED, TARGET)
    untargeted = ClassStats(4).update(torch.eye(4)[[3, 3]], torch.tensor([0, 3]))
    alone = [class_radii(stats, EPS, rule) for rule in ("T-rob", "T-cfps", "T-cfns")]
    stats += untargeted
    for rule, expected in zip(("T-rob", "T-cfps", "T-cfns"), alone, strict=True):
        assert torch.equal(class_radii(stats, EPS, rule), expected)
        assert class_radii(untargeted, EPS, rule).tolist() == [EPS] * 4


def test_a_class_that_only_one_of_two_rules_can_score_is_clamped() -> None:
    stats = ClassStats(2).update(torch.eye(2), torch.tensor([0, 1]))  # all right, without targets
    radii = class_radii(stats, EPS, ["G-rob", "T-rob"], lam=0.5, clamp=(0.0, 9 / 255))
    assert radii.tolist() == pytest.approx([9 / 255] * 2, rel=1e-12)  # the average of 12 and 8 is 10


@pytest.mark.parametrize("rule", ["G-cfps", "G-cfns", "T-cfps", "T-cfns"])
def test_without_errors_shares_leave_lambda_eps(counted: Any, rule: str) -> None:
    stats = counted(2, [0, 1], [0, 1], [0, 1])
    assert class_radii(stats, EPS, rule, lam=0.5).tolist() == [0.5 * EPS] * 2


def test_no_samples_at_all_leave_the_plain_radius() -> None:
    for rule in MARGIN_RULES:
        assert class_radii(ClassStats(3), EPS, rule).tolist() == [EPS] * 3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"margins": "G-robb"}, ValueError, "did you mean 'G-rob'"),
        ({"margins": ["G-rob", "T-cfnp"]}, ValueError, "'T-cfnp'; did you mean 'T-cf[np]s'"),
        ({"margins": []}, ValueError, "at least one of fixed, G-rob"),
        ({"margins": 3}, TypeError, "margins must be the name"),
        ({"combine": "max"}, ValueError, "combine must be one of 'avg', 'min', got 'max'"),
        ({"lam": -0.1}, ValueError, "lam must be finite and >= 0.0, got -0.1"),
        ({"eps": -1.0}, ValueError, "eps must be finite and >= 0.0, got -1.0"),
        ({"eps": math.nan}, ValueError, "eps must be finite"),
        ({"eps": "8"}, TypeError, "eps must be a real number, got '8'"),
        ({"clamp": (0.2, 0.1)}, ValueError, "low <= high"),
        ({"clamp": (-0.2, 0.1)}, ValueError, "clamp must be finite and >= 0.0, got -0.2"),
        ({"clamp": (0.1,)}, TypeError, "pair"),
        ({"clamp": 0.1}, TypeError, "pair"),
    ],
)
def test_settings_that_cannot_be_are_errors(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        class_radii(ClassStats(3), **{"eps": EPS, **options})


def test_each_rule_has_its_own_constant_and_scale(counted: Any) -> None:
    """The published rule of false positives: (lambda_c + 2 CFPS_k) eps, beside (lambda_r + A_k) eps."""
    stats = counted(4, LABEL, PRED, TARGET)
    radii = class_radii(stats, EPS, ["G-rob", "G-cfps"], lam=[0.5, 0.4], scale=[1.0, 2.0])
    expected = [
        (0.5 + rob + 0.4 + 2 * share) / 2 * EPS for rob, share in zip(SCORES["G-rob"], SCORES["G-cfps"], strict=True)
    ]
    assert radii.tolist() == pytest.approx([*expected, EPS], rel=1e-12)
    one = class_radii(stats, EPS, "G-cfps", lam=0.5, scale=2.0)
    assert one.tolist() == pytest.approx([0.5 * EPS, 1.5 * EPS, 0.5 * EPS, EPS], rel=1e-12)


@pytest.mark.parametrize("margins", ["G-rob", ["G-rob", "T-cfps"], "fixed"])
@pytest.mark.parametrize("combine", ["avg", "min"])
def test_the_mean_radius_of_the_samples_is_kept(counted: Any, margins: Any, combine: str) -> None:
    stats = counted(4, LABEL, PRED, TARGET)
    free = class_radii(stats, EPS, margins, combine=combine).tolist()
    kept = class_radii(stats, EPS, margins, combine=combine, mean_eps="keep").tolist()
    assert sum(kept[k] for k in LABEL) / len(LABEL) == pytest.approx(EPS, rel=1e-12)
    assert [a / b for a, b in zip(kept, free, strict=True)] == pytest.approx([kept[0] / free[0]] * 4, rel=1e-12)


def test_a_mean_of_zero_stays(counted: Any) -> None:
    stats = counted(3, [0, 1, 2], [1, 2, 0])  # never right
    assert class_radii(stats, EPS, "G-rob", lam=0.0, mean_eps="keep").tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"lam": [0.5]}, r"lam must be a number or one for each of 2 margins, got \[0.5\]"),
        ({"scale": [1, -1]}, "scale must be finite and >= 0.0, got -1"),
        ({"mean_eps": "kept"}, "did you mean 'keep'"),
        ({"mean_eps": "keep", "clamp": (0.0, 0.1)}, "mean_eps must be 'free' with a clamp"),
    ],
)
def test_constants_scales_and_means_out_of_range(counted: Any, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        class_radii(counted(4, LABEL, PRED, TARGET), EPS, ["G-rob", "G-cfps"], **options)
