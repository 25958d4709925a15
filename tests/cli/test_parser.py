from __future__ import annotations

from typing import Literal

import pytest

from fairtat.cli.parser import Parser, comma_separated, number
from fairtat.errors import UserError
from fairtat.training import Number


@pytest.fixture
def parser() -> Parser:
    parser = Parser("demo", "Does nothing.", "  fairtat demo --batch_size 3")
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--attack.eps", type=Number, default=Number("8/255"))
    parser.add_argument("--kind", type=Literal["a", "b"], default="a")
    parser.add_argument("--format", type=Literal["auto", True, False], default="auto")
    parser.add_argument("--fast", type=bool, default=False)
    return parser


@pytest.mark.parametrize("words", [["--batch_size", "3"], ["--batch-size", "3"], ["--batch-size=3"]])
def test_hyphens_are_taken_for_underscores(parser: Parser, words: list[str]) -> None:
    assert parser.parse_args(words).batch_size == 3


def test_hyphens_in_values_stay(parser: Parser) -> None:
    parser.add_argument("--name", type=str)
    assert parser.parse_args(["--name=a-b"]).name == "a-b"


def test_fractions_are_numbers(parser: Parser) -> None:
    assert parser.parse_args(["--attack.eps", "4/255"]).attack.eps == 4 / 255


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch_sise", "3"], "fairtat demo: unknown option --batch_sise; did you mean '--batch_size'?"),
        (["--eps", "3"], "fairtat demo: unknown option --eps; did you mean '--attack.eps'?"),
        (["--batch_size", "x"], "fairtat demo: --batch_size: expected a whole number, got x"),
        (["--kind", "c"], "fairtat demo: --kind: expected one of 'a', 'b', got c"),
        (["--format", "maybe"], "fairtat demo: --format: expected one of 'auto', true, false, got maybe"),
        (["--fast", "maybe"], "fairtat demo: --fast: expected true or false, got maybe"),
        (["--batch_size"], "fairtat demo: argument --batch_size: expected one argument"),
        (["more"], "fairtat demo: unexpected argument 'more'"),
    ],
)
def test_mistakes_raise_one_line(parser: Parser, words: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        parser.parse_args(words)
    assert str(caught.value) == message


def test_lists_are_split_at_commas() -> None:
    assert comma_separated("a, b,,c ") == ["a", "b", "c"]
    assert comma_separated(None) == comma_separated("") == []


def test_numbers_and_fractions_in_lists() -> None:
    assert [number("eps_sweep", text) for text in ("8/255", "0.5")] == [8 / 255, 0.5]
    with pytest.raises(UserError, match=r"^--eps_sweep: "):
        number("eps_sweep", "many")
