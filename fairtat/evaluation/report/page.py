"""The page itself: figures go in, one HTML document comes out. Templates and styles lie beside this module."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from fairtat._version import __version__
from fairtat.errors import UserError
from fairtat.evaluation.attacks.settings import radius
from fairtat.evaluation.compare import Comparison
from fairtat.evaluation.groups import Grouping
from fairtat.evaluation.report import classes, curves, facts, heat
from fairtat.evaluation.report.heat import HeatMap, Strip
from fairtat.evaluation.report.order import order_by_confusion
from fairtat.evaluation.report.record import RunRecord
from fairtat.evaluation.report.report import Report
from fairtat.evaluation.report.spread import spreads
from fairtat.evaluation.result import Evaluation
from fairtat.evaluation.text import wording
from fairtat.evaluation.text.story import lowest_of
from fairtat.files import write_atomic
from fairtat.optional import optional_import
from fairtat.text import printable, shortened

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["REPORT_FILES", "check_page", "class_table", "is_page", "render", "write_report"]

PAGES = (".html", ".htm")
REPORT_FILES = (*PAGES, ".json")
"""Suffixes of a report's file; one that ends in .json holds the figures alone."""

RUN_COLORS = 7
"""Colors in report.css; more runs use them again, with other dashes."""

RUN_COLUMNS = 40
"""Letters of a run's name in a drawing."""

OPEN_CLASSES = 24
"""Classes that a chart shows at once; the others can be unfolded."""


def is_page(path: Path) -> bool:
    """Whether a report with this name is a page, rather than its figures alone."""
    return path.suffix.lower() in PAGES


def check_page(path: Path, images: int = 0) -> None:
    """Find what would keep a report from being written to ``path``, before minutes of work are spent on its figures.

    Args:
        images: how many attacked images it is to show.

    Raises:
        UserError: another suffix, fewer than 0 images, or a package that draws is missing.
    """
    if path.suffix.lower() not in REPORT_FILES:
        raise UserError(f"a report is written to a file that ends in .html or .json, got {path}")
    if images < 0:
        raise UserError(f"--images is {images}; expected 0 or more")
    if is_page(path):
        optional_import("jinja2", purpose="a page", extra="eval")
    if is_page(path) and images:
        optional_import("PIL.Image", purpose="a page with attacked images (without: --images 0)", extra="eval")


def write_report(report: Report, path: str | Path) -> list[Path]:
    """Write the page to ``path`` and the figures to the .json file beside it, each in one step; returns both.

    A ``path`` that ends in .json gets the figures alone.

    Raises:
        UserError: ``path`` ends in neither .html nor .json, or cannot be written.
    """
    path = Path(path)
    check_page(path)
    # Without line breaks: a confusion matrix of 1,000 classes would be a million lines.
    contents = {path.with_suffix(".json"): json.dumps(report.to_dict(), allow_nan=False) + "\n"}
    if is_page(path):
        contents[path] = render(report)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for file, text in contents.items():
            write_atomic(file, partial(_put, text.encode()))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    return list(contents)[::-1]


def _put(content: bytes, stream: IO[bytes]) -> None:
    stream.write(content)


def render(report: Report) -> str:
    """The report as one HTML document that needs nothing else, not even a network."""
    return _environment().get_template("report.html.j2").render(_context(report))


def class_table(evaluations: Mapping[str, Evaluation], comparison: Comparison | None = None) -> str | None:
    """The page's table of every class, for a notebook; None if jinja2, which draws it, is not installed."""
    if importlib.util.find_spec("jinja2") is None:
        return None
    records = [RunRecord(name, evaluation) for name, evaluation in evaluations.items()]
    first = records[0].evaluation
    context = {
        "rows": classes.class_rows(records, comparison),
        "runs": _runs(records),
        "colors": RUN_COLORS,
        "caption": f"{first.condition(first.primary).title}; {first.clean.total} images. In percent and points.",
    }
    return _environment().get_template("notebook.html.j2").render(context)


def _environment() -> Environment:
    # Here, so that a report's figures can be had without jinja2.
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(lambda name: _read(f"templates/{name}")),
        autoescape=True,  # names of classes and runs come from data sets and folders: they may hold anything
        finalize=_without_controls,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["zip"] = zip
    environment.filters.update(
        percent=wording.percent, points=wording.points, between=wording.between, radius=radius, called=wording.called
    )
    return environment


def _without_controls(value: Any) -> Any:
    """Clean every text that a template writes; text marked as safe is this package's own or was cleaned before."""
    return printable(value, lines=True) if type(value) is str else value


def _runs(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    short = shortened([record.name for record in records], RUN_COLUMNS)
    return [
        {"index": run, "name": record.name, "short": short[run], "color": run % RUN_COLORS}
        for run, record in enumerate(records)
    ]


def _context(report: Report) -> dict[str, Any]:
    from markupsafe import Markup

    records = report.records
    names = records[0].evaluation.class_names
    rows = classes.class_rows(records, report.comparison)
    scored = [(record.evaluation.clean, record.evaluation.robust) for record in records]
    numbered = list(enumerate(records))
    first = records[0].evaluation.robust
    # A few classes stay in the order in which everybody knows them.
    order = order_by_confusion([robust for _, robust in scored]) if len(names) > heat.NUMBERED else None
    return {
        "report": report,
        "version": __version__,
        # The only text that is not escaped: files of this package.
        "style": Markup(_read("assets/report.css")),
        "script": Markup(_read("assets/report.js")),
        "class_names": names,
        "attack": records[0].evaluation.attack,
        "total": first.total,
        "runs": _runs(records),
        "colors": RUN_COLORS,
        "scored": scored,
        "spreads": spreads(records),
        "bars": classes.class_bars(records),
        "rows": rows,
        "scale": classes.difference_scale(rows) if report.comparison else None,
        "open_classes": OPEN_CLASSES,
        "groups": [_group_table(report, grouping) for grouping in report.groupings],
        "radius_charts": curves.radius_charts(records),
        "training_charts": curves.training_charts(records),
        "confusions": [
            (
                heat.confusion_map("clean images", clean, names, order),
                heat.confusion_map("under attack", robust, names, order),
                heat.difference_map(f"under attack, less {records[0].name}", first, robust, names, order)
                if run
                else None,
            )
            for run, (clean, robust) in enumerate(scored)
        ],
        "targeted": _present(heat.targeted_map(record, order) for record in records),
        "corruptions": _present(heat.corruption_map(record) for record in records),
        "radius_strips": _present(heat.radius_strip(run, record) for run, record in numbered),
        "target_strips": _present(heat.target_strip(run, record) for run, record in numbered),
        "conditions": facts.condition_rows(records),
        "facts": facts.facts(records),
        "differing": facts.differing_settings(records) if len(records) > 1 else [],
        "configs": [(record.name, text) for record in records if (text := facts.config_text(record)) is not None],
        "findings": [(record.name, finding) for record in records for finding in record.evaluation.findings],
        "shades": heat.SHADES,
        "map_names": json.dumps([names[k] for k in order], ensure_ascii=False) if order is not None else None,
    }


def _group_table(report: Report, grouping: Grouping) -> dict[str, Any]:
    rows, robust = classes.group_rows(report.records, grouping, report.comparison)
    worth = [lowest_of(figures, grouping.names) for figures in robust]
    return {"title": grouping.title, "rows": rows, "worth": worth, "left_out": int((grouping.member < 0).sum())}


def _present(drawings: Iterable[HeatMap | Strip | None]) -> list[HeatMap | Strip]:
    return [drawing for drawing in drawings if drawing is not None]


def _read(name: str) -> str:
    return files(__package__).joinpath(*name.split("/")).read_text(encoding="utf-8")
