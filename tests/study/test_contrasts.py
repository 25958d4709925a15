"""Contrasts against numbers worked out by hand, and on made-up results whose truth is known."""

from __future__ import annotations

import base64
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import integrate

from fairtat.files import sealed_json
from fairtat.study import Results, contrast_outcomes, load_study
from fairtat.study.contrasts import _Resampled, curve_bands, curve_difference, holm
from fairtat.study.results import FORMAT, Entry
from tests.study.test_plan import written

LABELS = np.repeat(np.arange(4), [40, 60, 50, 70])


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.01, None, 0.03]) == pytest.approx([0.06, 0.03, None, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([None]) == [None]


def test_the_distance_of_two_curves_is_the_area_between_them() -> None:
    random = np.random.default_rng(0)
    x, against_x = np.array([0.2, 0.9, 0.5]), np.array([0.4, 0.7, 1.0])
    y, against_y = random.random(3), random.random(3)
    order = np.argsort(x)
    area, _ = integrate.quad(
        lambda t: np.interp(t, x[order], y[order]) - np.interp(t, against_x, against_y), 0.4, 0.9, points=[0.5, 0.7]
    )
    assert curve_difference(x, y, against_x, against_y) == pytest.approx(area / 0.5)


def test_a_point_is_compared_at_its_own_place_and_curves_apart_at_their_nearest_ends() -> None:
    point = (np.array([0.5]), np.array([0.3]))
    curve = (np.array([0.4, 0.8]), np.array([0.6, 0.2]))
    assert curve_difference(*point, *curve) == pytest.approx(0.3 - 0.5)
    assert curve_difference(*curve, *point) == pytest.approx(0.5 - 0.3)
    assert curve_difference(np.array([0.1, 0.2]), np.array([0.3, 0.5]), *curve) == pytest.approx(0.5 - 0.6)
    assert curve_difference(*curve, np.array([0.9]), np.array([0.3])) == pytest.approx(0.2 - 0.3)


def made(
    folder: Path, accuracy: Any, seeds: int = 4, change: tuple[tuple[str, str], ...] = (), stream: int = 7
) -> Results:
    """Results whose models are right with probability ``accuracy(arm, factor, seed, condition)`` (C,)."""
    study = load_study(written(folder, ("seeds: 2", f"seeds: {seeds}"), *change))
    random = np.random.default_rng(stream)
    cells = {}
    for cell in study.cells():
        correct = {}
        for condition in ("clean", "robust", "pgd-5", "cw-5"):
            share = np.asarray(accuracy(cell.arm.name, cell.factor, cell.seed, condition))
            bits = random.random(len(LABELS)) < np.broadcast_to(share, (4,))[LABELS]
            correct[condition] = base64.b64encode(np.packbits(bits).tobytes()).decode()
        cells[cell.name] = {"correct": correct, "radius": 0.15 * cell.factor, "seconds": 1.0}
    content = {
        "format": FORMAT,
        "study": study.name,
        "judge": {"attacks": ["pgd-5", "cw-5"], "eps": 0.15, "norm": "linf", "checkpoint": "last"},
        "class_names": list("abcd"),
        "labels": base64.b64encode(LABELS.astype("<u2").tobytes()).decode(),
        "settings": {},
        "cells": cells,
    }
    (folder / "results.json").write_bytes(sealed_json(content))
    return Results(study, folder / "results.json")


ALONG = {0.5: (0.9, 0.3), 1.0: (0.8, 0.5), 2.0: (0.6, 0.6)}


def test_an_arm_on_the_other_ones_curve_differs_at_equal_factor_and_not_at_equal_clean_accuracy(tmp_path: Path) -> None:
    """The confound that the tool is for: a method that acts as a smaller radius does."""

    def accuracy(arm: str, factor: float, seed: int, condition: str) -> float:
        clean, robust = (0.85, 0.4) if arm == "fairtat" else ALONG[factor]
        return clean if condition == "clean" else robust

    change = (("figure: robust worst", "figure: robust average"), ("figure: clean average", "figure: robust average"))
    along, at_factor = contrast_outcomes(made(tmp_path, accuracy, 6, change), draws=800)
    assert at_factor.clear
    assert at_factor.difference == pytest.approx(-10, abs=5)
    assert at_factor.interval[1] < 0
    assert not along.clear
    assert along.interval[0] < 0 < along.interval[1]
    assert along.seeds == 6


def test_the_same_arm_twice_differs_by_nothing(tmp_path: Path) -> None:
    results = made(tmp_path, lambda *_: 0.7)
    content = results._content["cells"]
    for seed in range(4):
        content[f"fairtat@1-{seed}"] = content[f"at@1-{seed}"]
    _, same = contrast_outcomes(results, draws=200)
    assert (same.difference, same.interval, same.p_value, same.equivalent, same.clear) == (0, (0, 0), 1, True, False)


def test_what_cannot_be_told_says_why(tmp_path: Path) -> None:
    apart = made(tmp_path, lambda arm, factor, seed, condition: 0.2 if arm == "fairtat" else ALONG[factor][0])
    along, at_factor = contrast_outcomes(apart, draws=100)
    assert (along.difference, along.holm) == (None, None)
    assert along.why_not == "the curves have no clean accuracy in common"
    assert at_factor.difference is not None
    del apart._content["cells"]["at@2-0"]
    assert contrast_outcomes(apart, draws=100)[1].seeds == 3
    for seed in range(1, 4):
        del apart._content["cells"][f"at@2-{seed}"]
    assert contrast_outcomes(apart, draws=100)[1].why_not == "no seed of both arms is complete"


def test_one_seed_resamples_the_images_alone_as_the_paired_bootstrap_does(tmp_path: Path) -> None:
    results = made(tmp_path, lambda arm, *_: 0.75 if arm == "fairtat" else 0.7, 1)
    (_, outcome) = contrast_outcomes(results, draws=4000)
    first, second = (next(e for e in results.entries() if (e.arm, e.factor) == (arm, 1)) for arm in ("fairtat", "at"))
    difference = first.correct["clean"].astype(float) - second.correct["clean"]
    shares = np.bincount(LABELS) / len(LABELS)
    variance = sum(share**2 * difference[k == LABELS].var() / (k == LABELS).sum() for k, share in enumerate(shares))
    assert outcome.difference == pytest.approx(100 * difference.mean())
    half = (outcome.interval[1] - outcome.interval[0]) / 2
    assert half == pytest.approx(196 * math.sqrt(variance), rel=0.08)


@pytest.mark.slow
@pytest.mark.parametrize("part", [1.0, 0.4])
def test_intervals_cover_the_truth_about_as_often_as_they_say(tmp_path: Path, part: float) -> None:
    """Seeds that scatter by 4 points: 95% intervals of 5 seeds hold the true difference of 5 points.

    With 220 images, and with a subset of them under an attack that is too slow for all.
    """
    random = np.random.default_rng(3)
    held = 0
    rounds = 120
    results = made(tmp_path, lambda *_: 0.5, 5)
    entries = results.entries()
    subset = random.random(len(LABELS)) < part
    for number in range(rounds):
        for entry in entries:
            share = (0.75 if entry.arm == "fairtat" else 0.7) + 0.04 * random.standard_normal()
            entry.correct["clean"] = np.where(subset, random.random(len(LABELS)) < share, np.nan)
        stand_in: Any = SimpleNamespace(
            study=results.study, entries=lambda: entries, labels=LABELS, class_names=results.class_names, subset=subset
        )
        (_, outcome) = contrast_outcomes(stand_in, draws=400, seed=number)
        held += outcome.interval[0] <= 5 <= outcome.interval[1]
    assert 0.88 * rounds <= held


def test_figures_of_a_subset_are_resampled_with_the_images_that_it_has(tmp_path: Path) -> None:
    """The resampled accuracies of every class, beside those of drawing from the subset and the rest one by one."""
    random = np.random.default_rng(5)
    results = made(tmp_path, lambda *_: 0.5, 1)
    subset = random.random(len(LABELS)) < 0.3
    clean = random.random(len(LABELS)) < 0.6
    slow = np.where(subset, clean & (random.random(len(LABELS)) < 0.5), np.nan)
    stand_in: Any = SimpleNamespace(labels=LABELS, class_names=results.class_names, subset=subset)
    entry = Entry("at", 1.0, 0, {"clean": clean, "slow": slow}, 0.1, {})
    drawn = _Resampled(stand_in, 4000, 0)
    found = [drawn.figure(entry, name, "average") for name in ("clean", "slow")]
    share = np.bincount(LABELS) / len(LABELS)
    expected: list[list[float]] = [[], []]
    for _ in range(4000):
        figures = np.zeros(2)
        for k in range(4):
            parts = [np.flatnonzero(part & (k == LABELS)) for part in (subset, ~subset)]
            again = [random.choice(part, len(part)) for part in parts]
            figures += share[k] * np.array([clean[np.concatenate(again)].mean(), slow[again[0]].mean()])
        for values, figure in zip(expected, figures, strict=True):
            values.append(float(figure))
    by_class = [np.mean(slow[subset & (k == LABELS)]) for k in range(4)]
    assert [found[0][0], found[1][0]] == pytest.approx([clean.mean(), float(share @ by_class)])
    np.testing.assert_allclose(np.mean(found, axis=1), np.mean(expected, axis=1), atol=0.005)
    np.testing.assert_allclose(np.cov([each[1:] for each in found]), np.cov(expected), rtol=0.12)


def test_a_band_covers_the_curve_and_little_else(tmp_path: Path) -> None:
    def accuracy(arm: str, factor: float, seed: int, condition: str) -> float:
        clean = {0.5: 0.9, 1.0: 0.75, 2.0: 0.6}[factor]
        return clean if condition == "clean" else 1.2 - clean

    figure, covered, wide = ("robust", "average"), [], []
    for stream in range(20):
        bands = curve_bands(made(tmp_path, accuracy, 4, stream=stream), (figure, ("robust", "worst")), draws=200)
        assert set(bands) == {("at", figure), ("at", ("robust", "worst"))}  # one factor draws no curve
        x, low, high = bands["at", figure]
        covered.append(np.mean((low <= 120 - x) & (120 - x <= high)))
        wide.append(np.mean(high - low))
    assert np.mean(covered) > 0.9
    # Four models of 220 images each, at 45%: seeds and images are resampled, so each counts their scatter.
    deviation = 100 * math.sqrt(0.45 * 0.55 / 220 / 4)
    assert 2 * deviation < np.mean(wide) < 8 * deviation


def test_a_band_lies_around_the_curve_of_the_worst_class_and_needs_complete_seeds(tmp_path: Path) -> None:
    """Of four equal classes resampling lowers the worst, whose curve would leave the band above."""
    worst = ("robust", "worst")
    results = made(tmp_path, lambda arm, factor, seed, condition: ALONG[factor][condition != "clean"], 4)
    x, low, high = curve_bands(results, [worst], draws=200)["at", worst]
    curves = []
    for seed in range(4):
        curve = sorted((e for e in results.entries() if (e.arm, e.seed) == ("at", seed)), key=lambda e: -e.factor)
        classes = {
            c: [[e.correct[c][k == LABELS].mean() for k in range(4)] for e in curve] for c in ("clean", "robust")
        }
        clean = 100 * np.array(classes["clean"]) @ (np.bincount(LABELS) / len(LABELS))
        curves.append(np.interp(x, clean, 100 * np.array(classes["robust"]).min(axis=1)))
    mean = np.mean(curves, axis=0)
    assert ((low < mean) & (mean < high)).all()
    assert np.abs((low + high) / 2 - mean).max() < 0.25 * (high - low).min()
    for seed in range(4):
        del results._content["cells"][f"at@2-{seed}"]
    assert curve_bands(results, [worst], draws=20) == {}
