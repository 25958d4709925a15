"""Configurations as plain dictionaries and YAML files: every key and type checked, errors in one line."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from fairtat.errors import UserError, nearest
from fairtat.training.config.experiment import TrainConfig
from fairtat.training.config.values import Number

__all__ = ["from_dict", "from_run", "load_yaml", "parse_yaml", "stacked", "to_dict", "to_yaml", "unknown_key"]


def from_dict(values: Mapping[str, Any], *, source: str = "config") -> TrainConfig:
    """The configuration that ``values`` (nested, as in YAML) describe; what they leave out keeps its default.

    Raises:
        UserError: an unknown key (the nearest valid one is named), a wrong type or a value out of range; the message
            starts with ``source``.
    """
    try:
        config = _convert(TrainConfig, values, "")
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    assert isinstance(config, TrainConfig)
    return config


def from_run(values: Mapping[str, Any], *, source: str) -> TrainConfig:
    """As `from_dict`, of what a run has stored. A run older than ``data.groups`` was split without groups, and must be.

    Raises:
        UserError: as `from_dict`.
    """
    data = values.get("data")
    if isinstance(data, Mapping):
        values = {**values, "data": {"groups": "none", **data}}
    return from_dict(values, source=source)


def to_dict(config: Any) -> dict[str, Any]:
    """Nested dictionary of plain YAML values: `from_dict` gives an equal configuration back."""
    return {item.name: _plain(getattr(config, item.name)) for item in fields(config)}


def to_yaml(config: TrainConfig) -> str:
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file, keys and values not yet checked.

    Raises:
        UserError: the file is missing, is not YAML, or holds something else than a mapping.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    return parse_yaml(content, path)


def stacked(layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One mapping of several, as the command line stacks ``--config`` files: a later value replaces an earlier one."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            before = result.get(key)
            both = isinstance(before, dict) and isinstance(value, dict)
            result[key] = stacked([before, value]) if both else value  # type: ignore[list-item]
    return result


def parse_yaml(content: bytes, path: str | Path) -> dict[str, Any]:
    """As `load_yaml`, of the content of the file ``path``."""
    try:
        text = content.decode()
        _refuse_duplicates(yaml.compose(text, Loader=yaml.SafeLoader), path)
        values = yaml.safe_load(text)
    except (UnicodeDecodeError, RecursionError, ValueError) as error:  # ValueError: such as the date 2026-99-99
        raise UserError(f"{path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise UserError(f"{path}{where}: not valid YAML ({getattr(error, 'problem', error)})") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"{path}: expected keys and values, such as 'epochs: 30'")
    return values


def _refuse_duplicates(root: yaml.Node | None, path: str | Path) -> None:
    """YAML's libraries take the last of two values for a key, so that the first one is a setting that does nothing."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:  # an alias may lead back to where it stands
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        if not isinstance(node, yaml.MappingNode):
            continue
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            waiting += [key, value]
            if not isinstance(key, yaml.ScalarNode):
                continue
            line, name = key.start_mark.line + 1, (key.tag, key.value)
            if name in lines:
                raise UserError(f"{path}, line {line}: {key.value!r} has a value already, in line {lines[name]}")
            lines[name] = line


def unknown_key(key: str) -> str:
    """The message for a key that does not exist, naming the nearest one that does."""
    keys = _all_keys()
    # "steps" means "attack.steps", which has few letters in common with it.
    same_name = [valid for valid in keys if valid.rpartition(".")[2] == key.rpartition(".")[2]]
    near = same_name or difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else "`fairtat train --help` lists the valid ones"
    return f"unknown key {key!r}; {hint}"


@lru_cache(maxsize=1)
def _all_keys() -> tuple[str, ...]:
    def walk(cls: Any, prefix: str) -> Iterator[str]:
        for name, hint in get_type_hints(cls).items():
            yield prefix + name
            if is_dataclass(hint):
                yield from walk(hint, f"{prefix}{name}.")

    return tuple(walk(TrainConfig, ""))


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Number):
        return value.plain()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _convert(hint: Any, value: Any, key: str) -> Any:
    """``value`` as the annotation ``hint`` asks, or a UserError that names ``key``."""
    if is_dataclass(hint):
        return _convert_section(hint, value, key)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, key)
    if origin is Literal:
        if (type(value), value) not in [(type(choice), choice) for choice in arguments]:  # 1 is not True
            near = nearest(_shown(value), map(_shown, arguments))
            hint = f"; did you mean {near!r}?" if near else ""
            raise UserError(f"{key} is {value!r}; expected one of {', '.join(map(_shown, arguments))}{hint}")
        return value
    if origin is list:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{key} is {value!r}; expected a list")
        return [_convert(arguments[0], item, key) for item in value]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise UserError(f"{key} is {value!r}; expected keys and values")
        return dict(value)
    if hint is Number:
        return _convert_number(value, key)
    # bool is an int to Python, but `epochs: yes` is a mistake.
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        expected = {int: "a whole number", str: "a string", bool: "true or false"}[hint]
        raise UserError(f"{key} is {value!r}; expected {expected}")
    return value


def _shown(value: Any) -> str:
    """As YAML writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _convert_section(cls: Any, value: Any, key: str) -> Any:
    prefix = f"{key}." if key else ""
    if not isinstance(value, Mapping):
        raise UserError(f"{key} is {value!r}; expected keys and values")
    hints = get_type_hints(cls)
    for name in value:
        if name not in hints:
            raise UserError(unknown_key(f"{prefix}{name}"))
    return cls(**{name: _convert(hints[name], item, prefix + name) for name, item in value.items()})


def _convert_union(alternatives: tuple[Any, ...], value: Any, key: str) -> Any:
    if value is None and type(None) in alternatives:
        return None
    kinds = [hint for hint in alternatives if hint is not type(None)]
    if len(kinds) == 1:
        return _convert(kinds[0], value, key)
    # Unions of two kinds are a thing or a list of such things, and a number or a word: the value's own type picks.
    for hint in kinds:
        origin = get_origin(hint)
        if value in get_args(hint) if origin is Literal else origin is list and isinstance(value, (list, tuple)):
            return _convert(hint, value, key)
    single = next(hint for hint in kinds if get_origin(hint) is None)
    try:
        return _convert(single, value, key)
    except UserError:
        words = [word for hint in kinds if get_origin(hint) is Literal for word in get_args(hint)]
        what = "number" if single is Number else "string"
        other = ", ".join(words) or f"a list of {what}s"
        raise UserError(f"{key} is {value!r}; expected a {what} or {other}") from None


def _convert_number(value: Any, key: str) -> Number:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise UserError(f"{key} is {value!r}; expected a number or a fraction such as 8/255")
    try:
        return Number(value)
    except ValueError as error:
        raise UserError(f"{key}: {error}") from error
