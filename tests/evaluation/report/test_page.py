"""The page as a document: sound HTML that needs no network and says everything, whatever the runs are like."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fairtat.evaluation import Comparison, Finding
from fairtat.evaluation.report import Gallery, Report, RunRecord
from fairtat.evaluation.report.gallery import AttackedView, GalleryImage
from fairtat.evaluation.report.page import render
from fairtat.evaluation.text.wording import points

Record = Callable[..., RunRecord]
NASTY = '<script>alert("x")</script>&amp;\'"'


def runs(record: Record, count: int, **changes: Any) -> list[RunRecord]:
    return [record(f"run{k}", seed=k, **{"share": 0.5 + 0.05 * k, **changes}) for k in range(count)]


CASES: dict[str, Callable[[Record], Report]] = {
    "one run": lambda record: Report(runs(record, 1)),
    "two runs": lambda record: Report(runs(record, 2, extras=True)),
    "five runs": lambda record: Report(runs(record, 5)),
    "more runs than colors": lambda record: Report(runs(record, 9)),
    "a hundred classes": lambda record: Report(runs(record, 2, classes=100, per_class=4)),
    "two classes": lambda record: Report(runs(record, 2, classes=2)),
    "classes without images": lambda record: Report(runs(record, 2, per_class=[0, 20, 0, 3])),
    "one epoch": lambda record: Report(runs(record, 2, epochs=1)),
    "no history and no sweep": lambda record: Report(runs(record, 2, epochs=0, sweep=False)),
    "one without history": lambda record: Report([record("a"), record("b", epochs=0, sweep=False)]),
    "no folder": lambda record: Report([replace(r, config=None, environment=None) for r in runs(record, 2, epochs=0)]),
    "equal runs": lambda record: Report([record("a"), record("b")]),
    "nothing right": lambda record: Report(runs(record, 1, share=0.0)),
    "nasty names": lambda record: Report([record(NASTY, names=[NASTY, "b", "c", "d"])]),
}


@pytest.fixture(params=CASES, scope="module")
def report(request: pytest.FixtureRequest, record: Record) -> Report:
    return CASES[request.param](record)


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    return render(report)


def test_the_page_is_sound_and_needs_no_network(html: str, read: Callable[[str], Any]) -> None:
    page = read(html)  # tags are balanced
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "poster"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
    assert not re.search(r"https?:|url\((?!data:)|@import", html)
    assert re.search(r'Content-Security-Policy" content="default-src \'none\'', html)
    targets = {attributes.get("id") for _, attributes in page.tags}
    assert {a["href"][1:] for a in page.attributes("a")} <= targets


def test_no_figure_is_undefined(html: str) -> None:
    body = html.partition("</style>")[2].partition("<script>")[0]
    assert not re.search(r"\b(nan|NaN|inf|None|undefined)\b", body)


def test_every_class_and_every_run_is_there(report: Report, html: str, read: Callable[[str], Any]) -> None:
    text = read(html).text
    for name in (*report.records[0].evaluation.class_names, *report.names):
        assert name in text
    for story in report.stories:
        assert all(sentence in text for sentence in story.sentences)


def test_a_sorting_table_has_a_row_for_every_class_and_a_button_for_every_column(
    record: Record, read: Callable[[str], Any]
) -> None:
    html = render(Report(runs(record, 3)))
    table = re.search(r'<table class="sortable dense">.*?</table>', html, re.DOTALL)
    assert table is not None
    page = read(table[0])
    assert len(page.attributes("button")) == 2 + 2 + 3 + 3
    assert [a["aria-sort"] for a in page.attributes("th") if "aria-sort" in a] == ["none"] * 10
    rows = re.findall(r"<tr>(.*?)</tr>", table[0].partition("<tbody>")[2], re.DOTALL)
    assert len(rows) == 4
    assert {len(re.findall(r"<t[hd]", row)) for row in rows} == {2 + 3 + 4 + 4}


def test_an_absent_class_fills_the_table_too(record: Record) -> None:
    html = render(Report(runs(record, 2, per_class=[20, 0, 20, 20])))
    body = html.partition('<table class="sortable">')[2].partition("<tbody>")[2].partition("</tbody>")[0]
    assert {len(re.findall(r"<t[hd]", row)) for row in re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)} == {2 + 3 + 4}


def test_names_are_text_and_never_markup(record: Record, read: Callable[[str], Any]) -> None:
    finding = Finding("a:b", "warning", NASTY)
    view = AttackedView(0, NASTY, "data:,", "data:,", NASTY, True, NASTY, "data:,", "data:,", NASTY, True)
    image = GalleryImage(NASTY, 7, "data:,", (view,))
    run = replace(
        record(NASTY, classes=20, per_class=3, names=[NASTY, *map(str, range(19))], findings=[finding]),
        config={NASTY: NASTY},
        environment={"device": NASTY},
    )
    report = Report([run, replace(run, name=f"{NASTY}2")], gallery=Gallery((image,), NASTY), notes=[NASTY])
    html = render(report)
    page = read(html)
    assert "<script>alert" not in html
    assert len(page.attributes("script")) == 1
    assert page.text.count("<script>alert") > 10
    allowed = {"onclick", "onload", "onerror"}
    assert not any(allowed & set(attributes) for _, attributes in page.tags)


def test_no_control_character_of_a_name_or_a_file_reaches_the_page(record: Record) -> None:
    bad = "a\x1b[31m\x07\x9b\u202eb"
    run = replace(
        record(bad, names=[bad, "b", "c", "d"], findings=[Finding("x", "info", bad)]),
        config={"attack": {"eps": "8/255"}, bad: bad},
        environment={"torch": bad},
    )
    html = render(Report([run, record("b", names=[bad, "b", "c", "d"])], notes=[bad]))
    assert "a[31mb" in html
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", html)


def test_a_notebook_shows_the_table_of_every_class(record: Record, read: Callable[[str], Any]) -> None:
    one, two = (run.evaluation for run in runs(record, 2, per_class=[20, 0, 20, 3]))
    page = read(one._repr_html_())
    assert [a.get("class") for a in page.attributes("table")] == ["fairtat"]
    assert len(page.attributes("tr")) == 1 + one.num_classes
    assert not page.attributes("button")
    for name, share, n in zip(one.class_names, one.robust.accuracy, one.robust.n, strict=True):
        assert name in page.text
        assert n == 0 or f"{100 * share:.1f}" in page.text
    comparison = Comparison({"at": one, "fair": two})
    assert points(comparison.changes("fair")[0].difference) in read(comparison._repr_html_()).text


def test_without_a_template_engine_a_notebook_falls_back_to_text(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert record().evaluation._repr_html_() is None


def test_findings_and_notes_are_said_at_the_top(record: Record, read: Callable[[str], Any]) -> None:
    finding = Finding("gradient-masking:fgsm-beats-pgd", "warning", "FGSM fools more images than PGD.")
    text = read(render(Report([record("at", findings=[finding])], notes=["Trained for different times."]))).text
    summary = text.partition("Every class")[0]
    assert "Warning, at. FGSM fools more images than PGD." in summary
    assert "Note. Trained for different times." in summary


def test_the_page_of_a_hundred_classes_stays_small(record: Record) -> None:
    html = render(Report(runs(record, 2, classes=100, per_class=20, epochs=200)))
    assert len(html) < 1_000_000
