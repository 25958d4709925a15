"""The usual form of an op's arguments, checked by one call into the compiled core.

The checks of an op in Python take several times as long as a small batch does. A signature answers yes or no, in less
than a microsecond; only after a no do the checks run, which can say what is wrong, or bring the arguments into form.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

from fairtat.backends import native

Fits = Callable[..., int]
NO, ON_CPU, ELSEWHERE = 0, 1, 2  # what a signature answers: it does not fit, or where the tensors are


def signature(*rules: str) -> Fits:
    """A function of an op's arguments, positional and one for each rule, that says whether all have their usual form.

    A rule is one of::

        int64 (7+C, C) written     a dense tensor: dtypes, sizes (a letter stands for one number in all rules), and
        float32|float16 (N)?       whether the op writes it; with ? it may be None
        int64 (C)|(C, C)           a tensor of one shape or another: they differ in their number of dimensions
        float32 (N, C, ...)        images, of at least two dimensions: contiguous or channels_last
        float32 like 0             a tensor with the shape and strides of the argument at that position
        amount (N)                 a number that float32 holds, at least 0, or a float32 tensor
        amount                     the number alone
        integer 0 4294967295       an int, with its lowest and highest value
        seed                       an int in [-2**63, 2**64)
        bool                       True or False
        bounds                     a pair of floats (low, high), low < high, that float32 holds
        one of a b c               a string

    `ON_CPU` and `ELSEWHERE` also say: every tensor is a plain one with memory of its own and no pending negation, all
    are on one device, what is written shares memory with no other, and FAIRTAT_BACKEND names no backend. `NO` says
    nothing: there are forms that an op serves and no signature describes. Without rules or the compiled core, or with
    a PyTorch that lacks DLPack's C exchange, it is always `NO`.
    """
    parsed = [_parsed(rule) for rule in rules]
    exchange = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    if not rules or native.MISSING is not None or exchange is None:
        return _no
    try:
        fits: Fits = native.core().signature((torch.Tensor, torch.nn.Parameter), exchange, parsed)
    except RuntimeError:  # an exchange of another version
        return _no
    except KeyError as error:  # an editable installation whose sources have moved on
        raise ImportError(
            f"fairtat's compiled core was built from other sources than this package (it has no {error}); build it "
            "again with pip install -e ."
        ) from error
    return fits


def _no(*_: Any) -> int:
    return NO


_SIZES = r"[A-Z0-9+]+(?:, [A-Z0-9+]+)*"
_SHAPE = rf"\({_SIZES}\)"
_TENSOR = re.compile(
    r"(?P<dtypes>[a-z0-9|]+) "
    rf"(?:\((?P<image>{_SIZES}), \.\.\.\)|(?P<shapes>{_SHAPE}(?:\|{_SHAPE})*)|like (?P<other>\d+))"
    r"(?P<optional>\?)?(?P<written> written)?"
)


def _parsed(rule: str) -> dict[str, Any]:
    word, _, rest = rule.partition(" ")
    if word in ("seed", "bool", "bounds", "amount") and not rest:
        return {"kind": "number" if word == "amount" else word}
    if word == "integer":
        low, high = map(int, rest.split())
        return {"kind": word, "low": low, "high": high}
    if rule.startswith("one of "):
        return {"kind": "choice", "choices": rest.split()[1:]}
    match = _TENSOR.fullmatch(rule)
    if match is None:
        raise ValueError(f"rule must have a form that signature() describes, got {rule!r}")
    return {
        "kind": "amount" if word == "amount" else "tensor",
        "form": "images" if match["image"] else "like" if match["other"] else "dense",
        "dtypes": ["float32"] if word == "amount" else match["dtypes"].split("|"),
        "shapes": [
            [_size(size) for size in shape.split(", ")]
            for shape in re.findall(_SIZES, match["image"] or match["shapes"] or "")
        ],
        "other": int(match["other"] or 0),
        "optional": match["optional"] is not None,
        "written": match["written"] is not None,
    }


def _size(size: str) -> tuple[str, int]:
    """The letter and the constant of "C" or "7+C"."""
    plus, _, letter = size.rpartition("+")
    return letter, int(plus or 0)
