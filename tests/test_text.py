"""Names that a terminal may show, and short ones that stay apart."""

from __future__ import annotations

import random
import unicodedata

import pytest
from rich.cells import cell_len

from fairtat.text import printable, printable_values, shortened, width

# Class names of GTSRB, long and much alike.
GTSRB = [
    *(f"Speed limit ({v}km/h)" for v in (20, 30, 50, 60, 70, 80, 100, 120)),
    "End of speed limit (80km/h)",
    "No passing",
    "No passing for vehicles over 3.5 metric tons",
    "Vehicles over 3.5 metric tons prohibited",
    "End of no passing",
    "End of no passing by vehicles over 3.5 metric tons",
    "Priority to through-traffic at the next intersection/crossroads only",
    "Dangerous curve to the left",
    "Dangerous curve to the right",
]
WIDE = [
    "日本語のとても長い名前です",
    "日本語のとても長い名札です",
    "👨‍👩‍👧‍👦 family of four people 🇩🇪",
    "e\u0301" * 30 + "x",
    "e\u0301" * 30 + "y",
]


@pytest.mark.parametrize("names", [GTSRB, WIDE, GTSRB + WIDE], ids=["long", "wide", "both"])
@pytest.mark.parametrize("columns", [6, 8, 12, 19, 30, 100])
def test_short_names_fit_and_stay_apart(names: list[str], columns: int) -> None:
    found = shortened(names, columns)
    assert len(set(found)) == len(names)
    for name, short in zip(names, found, strict=True):
        assert cell_len(short) <= columns
        assert short == name or cell_len(name) > columns
        assert unicodedata.combining(short[0]) == 0  # no accent without its letter


def test_what_tells_names_apart_is_kept() -> None:
    assert shortened(["Speed limit (20km/h)", "Speed limit (30km/h)"], 12) == ["Spee…20km/h)", "Spee…30km/h)"]
    # Cut in the middle they would be one.
    assert shortened(["abcdefgh1uvwxyz", "abcdefgh2uvwxyz"], 9) == ["a…1uvwxyz", "a…2uvwxyz"]
    assert shortened(["cat", "cat", "a long name of a dog"], 8) == ["cat", "cat", "a lo…dog"]


def test_a_thousand_names_that_only_a_number_tells_apart() -> None:
    names = [f"a common beginning {k:04} and a common end of all names" for k in range(1000)]
    found = shortened(names, 10)
    assert len(set(found)) == 1000
    assert max(map(width, found)) <= 10
    assert found[7].endswith("#7")


def test_random_names_never_collide_or_overflow() -> None:
    draw = random.Random(0)
    letters = "ab (é日👍\u0301"
    for _ in range(200):
        names = list({"".join(draw.choices(letters, k=draw.randint(1, 30))).strip() for _ in range(12)} - {""})
        columns = draw.randint(5, 16)
        found = shortened(names, columns)
        assert len(set(found)) == len(names)
        assert max(map(cell_len, found)) <= columns


def test_controls_are_taken_out_and_breaks_become_spaces() -> None:
    assert printable("\x1b[31mred\x1b[0m\x07\x9b") == "[31mred[0m"
    assert printable("a\r\nb\tc\u2028d") == "a b c d"
    assert printable("a\n\x1bb\r\nc\fd\te", lines=True) == "a\nb\nc\nd\te"
    assert printable("ab\u202ecd\u2066\ufeff\udc80") == "abcd"
    plain = "çà 日本 👨\u200d👩\u200d👧 \u0645\u06cc\u200c\u062e"
    assert printable(plain) == plain
    assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in printable("".join(map(chr, range(0x2000)))))


def test_every_text_of_plain_values_is_cleaned() -> None:
    values = {"a\x1b": ["b\x07", 1, None, {"c": ("d\x00", 0.5)}]}
    assert printable_values(values) == {"a": ["b", 1, None, {"c": ["d", 0.5]}]}
