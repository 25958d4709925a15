"""A budget that ends midway, and the time that is left, on a clock that moves by a second per batch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clocks import Clock
from torch import Tensor, nn

from fairtat.errors import UserError
from fairtat.evaluation import Evaluation, evaluate, progress
from fairtat.evaluation.attacks.classifier import Classifier
from fairtat.evaluation.budget import BUDGET, seconds
from fairtat.evaluation.cache import answers
from fairtat.evaluation.merge import added_to
from fairtat.evaluation.progress import Standing

Data = tuple[Tensor, Tensor]
BATCH = 10
"""53 images: 6 batches of clean ones."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A batch takes a second, of clean images and under any attack."""
    clock = Clock()
    for module in (answers, progress, sys.modules["fairtat.evaluation.evaluate"]):
        monkeypatch.setattr(module, "time", clock)

    def slow(name: str) -> None:
        plain = getattr(Classifier, name)

        def batch(self: Classifier, *given: Any) -> Any:
            clock.now += 1
            return plain(self, *given)

        monkeypatch.setattr(Classifier, name, batch)

    for name in ("judge", "attack", "attack_towards"):
        slow(name)
    return clock


def ask(net: nn.Module, data: Data, *attacks: str, **options: Any) -> Evaluation:
    return evaluate(net, *data, attacks=attacks, eps=0.04, batch_size=BATCH, check_sanity=False, **options)


def test_an_attack_that_is_cut_short_is_an_upper_bound_and_the_rest_is_left_out(
    net: nn.Module, data: Data, clock: Clock, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"eps_sweep": [0.02, 0.04], "targeted": "pgd-2", "cache": tmp_path / "parts"}
    began = clock.now
    cut = ask(net, data, "pgd-3", "fgsm", budget=8.5, **options)
    assert clock.now - began == 8  # six batches of clean images and two under attack
    right = int(sum(cut.clean.correct))
    assert [(each.condition, each.attack, each.images, each.kept) for each in cut.untried] == [
        ("pgd-3", "PGD-3", right - 2 * BATCH, True),
        ("fgsm", "FGSM", right, False),
        ("pgd-3@0.02", "PGD-3", right, False),
        ("pgd-3@0.04", "PGD-3", right, False),  # the curve's point builds on the one before: two stages
        ("pgd-3@0.04", "PGD-3", right, False),
        ("targeted pgd-2", "PGD-2", 53, False),
    ]
    assert cut.names == ("clean", "pgd-3")
    assert cut.targeted is None
    finding = next(each for each in cut.findings if each.id == BUDGET)
    assert f"PGD-3 on {right - 2 * BATCH} images (pgd-3)" in finding.text
    assert Evaluation.from_dict(cut.to_dict()).untried == cut.untried

    # The same call goes on, to what a single one without a budget gives.
    on = ask(net, data, "pgd-3", "fgsm", **options)
    at_once = ask(net, data, "pgd-3", "fgsm", **{**options, "cache": None})
    assert on.untried == ()
    assert {**on.to_dict(), "source": {}} == {**at_once.to_dict(), "source": {}}
    assert on.samples is not None
    assert cut.samples is not None
    held = cut.samples.pred_of("pgd-3") == data[1].numpy()
    assert (held >= (on.samples.pred_of("pgd-3") == data[1].numpy())).all()


def test_a_budget_that_ends_before_the_main_attack_says_so_and_keeps_the_rest(
    net: nn.Module, data: Data, clock: Clock, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="budget was over before all clean images"):
        ask(net, data, "pgd-3", budget=3.5, cache=tmp_path)
    assert clock.now == 3
    assert ask(net, data, cache=tmp_path).reused == ("clean",)
    with pytest.raises(UserError, match="budget was over before the first batch of pgd-3"):
        ask(net, data, "pgd-3", budget=0.0, cache=tmp_path)
    assert clock.now == 6


def test_autoattack_begins_with_its_strongest_attacks(net: nn.Module, data: Data, clock: Clock) -> None:
    cut = ask(net, data, "autoattack", budget=8.5)
    assert [each.attack for each in cut.untried] == ["APGD-CE", "APGD-T", "Square", "FAB-T"]


def test_what_is_cut_short_never_replaces_what_is_complete(
    net: nn.Module, data: Data, clock: Clock, tmp_path: Path
) -> None:
    file = tmp_path / "test.json"
    whole = ask(net, data, "pgd-3")
    whole.save(file)
    cut = ask(net, data, "pgd-3", budget=8.5)
    added = added_to(file, cut).evaluation
    assert added.untried == ()
    assert BUDGET not in [each.id for each in added.findings]
    assert added.samples is not None
    assert whole.samples is not None
    np.testing.assert_array_equal(added.samples.pred_of("pgd-3"), whole.samples.pred_of("pgd-3"))

    # The other way around it does; and beside another attack the note on what was cut short stays.
    cut.save(file)
    assert added_to(file, whole).evaluation.untried == ()
    beside = added_to(file, ask(net, data, "fgsm")).evaluation
    assert [each.condition for each in beside.untried] == ["pgd-3"]
    assert BUDGET in [each.id for each in beside.findings]


def test_the_time_left_and_the_accuracy_so_far(net: nn.Module, data: Data, clock: Clock) -> None:
    seen: list[tuple[Standing, np.ndarray | None]] = []
    found = ask(net, data, "noise-1", watch=lambda now: seen.append((now, now.accuracy())), active_set=False)
    assert [now.done for now, _ in seen] == 2 * [0, 10, 20, 30, 40, 50, 53]
    assert seen[0][0].seconds_left is None
    # A pass forward each, so a tenth of a second per image: what is left of 106 images.
    for count, (now, _) in enumerate(seen[1:7], 1):
        images = min(10 * count, 53)
        assert now.seconds_left == pytest.approx((106 - images) * count / images)
    assert seen[-1][0].seconds_left == 0
    for (_, accuracy), name in ((seen[6], "clean"), (seen[-1], "noise-1")):
        assert accuracy is not None
        np.testing.assert_allclose(accuracy, found.condition(name).figures.accuracy)
    # Of the first batch: the share of each class that is right.
    _, accuracy = seen[1]
    with torch.no_grad():
        right = net(data[0][:BATCH]).argmax(1) == data[1][:BATCH]
    assert accuracy is not None
    for k in range(4):
        members = data[1][:BATCH] == k
        expected = float(right[members].double().mean())  # NaN of none
        np.testing.assert_allclose(accuracy[k], expected)


@pytest.mark.parametrize(
    ("text", "expected"), [("90s", 90), ("30m", 1800), ("2H", 7200), ("1.5h", 5400), ("1d", 86400), ("1h30m", 5400)]
)
def test_times_are_read(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "90", "h", "0s", "-5m", "1h 30m", "5w"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="expected a time such as"):
        seconds(text)
