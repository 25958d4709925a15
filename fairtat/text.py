"""Names for people: without control characters, and short where there is little room."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

__all__ = ["escaped", "printable", "printable_values", "shortened", "width"]

ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
TRIED = 10  # places to cut at, before names are numbered
JOINERS = "\u200c\u200d"  # of scripts and of emoji; harmless, and a name falls apart without them

# Controls, which a terminal obeys; marks that turn the direction of writing or take no room; halves of surrogates.
_BREAKS = re.compile("[\t\n\v\f\r\x85\u2028\u2029]+")
_ODD_BREAKS = re.compile("\r\n?|[\v\f\x85\u2028\u2029]")
_CONTROLS = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: str, *, lines: bool = False) -> str:
    """``text`` as a terminal and a page may show it: no control characters, and one line unless ``lines``."""
    return _CONTROLS.sub("", _ODD_BREAKS.sub("\n", text) if lines else _BREAKS.sub(" ", text))


def escaped(text: str) -> str:
    r"""``text`` with its control characters written out, such as ``\x1b``: an error names a file as it is."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def printable_values(values: Any) -> Any:
    """Plain JSON values with every text in them `printable`, names of fields included."""
    if isinstance(values, str):
        return printable(values)
    if isinstance(values, Mapping):
        return {printable_values(key): printable_values(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [printable_values(value) for value in values]
    return values


def width(text: str) -> int:
    """The columns that ``text`` takes in a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def shortened(names: Sequence[str], columns: int) -> list[str]:
    """Every name in at most ``columns`` columns, cut in the middle, so that different names stay different.

    Names that would look the same are cut elsewhere: "Speed limit (20km/h)" and "Speed limit (30km/h)" become
    "Speed\N{HORIZONTAL ELLIPSIS}(20km/h)" and "Speed\N{HORIZONTAL ELLIPSIS}(30km/h)". What no cut tells apart ends
    with the name's position.
    """
    wanted = list(dict.fromkeys(names))
    middle = columns // 2
    found = {name: _cut(name, columns, middle) for name in wanted}
    heads = sorted(range(0, columns, columns // TRIED + 1), key=lambda head: abs(head - middle))
    for alike in _collisions(found):
        best = max(heads, key=lambda head: len({_cut(name, columns, head) for name in alike}))  # the first of equals
        found.update({name: _cut(name, columns, best) for name in alike})
    position = {name: k for k, name in reversed(list(enumerate(names)))}
    for alike in _collisions(found):
        for name in alike:
            mark = f"#{position[name]}"
            found[name] = _cut(name, max(columns - len(mark), 0), columns) + mark
    return [found[name] for name in names]


def _collisions(found: Mapping[str, str]) -> list[list[str]]:
    count = Counter(found.values())
    groups: dict[str, list[str]] = {}
    for name, short in found.items():
        if count[short] > 1:
            groups.setdefault(short, []).append(name)
    return list(groups.values())


def _cut(name: str, columns: int, head: int) -> str:
    """At most ``head`` columns from the start of the name and the rest from its end, if it does not fit as it is."""
    clusters = _clusters(printable(name))
    if sum(columns_of for _, columns_of in clusters) <= columns:
        return "".join(cluster for cluster, _ in clusters)
    if columns < 1:
        return ""
    start, used, most = 0, 0, min(head, columns - 1)
    while used + clusters[start][1] <= most:
        used += clusters[start][1]
        start += 1
    end, left = len(clusters), columns - 1 - used
    while end > start and clusters[end - 1][1] <= left:
        end -= 1
        left -= clusters[end][1]
    shown = ("".join(cluster for cluster, _ in part) for part in (clusters[:start], clusters[end:]))
    return f"{next(shown).rstrip()}{ELLIPSIS}{next(shown).lstrip()}"


@lru_cache(4096)
def _clusters(text: str) -> tuple[tuple[str, int], ...]:
    """What a reader sees as one character, with its columns: a letter with its accents, an emoji of several."""
    if text.isascii():
        return tuple((letter, 1) for letter in text)
    clusters: list[str] = []
    for letter in text:
        joined = clusters and (
            unicodedata.category(letter) in ("Mn", "Me", "Mc")
            or letter in JOINERS
            or clusters[-1][-1] in JOINERS
            or "\U0001f3fb" <= letter <= "\U0001f3ff"  # tones of skin
            or (_is_flag(letter) and _is_flag(clusters[-1]))
        )
        if joined:
            clusters[-1] += letter
        else:
            clusters.append(letter)
    return tuple((cluster, width(cluster)) for cluster in clusters)


def _is_flag(text: str) -> bool:
    """Half of a flag, which is two letters of this kind."""
    return len(text) == 1 and "\U0001f1e6" <= text <= "\U0001f1ff"
