"""Sets of runs that differ in their seeds, against numbers worked out by hand and truths that are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from fairtat.errors import UserError
from fairtat.evaluation import AttackSettings, ClassFigures, Condition, Evaluation, Predictions, Samples
from fairtat.study.contrasts import holm
from fairtat.study.sets import outcome_dict, set_outcomes, sets_of
from fairtat.training.config import TrainConfig, from_dict

LABEL = np.repeat(np.arange(3), [40, 30, 50])
MAIN = AttackSettings("pgd", 8 / 255, step_size=2 / 255)


def config(seed: int, epochs: int = 1) -> TrainConfig:
    return from_dict({"data": {"name": "digits"}, "model": {"name": "mlp"}, "epochs": epochs, "seed": seed})


def judged(share: Sequence[float], seed: int) -> Evaluation:
    """Right under attack with a probability for each class; always right without."""
    right = np.random.default_rng(seed).random(len(LABEL)) < np.asarray(share)[LABEL]
    pred = {"clean": LABEL, MAIN.name: np.where(right, LABEL, (LABEL + 1) % 3)}
    outcomes = {
        name: Predictions(p.astype(np.int32), np.zeros(len(p), np.float32), np.ones(len(p), bool))
        for name, p in pred.items()
    }
    conditions = [
        Condition(name, "clean" if name == "clean" else "attack", None if name == "clean" else MAIN,
                  ClassFigures.of(LABEL, p, 3))
        for name, p in pred.items()
    ]  # fmt: skip
    samples = Samples.of(np.arange(len(LABEL)), LABEL, outcomes, MAIN.name)
    return Evaluation(("a", "b", "c"), tuple(conditions), MAIN.name, samples)


def made(shares: dict[str, Sequence[float]], seeds: dict[str, Sequence[int]]) -> dict[str, list]:
    return {
        name: [(config(seed, 1 + k), judged(share, 100 * k + seed)) for seed in seeds[name]]
        for k, (name, share) in enumerate(shares.items())
    }


SHARES = {"at": (0.3, 0.6, 0.7), "fair": (0.45, 0.6, 0.65), "other": (0.3, 0.6, 0.7)}


def test_differences_are_means_over_the_seeds_that_both_have() -> None:
    sets = made(SHARES, {"at": (0, 1, 2, 5), "fair": (2, 1, 0), "other": (1, 2, 7)})
    _, outcomes = set_outcomes(sets, ["robust worst", "robust average", "robust gini"], draws=300)
    assert [(o.contrast.figure, o.seeds) for o in outcomes] == [
        (figure, 3 if k == 0 else 2) for k in range(2) for figure in ("robust worst", "robust average", "robust gini")
    ]
    by_seed = {name: {c.seed: e.robust for c, e in runs} for name, runs in sets.items()}
    for outcome, name in zip(outcomes, ("fair",) * 3 + ("other",) * 3, strict=True):
        common = sorted(set(by_seed["at"]) & set(by_seed[name]))
        of = {
            "robust worst": lambda f: f.worst[1],
            "robust average": lambda f: f.average,
            "robust gini": lambda f: f.gini,
        }[outcome.contrast.figure]
        expected = np.mean([of(by_seed[name][s]) - of(by_seed["at"][s]) for s in common])
        assert outcome.difference == pytest.approx(100 * expected)
        low, high = outcome.interval
        assert low <= outcome.difference <= high


def test_p_values_are_corrected_over_all_sets_and_figures() -> None:
    sets = made(SHARES, dict.fromkeys(SHARES, (0, 1, 2)))
    _, outcomes = set_outcomes(sets, ["robust worst", "robust average"], draws=300)
    assert [o.holm for o in outcomes] == holm([o.p_value for o in outcomes])


def test_a_set_against_its_double_differs_by_nothing() -> None:
    sets = made(SHARES, dict.fromkeys(SHARES, (0, 1, 2)))
    sets["fair"] = [(config(c.seed, 9), e) for c, e in sets["at"]]
    _, outcomes = set_outcomes(sets, ["robust worst"], draws=300)
    assert (outcomes[0].difference, outcomes[0].interval, outcomes[0].p_value) == (0.0, (0.0, 0.0), 1.0)
    assert outcomes[0].equivalent


@pytest.mark.slow
def test_the_interval_is_that_of_resampling_runs_and_images_one_by_one() -> None:
    """The crossed bootstrap by hand: images within their classes, the same for all runs, and seeds in pairs."""
    sets = made({name: SHARES[name] for name in ("at", "fair")}, {"at": range(4), "fair": range(4)})
    _, (outcome,) = set_outcomes(sets, ["robust worst"], draws=4000)
    correct = {
        name: np.array([e.samples.correct("robust") for _, e in sorted(runs, key=lambda run: run[0].seed)])
        for name, runs in sets.items()
    }
    random, drawn = np.random.default_rng(9), []
    members = [np.flatnonzero(k == LABEL) for k in range(3)]
    for _ in range(4000):
        images = [random.choice(of, len(of)) for of in members]
        worst = {n: np.array([[row[i].mean() for i in images] for row in c]).min(1) for n, c in correct.items()}
        difference = worst["fair"] - worst["at"]
        mean = difference.mean()
        drawn.append(mean + np.sqrt(4 / 3) * (random.choice(difference, 4).mean() - mean))
    expected = 100 * np.percentile(drawn, (2.5, 97.5))
    scatter = 100 * np.std(drawn)
    assert outcome.interval == pytest.approx(tuple(expected), abs=0.15 * scatter)


def test_runs_with_equal_settings_are_a_set_whatever_their_order() -> None:
    runs = {"fair-1": config(1, 2), "at-0": config(0), "at-1": config(1), "fair-0": config(0, 2)}
    assert sets_of(runs) == {"fair": ["fair-1", "fair-0"], "at": ["at-0", "at-1"]}
    assert list(sets_of({"x/seed3": config(3), "y/seed3": config(3, 2)})) == ["x", "y"]
    assert list(sets_of({"run7": config(0), "run8": config(0, 2)})) == ["run #1", "run #2"]


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ({"a": config(0), "b": config(1)}, "all 2 runs have the same settings but for the seed; expected two sets"),
        ({"a": config(0), "b": config(0)}, "a and b have the same settings and seed 0; expected other seeds"),
        ({"a": config(0), "b": config(1, 2)}, r"no seed in common, so there are no pairs \(a: \[0\]; b: \[1\]\)"),
    ],
)
def test_what_makes_no_pairs_is_told(runs: dict[str, TrainConfig], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sets_of(runs)


def test_the_folder_and_speed_of_a_run_do_not_make_another_set() -> None:
    runs = {"a-0": replace(config(0), output="x", threads=1), "a-1": replace(config(1), output="y"), "b": config(0, 2)}
    assert list(sets_of(runs).values()) == [["a-0", "a-1"], ["b"]]


def test_unknown_figures_are_told_and_outcomes_are_json() -> None:
    import json

    sets = made({name: SHARES[name] for name in ("at", "fair")}, {"at": (0,), "fair": (0,)})
    for figure in ("robust median", "pgd-7 worst", "worst"):
        with pytest.raises(UserError, match=f"figure is '{figure}'; expected one of robust, clean, pgd-20 and one of"):
            set_outcomes(sets, [figure])
    found, outcomes = set_outcomes(sets, ["clean average"], draws=50)
    values = json.loads(json.dumps(outcome_dict(outcomes[0], found.study), allow_nan=False))
    assert (values["set"], values["against"], values["difference"], values["seeds"]) == ("fair", "at", 0.0, 1)
