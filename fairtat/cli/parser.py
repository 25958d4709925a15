"""The argument parser of every subcommand: help with examples, errors of one line that name the nearest option."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn, get_args, get_origin

import jsonargparse
from jsonargparse.typing import register_type

from fairtat.errors import UserError, did_you_mean, nearest
from fairtat.training.config import Number

# Field docstrings of the option dataclasses are the help texts.
jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
register_type(Number, serializer=str, deserializer=Number)


class HelpFormatter(jsonargparse.DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of descriptions and examples."""


class Parser(jsonargparse.ArgumentParser):
    """A parser that raises ``UserError`` where argparse would print its usage and exit.

    ``renamed`` maps old names of options to the current ones; an old name still works, with a warning.
    """

    def __init__(
        self, command: str, description: str, example: str, renamed: Mapping[str, str] | None = None, **options: Any
    ) -> None:
        self._renamed = renamed or {}
        options.setdefault("allow_abbrev", False)
        super().__init__(
            prog=f"fairtat {command}",
            description=description,
            epilog=f"example:\n{example}",
            formatter_class=HelpFormatter,
            **options,
        )

    def parse_args(self, args: Sequence[str] | None = None, **kwargs: Any) -> jsonargparse.Namespace:  # type: ignore[override]
        """Parse; ``--batch-size`` is taken for ``--batch_size``, which is how YAML spells it."""
        words = [self._present(_underscored(word)) for word in (sys.argv[1:] if args is None else args)]
        return super().parse_args(words, **kwargs)

    def _present(self, word: str) -> str:
        """``word`` with the current name of its option."""
        name, separator, value = word.partition("=")
        old = name if name in self._renamed else name.partition(".")[0]
        if old not in self._renamed or (old != name and any(n.startswith(f"{old}.") for n in self._option_names())):
            return word
        new = self._renamed[old]
        print(f"warning: {old} is now {new}; the old name goes with the next release", file=sys.stderr)
        return f"{new}{name.removeprefix(old)}{separator}{value}"

    def add_trust_model(self) -> None:
        """Add the option that allows files to name code to run."""
        self.add_argument(
            "--trust_model",
            action="store_true",
            help="Run the code (module:function) that a file names as its model, data, objective or weight rule. "
            "Without it only a name typed here is run.",
        )

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UserError(f"{self.prog}: {self._explain(message)}") from ex

    def _explain(self, message: str) -> str:
        unknown = re.match(r"[Uu]nrecognized arguments: (.*)", message)
        if unknown is None:
            return plain_message(self._with_choices(message))
        given = unknown[1].split()
        option = next((word for word in given if word.startswith("-")), None)
        if option is None:
            return f"unexpected argument {given[0]!r}"
        option = option.partition("=")[0]
        # A user who writes --steps means --attack.steps, which has few letters in common with it.
        same_end = [name for name in self._option_names() if name.endswith("." + option.lstrip("-"))]
        return f"unknown option {option}{did_you_mean(option, same_end or self._option_names())}"

    def _with_choices(self, message: str) -> str:
        """List all values of a Literal where jsonargparse's message names only the bool among them."""
        key = re.match(r'\s*Parser key "([^"]*)":', message)
        hint = next(
            (getattr(action, "_typehint", None) for action in self._actions if key and action.dest == key[1]), None
        )
        if get_origin(hint) is not Literal:
            return message
        choices = ", ".join(str(value).lower() if isinstance(value, bool) else repr(value) for value in get_args(hint))
        return message.replace("Expected a <class 'bool'>", f"Expected a typing.Literal[{choices}]")

    def _option_names(self) -> list[str]:
        return [name for action in self._actions for name in action.option_strings if name.startswith("--")]


def comma_separated(text: str | None) -> list[str]:
    """The parts of ``a,b, c``; none of an empty text."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def number(option: str, text: str) -> float:
    """The number or fraction that was given for an option.

    Raises:
        UserError: it is neither.
    """
    try:
        return float(Number(text))
    except ValueError as error:
        raise UserError(f"--{option}: {error}") from None


def _underscored(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, separator, value = word[2:].partition("=")
    return f"--{name.replace('-', '_')}{separator}{value}"


def plain_message(message: str) -> str:
    """jsonargparse's explanation in one line and without Python's type notation."""
    key = re.match(r'\s*Parser key "([^"]*)":', message)
    value = re.search(r"Given value: (.*)", message)
    reasons = [line.strip()[2:] for line in message.splitlines() if line.strip().startswith("- ")]
    reasons = [reason for reason in reasons if "NoneType" not in reason]
    if key and reasons and value:
        text = f"{' or '.join(reasons)}, got {value[1]}" if value[1] not in reasons[0] else " or ".join(reasons)
    else:
        text = message[key.end() :] if key else message
    text = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", text)
    text = text.replace("Expected a <class 'int'>", "expected a whole number")
    text = text.replace("Expected a <class 'bool'>", "expected true or false")
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    text = text.replace("Expected a one of", "expected one of").replace(". Got value: ", ", got ")
    text = " ".join(text.split())
    choice = re.search(r"one of ('.*'), got (.*)$", text)
    near = nearest(choice[2].strip("'"), re.findall(r"'([^']*)'", choice[1])) if choice else None
    hint = f"; did you mean {near!r}?" if near else ""
    return (f"--{key[1]}: " if key else "") + text + hint
