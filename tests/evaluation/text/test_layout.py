"""No figure vanishes, however long the names are and however narrow the terminal is."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pytest
from rich.cells import cell_len

from fairtat.evaluation import Comparison, Evaluation
from fairtat.evaluation.text.layout import Column, FittedTable
from fairtat.evaluation.text.table import as_text, comparison_table, evaluation_table, tables

Make = Callable[..., Evaluation]

LONG = [  # 43 names in the manner of GTSRB's, with the longest ones that it has
    *(f"Speed limit ({speed}km/h)" for speed in range(20, 130, 10)),
    *(f"End of speed limit ({speed}km/h)" for speed in range(20, 130, 10)),
    *(f"No passing for vehicles over {weight}.5 metric tons" for weight in range(10)),
    *(f"Vehicles over {weight}.5 metric tons prohibited" for weight in range(9)),
    "Priority to through-traffic at the next intersection/crossroads only",
    "Right-of-way at the next intersection",
]
WIDE = [
    *(f"次の交差点または十字路でのみ直進交通が優先される第{k}号" for k in range(9)),
    *(f"👨‍👩‍👧‍👦 family number {k} crossing the road at the next intersection 🇩🇪" for k in range(9)),
    *("e\u0301" * 30 + letter for letter in "abcdefghi"),
    "Приоритет сквозного движения только на следующем перекрёстке",
]
MANY = [f"class with a long common name of which number {k:04} is one of a thousand" for k in range(1000)]
NAMES = {"long": LONG, "wide": WIDE, "many": MANY, "short": [str(k) for k in range(10)]}


def made(make: Make, names: Sequence[str], per_class: int = 7, seed: int = 3) -> Evaluation:
    label = [k for k in range(len(names)) for _ in range(per_class)]
    clean = [(k + (i % 7 == 0)) % len(names) for i, k in enumerate(label)]
    robust = [(k + (i * seed % 11 < 4)) % len(names) for i, k in enumerate(label)]
    return make(label, clean, robust, names=names)


def rows_of(text: str, count: int) -> list[str]:
    """The first ``count`` rows of every part of a table, put side by side."""
    lines = text.splitlines()
    starts = [k + 1 for k, line in enumerate(lines) if "──" in line]
    return ["  ".join(lines[start + k] for start in starts) for k in range(count)]


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


@pytest.mark.parametrize("columns", [60, 80, 160])
@pytest.mark.parametrize("kind", NAMES)
def test_every_figure_of_an_evaluation_is_shown(make_evaluation: Make, kind: str, columns: int) -> None:
    names = NAMES[kind]
    evaluation = made(make_evaluation, names)
    text = as_text([evaluation_table(evaluation)], columns)
    assert max(map(cell_len, text.splitlines())) <= columns
    rows = rows_of(text, len(names))
    clean, robust = evaluation.clean, evaluation.robust
    for k, row in enumerate(rows):
        figures = [word.lstrip("*") for word in row.split()]
        for of in (clean, robust):
            low, high = of.interval[k]
            assert {str(of.n[k]), percent(of.accuracy[k]), f"{100 * low:.0f}-{100 * high:.0f}"} <= set(figures)
        assert f"{robust.cfps[k]:.3f}" in figures
    assert len({re.split(" {2,}", row.strip())[0] for row in rows}) == len(names)
    for label, of_figures in {
        "average": lambda f: f.average, "worst class": lambda f: f.worst[1], "worst 20%": lambda f: f.worst_fifth,
        "best - worst": lambda f: f.gap, "std": lambda f: f.std,
    }.items():  # fmt: skip
        (row,) = (line for line in text.splitlines() if line.strip().startswith(f"{label} "))
        assert row.split()[-2:] == [percent(of_figures(clean)), percent(of_figures(robust))]


@pytest.mark.parametrize("columns", [60, 80, 160])
@pytest.mark.parametrize(("kind", "runs"), [("long", 2), ("long", 5), ("wide", 3)])
def test_every_figure_of_a_comparison_is_shown(make_evaluation: Make, kind: str, runs: int, columns: int) -> None:
    names = NAMES[kind]
    evaluations = {f"run {seed}": made(make_evaluation, names, seed=seed) for seed in range(3, 3 + runs)}
    comparison = Comparison(evaluations)
    text = as_text([comparison_table(comparison)], columns)
    assert max(map(cell_len, text.splitlines())) <= columns
    for k, row in enumerate(rows_of(text, len(names))):
        figures = [word.lstrip("*~") for word in row.split()]
        wanted = []
        for name, evaluation in evaluations.items():
            wanted += [percent(evaluation.clean.accuracy[k]), percent(evaluation.robust.accuracy[k])]
            if name != comparison.names[0]:
                change = 100 * comparison.changes(name)[k].difference
                wanted.append("0.0" if abs(change) < 0.05 else f"{change:+.1f}")
        for figure in set(wanted):
            assert figures.count(figure) >= wanted.count(figure)


def filled(*columns: Column, rows: int = 3) -> FittedTable:
    table = FittedTable("", "", columns)
    for k in range(rows):
        table.add_row(*(f"{k}" * 12 if column.kind == "figure" else f"{k} {'name ' * 9}end" for column in columns))
    return table


def test_bars_go_before_names_are_cut_and_names_before_a_table_is_cut_in_parts() -> None:
    def printed(columns: int) -> str:
        who, bar = Column("who", "name", group=0), Column("", "bar", group=1)
        return as_text([filled(who, Column("a", group=1), bar, Column("b", group=2))], columns)

    name = "0 " + "name " * 9 + "end"
    wide, medium, narrow, least = map(printed, (150, 100, 60, 34))
    assert [text.count(name) for text in (wide, medium, narrow, least)] == [2, 1, 0, 0]  # the bar's cell has it, too
    assert "\u2026" not in medium
    assert "\u2026" in narrow
    assert [text.count("who") for text in (wide, medium, narrow, least)] == [1, 1, 1, 2]
    for text in (wide, medium, narrow, least):
        assert text.count("0" * 12) == 2
        assert text.count("2" * 12) == 2


def test_long_texts_are_folded_and_not_cut() -> None:
    text = as_text([filled(Column("condition", "text", group=0), Column("a"), rows=1)], 40)
    assert text.count("name") == 9
    assert "0" * 12 in text


def test_what_is_stored_or_given_sends_no_escape_to_a_terminal(make_evaluation: Make) -> None:
    names = ["cat\x1b[2J", "\x1b]0;title\x07dog", "a\u202eb\nc"]
    evaluation = made(make_evaluation, names)
    assert evaluation.class_names == ("cat[2J", "]0;titledog", "ab c")
    stored = evaluation.to_dict()
    stored["class_names"] = names
    stored["findings"] = [{"id": "x:\x1b", "severity": "info", "text": "\x1b[31m\x9bred"}]
    stored["source"] = {"data": "\x1b[0m"}
    read = Evaluation.from_dict(stored, evaluation.samples)
    shown = [
        repr(read), as_text([comparison_table(Comparison({"\x1b[1m": read, "b": read}))]), read.findings[0].text,
        str(read.source), *Comparison({"\x1b[1m": read, "b": read}).summary("b"),
    ]  # fmt: skip
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", "".join(shown))


def test_printing_an_evaluation_prints_its_tables(make_evaluation: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    evaluation = made(make_evaluation, LONG)
    assert str(evaluation) == repr(evaluation) == as_text(tables(evaluation), 80)
    assert "tensor(" not in repr(evaluation)
    assert len(repr(evaluation)) < 6000
    comparison = Comparison({"a": evaluation, "b": evaluation})
    assert repr(comparison) == as_text([comparison_table(comparison)], 80)
    assert all(len(repr(part)) < 400 for part in (*evaluation.conditions, evaluation.samples, evaluation.robust))
