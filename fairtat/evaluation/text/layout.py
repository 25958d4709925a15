"""Tables that fit a terminal of any width: bars are dropped first, then names are shortened, never numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from fairtat.text import printable, shortened, width

__all__ = ["Cell", "Column", "FittedTable"]

Cell = str | Text
Kind = Literal["figure", "name", "text", "bar"]

GAP = 2
"""Columns of the terminal between two of the table."""
EDGES = 2
LEAST = {"name": 10, "text": 20}
"""Columns below which a name is not shortened, nor a longer text folded, any further."""


@dataclass
class Column:
    """One column, filled row by row.

    ``kind`` says what happens where there is little room: a "bar" is left out, a "name" shortened, a "text" folded; a
    "figure" stays as it is. Columns of one ``group`` stay side by side; those of group 0 are repeated in every part of
    a table that is split.
    """

    header: str
    kind: Kind = "figure"
    group: int = 1
    style: str = ""
    cells: list[Text] = field(default_factory=list)

    @property
    def natural(self) -> int:
        """The natural width, in columns of the terminal."""
        lines = [*self.header.split("\n"), *(cell.plain for cell in self.cells)]
        return max(map(width, lines))

    @property
    def least(self) -> int:
        header = max(map(width, self.header.split("\n")))
        return max(header, min(self.natural, LEAST.get(self.kind, self.natural)))

    def shown(self, columns: int) -> list[Text]:
        """The cells as they are written in this many columns of the terminal."""
        if self.kind != "name" or self.natural <= columns:
            return self.cells
        short = shortened([cell.plain for cell in self.cells], columns)
        return [Text(text, style=cell.style) for text, cell in zip(short, self.cells, strict=True)]


class FittedTable:
    """A table that is laid out for the width of the console that prints it."""

    def __init__(self, title: str, caption: str, columns: Sequence[Column]) -> None:
        self.title, self.caption, self.columns = title, caption, list(columns)
        self._styles: list[str] = []
        self._ends_section: set[int] = set()

    def add_row(self, *cells: Cell, style: str = "") -> None:
        """A row; cells that are not given are empty. No text in it is taken for markup."""
        given = [*cells, *[""] * (len(self.columns) - len(cells))]
        for column, cell in zip(self.columns, given, strict=True):
            style_of_cell = cell.style if isinstance(cell, Text) else ""
            column.cells.append(Text(printable(str(cell)), style=style_of_cell))
        self._styles.append(style)

    def add_section(self) -> None:
        """A line below the last row."""
        self._ends_section.add(len(self._styles) - 1)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        if self.title:
            yield Text(printable(self.title, lines=True), style="bold")
        for columns, widths in self._parts(options.max_width):
            yield self._table(columns, widths)
        if self.caption:
            yield Text(self.caption, style="table.caption")

    def _parts(self, room: int) -> list[tuple[list[Column], list[int]]]:
        columns = self.columns
        if _total([column.natural for column in columns]) > room:
            columns = [column for column in columns if column.kind != "bar"]
        common = [column for column in columns if column.group == 0]
        parts: list[list[Column]] = [common]
        for group in sorted({column.group for column in columns} - {0}):
            members = [column for column in columns if column.group == group]
            fits = _total([column.least for column in (*parts[-1], *members)]) <= room
            if fits or parts[-1] == common:
                parts[-1] = [*parts[-1], *members]
            else:
                parts.append([*common, *members])
        return [(part, _widths(part, room)) for part in parts]

    def _table(self, columns: list[Column], widths: list[int]) -> Table:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for column, columns_of in zip(columns, widths, strict=True):
            table.add_column(
                Text(printable(column.header, lines=True)),
                justify="right" if column.kind == "figure" else "left",
                width=columns_of,
                no_wrap=column.kind != "text",
                overflow="fold",
                style=column.style,
            )
        shown = [column.shown(columns_of) for column, columns_of in zip(columns, widths, strict=True)]
        for row, style in enumerate(self._styles):
            table.add_row(*(cells[row] for cells in shown), style=style, end_section=row in self._ends_section)
        return table


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1) + EDGES


def _widths(columns: Sequence[Column], room: int) -> list[int]:
    """Each column's natural width, less what names and texts must give up; the widest gives first."""
    widths, least = [column.natural for column in columns], [column.least for column in columns]
    for _ in range(_total(widths) - room):
        flexible = [k for k in range(len(columns)) if widths[k] > least[k]]
        if not flexible:
            break
        widths[max(flexible, key=widths.__getitem__)] -= 1
    return widths
