from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fairtat.errors import UserError
from fairtat.evaluation import Comparison, Evaluation
from fairtat.evaluation.report import Report, RunRecord
from fairtat.evaluation.report.page import render, write_report

Record = Callable[..., RunRecord]
SCHEMA = Path(__file__).parents[3] / "docs" / "report-schema.md"


@pytest.fixture
def report(record: Record) -> Report:
    return Report([record("at"), record("fair", seed=4, share=0.8)], notes=["A note."])


def test_the_page_and_its_figures_are_written_side_by_side(report: Report, tmp_path: Path) -> None:
    written = write_report(report, tmp_path / "deep" / "report.html")
    assert written == [tmp_path / "deep" / "report.html", tmp_path / "deep" / "report.json"]
    assert written[0].read_text(encoding="utf-8") == render(report)
    assert json.loads(written[1].read_text()) == json.loads(json.dumps(report.to_dict()))
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["report.html", "report.json"]


def test_a_page_that_cannot_be_made_leaves_the_old_one(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    broken = replace(report, notes=[object()])  # no JSON value
    with pytest.raises(TypeError):
        write_report(broken, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_figures_are_those_of_the_evaluations_and_the_comparison(report: Report) -> None:
    values = report.to_dict()
    evaluations = [record.evaluation for record in report.records]
    comparison = Comparison({"at": evaluations[0], "fair": evaluations[1]})
    assert Evaluation.from_dict(values["runs"]["fair"]["evaluation"]).robust.correct == evaluations[1].robust.correct
    against = values["against_baseline"]["fair"]
    assert [c["difference"] for c in against["robust"]["classes"]] == [c.difference for c in comparison.changes("fair")]
    worst = against["bootstrap"]["worst"]
    assert worst["before"] == evaluations[0].robust.worst[1]
    assert worst["after"] == evaluations[1].robust.worst[1]
    assert values["runs"]["at"]["history"][-1]["epoch"] == 3
    assert [story["run"] for story in values["stories"]] == ["fair"]


def test_one_run_has_no_comparison(record: Record) -> None:
    values = Report([record("at")]).to_dict()
    assert values["against_baseline"] == {}
    assert values["stories"][0]["sentences"][0].startswith("kind 0 is the worst class of at")


def documented(heading: str) -> set[str]:
    """The fields of the table under a heading of the schema."""
    section = SCHEMA.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE))


def test_every_field_is_documented(report: Report) -> None:
    values = report.to_dict()
    against = values["against_baseline"]["fair"]
    assert set(values) == documented("The file")
    assert set(values["stories"][0]) == documented("A story")
    assert set(values["runs"]["at"]) == documented("A run")
    assert set(against) == documented("A run against the baseline")
    assert set(against["clean"]["average"]) == set(against["robust"]["classes"][0]) == documented("A change")
    assert set(against["bootstrap"]["worst"]) == documented("A bootstrapped figure")


@pytest.mark.parametrize(
    ("names", "message"),
    [([], "at least one run"), (["at", "at"], "different names, got at, at")],
)
def test_what_is_no_report_is_refused(record: Record, names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Report([record(name) for name in names])


def test_runs_of_other_images_and_without_samples_are_refused(record: Record) -> None:
    with pytest.raises(ValueError, match="different images"):
        Report([record("at"), record("fair", per_class=10)])
    run = record("at")
    with pytest.raises(ValueError, match="per-sample outcomes"):
        Report([replace(run, evaluation=replace(run.evaluation, samples=None))])


def test_another_ending_is_refused_before_anything_is_written(report: Report, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ends in \.html or \.json, got .*report\.pdf"):
        write_report(report, tmp_path / "report.pdf")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(report: Report, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"report\.html: cannot be written"):
        write_report(report, tmp_path / "file" / "report.html")
