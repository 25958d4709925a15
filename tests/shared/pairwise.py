"""Fewer cases than a full product: every two values of two parameters still meet in one of them.

Most faults show with one value of one parameter, nearly all others with two (Kuhn et al. 2004).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any

import pytest


def pairs(*columns: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Rows with a value of each column, so few that a greedy choice covers each pair of values of two columns."""
    candidates = list(product(*(range(len(column)) for column in columns)))
    between = list(combinations(range(len(columns)), 2))
    missing = {(i, j, row[i], row[j]) for row in candidates for i, j in between}
    rows = []
    while missing:
        best = max(candidates, key=lambda row: sum((i, j, row[i], row[j]) in missing for i, j in between))
        missing -= {(i, j, best[i], best[j]) for i, j in between}
        rows.append(tuple(column[index] for column, index in zip(columns, best, strict=True)))
    return rows


def pairwise(*fixtures: str, **columns: Sequence[Any]) -> pytest.MarkDecorator:
    """A test's parameters, in pairs; those named in ``fixtures`` are the parameters of fixtures."""
    rows = pairs(*columns.values())
    ids = ["-".join(getattr(value, "__name__", str(value)) for value in row) for row in rows]
    return pytest.mark.parametrize(list(columns), rows, ids=ids, indirect=list(fixtures))
