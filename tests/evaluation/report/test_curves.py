from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from fairtat.evaluation import wilson
from fairtat.evaluation.report import RunRecord
from fairtat.evaluation.report.curves import radius_charts, training_charts

Record = Callable[..., RunRecord]


def test_there_is_a_curve_for_all_images_and_each_present_class_worst_first(record: Record) -> None:
    run = record(per_class=[20, 0, 20, 20])
    charts = radius_charts([run])
    accuracy = run.evaluation.robust.accuracy
    assert charts[0].title == "all images"
    assert [c.title for c in charts[1:]] == [f"kind {k}" for k in sorted((0, 2, 3), key=lambda k: accuracy[k])]


def test_a_curve_runs_from_the_clean_accuracy_through_the_sweep(record: Record) -> None:
    run = record()
    kind_2 = next(c for c in radius_charts([run]) if c.title == "kind 2")
    (line,) = kind_2.lines
    sweep = run.evaluation.of_kind("sweep")
    counts = [run.evaluation.clean.correct[2], *(c.figures.correct[2] for c in sweep)]
    assert [y for _, y in line.points] == [right / 20 for right in counts]
    assert [low for _, low, _ in line.band] == [wilson(right, 20)[0] for right in counts]
    assert [text for _, text in kind_2.x_ticks if text][-1] == "12/255"
    assert kind_2.mark == run.evaluation.attack.eps


def test_runs_without_a_sweep_are_left_out_and_none_leaves_no_chart(record: Record) -> None:
    charts = radius_charts([record("a", sweep=False), record("b")])
    assert [line.run for line in charts[0].lines] == [1]
    assert radius_charts([record(sweep=False)]) == []


def test_training_curves_are_of_the_averaged_weights_where_there_are_some(record: Record) -> None:
    averaged = {"clean": {"average": 0.9}, "robust": {"average": 0.4, "worst": 0.3}}
    plain = record("plain")
    run = replace(plain, name="averaged", history=[{**line, "averaged": averaged} for line in plain.history])
    clean, robust, worst, examples = training_charts([plain, run])
    assert [y for _, y in robust.lines[0].points] == [line["val_robust"]["average"] for line in plain.history]
    assert [y for _, y in robust.lines[1].points] == [0.4] * 3
    assert {y for _, y in worst.lines[1].points} == {0.3}
    assert {y for _, y in clean.lines[1].points} == {0.9}
    assert examples.lines[0].points == examples.lines[1].points


def test_runs_of_other_lengths_and_without_a_history_share_a_chart(record: Record) -> None:
    charts = training_charts([record("a", epochs=7), record("b", epochs=0), record("c", epochs=2)])
    assert [line.run for line in charts[0].lines] == [0, 2]
    assert charts[0].x_ticks[0] == (1.0, "1")
    assert charts[0].x_ticks[-1] == (7.0, "7")
    assert training_charts([record(epochs=0)]) == []


@pytest.mark.parametrize("epochs", [1, 2, 5, 30, 200, 1000])
def test_epochs_are_marked_at_whole_numbers_in_order(record: Record, epochs: int) -> None:
    marks = [value for value, _ in training_charts([record(epochs=epochs)])[0].x_ticks]
    assert marks == sorted(set(marks))
    assert all(mark == int(mark) for mark in marks)
    assert len(marks) <= 8
