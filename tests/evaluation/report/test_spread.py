from __future__ import annotations

from collections.abc import Callable

import pytest

from fairtat.evaluation.report import RunRecord
from fairtat.evaluation.report.spread import STACK, Spread, spreads

Record = Callable[..., RunRecord]


def test_every_class_with_images_has_a_dot_at_its_accuracy(record: Record) -> None:
    run = record(classes=5, per_class=[20, 0, 20, 20, 20])
    (strip,) = spreads([run])
    robust = run.evaluation.robust
    expected = sorted(Spread.x(share) for share, n in zip(robust.accuracy, robust.n, strict=True) if n)
    assert [x for x, _ in strip.dots] == expected
    assert strip.path.count("M") == 4
    assert strip.dots[0][0] == Spread.x(strip.worst) == Spread.x(robust.worst[1])
    assert strip.interval == robust.interval[robust.worst[0]]
    assert (strip.average, strip.best) == (robust.average, max(robust.accuracy[k] for k in (0, 2, 3, 4)))
    assert Spread.x(0) < Spread.x(0.5) < Spread.x(1)


@pytest.mark.parametrize("classes", [3, 200])
def test_classes_of_one_accuracy_are_stacked_within_the_strip(record: Record, classes: int) -> None:
    (strip,) = spreads([record(classes=classes, per_class=2)])
    assert len(set(strip.dots)) >= min(classes, 20)
    assert all(0 < y < STACK for _, y in strip.dots)
    assert strip.dots[0][1] == STACK - 3  # the worst one lies at the bottom, where its ring is


def test_long_names_are_short_in_the_picture_and_whole_beside_it(record: Record) -> None:
    names = ["a very long name of a class that goes on and on", "b", "c", "d"]
    (strip,) = spreads([record(names=names)])
    assert strip.worst_name == names[0]
    assert len(strip.worst_short) <= 26
