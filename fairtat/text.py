"""Names for people: without control characters, and short where there is little room."""

from __future__ import annotations

import re

__all__ = ["printable"]

# Controls, which a terminal obeys; marks that turn the direction of writing or take no room; halves of surrogates.
_BREAKS = re.compile("[\t\n\v\f\r\x85\u2028\u2029]+")
_CONTROLS = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: str, *, lines: bool = False) -> str:
    """``text`` as a terminal and a page may show it: no control characters, and one line unless ``lines``."""
    return _CONTROLS.sub("", text if lines else _BREAKS.sub(" ", text))
