"""The page itself: figures go in, one HTML document comes out. Templates and styles lie beside this module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from fairtat._version import __version__
from fairtat.evaluation.attacks.settings import radius
from fairtat.evaluation.report import classes, curves, facts, heat
from fairtat.evaluation.report.heat import HeatMap, Strip
from fairtat.evaluation.report.record import RunRecord
from fairtat.evaluation.report.spread import spreads
from fairtat.evaluation.text import wording
from fairtat.text import printable, shortened

if TYPE_CHECKING:
    from fairtat.evaluation.compare import Comparison
    from fairtat.evaluation.report.report import Report
    from fairtat.evaluation.result import Evaluation

__all__ = ["class_table", "render"]

RUN_COLOURS = 7
"""Colours in report.css; more runs use them again, with other dashes."""

RUN_COLUMNS = 40
"""Letters of a run's name in a drawing."""

OPEN_CLASSES = 24
"""Classes that a chart shows at once; the others can be unfolded."""


def render(report: Report) -> str:
    """The report as one HTML document."""
    return _environment().get_template("report.html.j2").render(_context(report))


def class_table(evaluations: Mapping[str, Evaluation], comparison: Comparison | None) -> str:
    """The page's table of every class as a fragment, for a notebook."""
    records = [RunRecord(name, evaluation) for name, evaluation in evaluations.items()]
    first = records[0].evaluation
    context = {
        "rows": classes.class_rows(records, comparison),
        "runs": _runs(records),
        "colours": RUN_COLOURS,
        "caption": f"{first.condition(first.primary).title}; {first.clean.total} images. In percent and points.",
    }
    return _environment().get_template("notebook.html.j2").render(context)


def _environment() -> Environment:
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
    """Of every text that a template writes; what is marked as safe is this package's own, or was here before."""
    return printable(value, lines=True) if type(value) is str else value


def _runs(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    short = shortened([record.name for record in records], RUN_COLUMNS)
    return [
        {"index": run, "name": record.name, "short": short[run], "colour": run % RUN_COLOURS}
        for run, record in enumerate(records)
    ]


def _context(report: Report) -> dict[str, Any]:
    records = report.records
    names = records[0].evaluation.class_names
    rows = classes.class_rows(records, report.comparison)
    scored = [(record.evaluation.clean, record.evaluation.robust) for record in records]
    numbered = list(enumerate(records))
    first = records[0].evaluation.robust
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
        "colours": RUN_COLOURS,
        "scored": scored,
        "spreads": spreads(records),
        "bars": classes.class_bars(records),
        "rows": rows,
        "scale": classes.difference_scale(rows) if report.comparison else None,
        "open_classes": OPEN_CLASSES,
        "radius_charts": curves.radius_charts(records),
        "training_charts": curves.training_charts(records),
        "confusions": [
            (
                heat.confusion_map("clean images", clean, names),
                heat.confusion_map("under attack", robust, names),
                heat.difference_map(f"under attack, less {records[0].name}", first, robust, names) if run else None,
            )
            for run, (clean, robust) in enumerate(scored)
        ],
        "targeted": _present(heat.targeted_map(record) for record in records),
        "corruptions": _present(heat.corruption_map(record) for record in records),
        "radius_strips": _present(heat.radius_strip(run, record) for run, record in numbered),
        "target_strips": _present(heat.target_strip(run, record) for run, record in numbered),
        "conditions": facts.condition_rows(records),
        "facts": facts.facts(records),
        "differing": facts.differing_settings(records) if len(records) > 1 else [],
        "configs": [(record.name, text) for record in records if (text := facts.config_text(record)) is not None],
        "findings": [(record.name, finding) for record in records for finding in record.evaluation.findings],
        "shades": heat.SHADES,
    }


def _present(drawings: Iterable[HeatMap | Strip | None]) -> list[HeatMap | Strip]:
    return [drawing for drawing in drawings if drawing is not None]


def _read(name: str) -> str:
    return files(__package__).joinpath(*name.split("/")).read_text(encoding="utf-8")
