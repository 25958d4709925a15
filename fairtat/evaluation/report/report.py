"""A report: runs, what they are compared by, and every figure as JSON values."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from fairtat._version import __version__
from fairtat.evaluation.compare import Comparison
from fairtat.evaluation.groups import Grouping, grouping_dict
from fairtat.evaluation.report.gallery import Gallery
from fairtat.evaluation.report.record import RunRecord
from fairtat.evaluation.text.story import Story, against_baseline, of_one_run

__all__ = ["FORMAT", "Report"]

FORMAT = 2
"""Version of the layout of report.json, which docs/report-schema.md describes."""


@dataclass(frozen=True, eq=False)
class Report:
    """One run alone, or several against the first one, judged on the same images under the same main attack.

    Attributes:
        records: the runs, the baseline first.
        gallery: a few images under attack.
        groupings: other ways than the classes to divide the images, each shown in a table.
        notes: what a reader must know about the comparison, such as runs that were trained for different times.

    Raises:
        ValueError: no runs, two of one name, or runs that were judged on other images or under another attack.
    """

    records: Sequence[RunRecord]
    gallery: Gallery | None = None
    notes: Sequence[str] = ()
    groupings: Sequence[Grouping] = ()
    created: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M %Z"))

    def __post_init__(self) -> None:
        if not self.records:
            raise ValueError("a report needs at least one run")
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"a report's runs need different names, got {', '.join(self.names)}")
        if self.records[0].evaluation.samples is None:
            raise ValueError("a report needs the per-sample outcomes (the .npz file) of every evaluation")
        _ = self.comparison

    @property
    def names(self) -> tuple[str, ...]:
        """The runs' names."""
        return tuple(record.name for record in self.records)

    @cached_property
    def comparison(self) -> Comparison | None:
        """Every run against the first one; None of one run alone."""
        if len(self.records) == 1:
            return None
        return Comparison({record.name: record.evaluation for record in self.records})

    @cached_property
    def stories(self) -> list[Story]:
        """What the figures say, a story for each run except the first, or for the only one."""
        if self.comparison is None:
            return [of_one_run(self.names[0], self.records[0].evaluation)]
        return [against_baseline(self.comparison, name) for name in self.names[1:]]

    @property
    def title(self) -> str:
        """What the report is of."""
        first, *others = self.names
        return f"{', '.join(others)} against {first}" if others else f"{first}, class by class"

    def to_dict(self) -> dict[str, Any]:
        """Every figure of the report except the pictures, as plain JSON values (docs/report-schema.md)."""
        against = self.comparison.to_dict()["against_baseline"] if self.comparison else {}
        for figures in against.values():
            del figures["summary"]  # in "stories" already
        return {
            "format": FORMAT,
            "fairtat": __version__,
            "created": self.created,
            "title": self.title,
            "baseline": self.names[0],
            "notes": list(self.notes),
            "stories": [{"run": story.run, "sentences": story.sentences} for story in self.stories],
            "runs": {record.name: record.to_dict() for record in self.records},
            "against_baseline": against,
            "groups": {
                record.name: [grouping_dict(record.evaluation, grouping) for grouping in self.groupings]
                for record in self.records
            },
        }
