"""The class-wise table as a file for other programs: CSV and Parquet for analysis, LaTeX for a paper."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairtat.errors import UserError
from fairtat.evaluation.metrics.figures import ClassFigures
from fairtat.evaluation.result import Evaluation
from fairtat.files import write_atomic
from fairtat.optional import optional_import
from fairtat.text import printable

__all__ = ["EXPORTS", "check_export", "class_rows", "export_classes"]

EXPORTS = (".csv", ".parquet", ".tex")


def check_export(path: Path) -> None:
    """Find what would keep a table from being written to ``path``, before minutes of work are spent on its figures.

    Raises:
        UserError: another suffix than those of `EXPORTS`, or pyarrow is missing for a .parquet file.
    """
    if path.suffix.lower() not in EXPORTS:
        raise UserError(f"a table is exported to a file that ends in {', '.join(EXPORTS)}, got {path}")
    if path.suffix.lower() == ".parquet":
        optional_import("pyarrow.parquet", purpose="a table in a .parquet file", extra="parquet")


def export_classes(evaluations: Mapping[str, Evaluation], path: str | Path) -> Path:
    """Write every class's figures, in one step; the suffix of ``path`` says how.

    .csv and .parquet have the rows of `class_rows`, under every condition; .tex has a table for LaTeX (with the package
    booktabs): a row for each class, with each model's clean and robust accuracy in percent and its Wilson 95% interval,
    the worst class in bold.

    Args:
        evaluations: by what the table calls the models. For .tex they must have the same classes.

    Raises:
        UserError: another suffix, pyarrow is missing, other classes, or ``path`` cannot be written.
    """
    path = Path(path)
    check_export(path)
    make = {".csv": _csv, ".parquet": _parquet, ".tex": _tex}[path.suffix.lower()]
    content = make(evaluations)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, lambda stream: stream.write(content))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path


def class_rows(evaluations: Mapping[str, Evaluation]) -> list[dict[str, Any]]:
    """A row for each model, condition and class; None where a class has no images.

    ``low`` and ``high`` are the class's own Wilson 95% interval; ``simultaneous_low`` and ``simultaneous_high`` hold
    for all classes of the condition at once. Accuracies are shares.
    """
    return [
        {"model": model, "condition": condition.name, "kind": condition.kind, **row}
        for model, evaluation in evaluations.items()
        for condition in evaluation.conditions
        for row in _rows(condition.figures, evaluation.class_names)
    ]


def _rows(figures: ClassFigures, names: tuple[str, ...]) -> list[dict[str, Any]]:
    rows = []
    for k, n in enumerate(figures.n):
        known = {
            "accuracy": figures.accuracy[k],
            "low": figures.interval[k][0],
            "high": figures.interval[k][1],
            "simultaneous_low": figures.lowest.simultaneous[k][0],
            "simultaneous_high": figures.lowest.simultaneous[k][1],
            "cfps": figures.cfps[k],
            "cfns": figures.cfns[k],
        }
        said: dict[str, float | None] = {
            key: value if n and math.isfinite(value) else None for key, value in known.items()
        }
        rows.append({"class": k, "name": names[k], "n": n, "correct": figures.correct[k], **said})
    return rows


def _csv(evaluations: Mapping[str, Evaluation]) -> bytes:
    rows = class_rows(evaluations)
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def _parquet(evaluations: Mapping[str, Evaluation]) -> bytes:
    pyarrow = optional_import("pyarrow", purpose="a table in a .parquet file", extra="parquet")
    parquet = optional_import("pyarrow.parquet", purpose="a table in a .parquet file", extra="parquet")
    kinds = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64(), type(None): pyarrow.float64()}
    rows = class_rows(evaluations)
    schema = pyarrow.schema([(key, kinds[type(value)]) for key, value in rows[0].items()])
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), file)
    return file.getvalue()


def _tex(evaluations: Mapping[str, Evaluation]) -> bytes:
    first = next(iter(evaluations.values()))
    for model, evaluation in evaluations.items():
        if evaluation.class_names != first.class_names:
            raise UserError(f"a .tex table needs models of the same classes, but those of {model} are others")
    scored = [(each.clean, each.robust) for each in evaluations.values()]
    figures = [figure for pair in scored for figure in pair]
    models = " & ".join(rf"\multicolumn{{2}}{{c}}{{{_escaped(model)}}}" for model in evaluations)
    rules = " ".join(rf"\cmidrule(lr){{{2 * k + 3}-{2 * k + 4}}}" for k in range(len(scored)))
    lines = [
        r"\begin{tabular}{lr" + "rr" * len(scored) + "}",
        r"\toprule",
        rf" & & {models} \\",
        rules,
        "class & images" + " & clean & robust" * len(scored) + r" \\",
        r"\midrule",
    ]
    for k, name in enumerate(first.class_names):
        cells = [_tex_cell(figure, k) for figure in figures]
        lines.append(" & ".join([_escaped(name), str(first.robust.n[k]), *cells]) + r" \\")
    lines.append(r"\midrule")
    summary = {
        "average": [figure.average for figure in figures],
        "worst class": [figure.worst[1] for figure in figures],
        "worst class, bias-corrected": [figure.lowest.corrected for figure in figures],
        r"worst 20\%": [figure.worst_fifth for figure in figures],
        "Gini, normalized": [figure.gini for figure in figures],
    }
    for label, values in summary.items():
        lines.append(" & ".join([label, "", *(f"{100 * value:.1f}" for value in values)]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(lines).encode()


def _tex_cell(figures: ClassFigures, k: int) -> str:
    if not figures.n[k]:
        return "--"
    low, high = figures.interval[k]
    value = f"{100 * figures.accuracy[k]:.1f}"
    shown = rf"\textbf{{{value}}}" if k == figures.worst[0] else value
    return rf"{shown} {{\scriptsize [{100 * low:.0f}, {100 * high:.0f}]}}"


_SPECIAL = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def _escaped(text: str) -> str:
    """A name as LaTeX sets it, not as a command."""
    return "".join(_SPECIAL.get(letter, letter) for letter in printable(text))
