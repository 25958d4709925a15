from __future__ import annotations

from collections.abc import Callable

from fairtat.evaluation import Comparison, wilson
from fairtat.evaluation.report import RunRecord
from fairtat.evaluation.report.classes import class_bars, class_rows, difference_scale

Record = Callable[..., RunRecord]


def test_the_first_runs_worst_class_comes_first_and_an_absent_one_last(record: Record) -> None:
    records = [record("at", per_class=[30, 0, 30, 30]), record("fair", per_class=[30, 0, 30, 30], seed=5)]
    bars = class_bars(records)
    assert bars[-1].name == "kind 1"
    assert (bars[-1].n, bars[-1].bars) == (0, ())
    of_first = [of_class.bars[0].robust for of_class in bars[:-1]]
    assert of_first == sorted(of_first)
    assert bars[0].bars[0].worst
    assert sum(bar.worst for of_class in bars for bar in of_class.bars) == 2


def test_a_bar_holds_the_runs_own_figures(record: Record) -> None:
    records = [record("at"), record("fair", seed=3)]
    for row in class_rows(records, None):
        for bar in row.bars.bars:
            robust = records[bar.run].evaluation.robust
            assert bar.robust == robust.correct[row.index] / 20
            assert (bar.low, bar.high) == wilson(robust.correct[row.index], 20)
            assert bar.low <= bar.robust <= bar.high


def test_rows_keep_the_datas_order_and_hold_a_change_for_every_other_run(record: Record) -> None:
    records = [record("a"), record("b", seed=1), record("c", seed=2)]
    comparison = Comparison({r.name: r.evaluation for r in records})
    rows = class_rows(records, comparison)
    assert [row.bars.name for row in rows] == [f"kind {k}" for k in range(4)]
    for k, row in enumerate(rows):
        assert row.changes == (comparison.changes("b")[k], comparison.changes("c")[k])


def test_every_interval_fits_on_the_scale_and_zero_is_its_middle(record: Record) -> None:
    records = [record("a"), record("b", seed=1, share=0.2)]
    rows = class_rows(records, Comparison({r.name: r.evaluation for r in records}))
    scale = difference_scale(rows)
    assert scale.at(0.0) == 50.0
    assert (scale.at(-scale.limit), scale.at(scale.limit)) == (0.0, 100.0)
    assert all(-scale.limit <= end <= scale.limit for row in rows for c in row.changes for end in c.interval)
    assert scale.marks == tuple(-mark for mark in reversed(scale.marks))
