"""Pickles of arrays, text and numbers, read without running any code in them."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from fairtat.errors import UserError

__all__ = ["load_plain"]


def _latin1(text: str, encoding: str) -> bytes:
    # How protocol 2 writes bytes from Python 3. Other codecs are refused.
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded as {encoding}")
    return text.encode("latin1")


_reconstruct = np.empty(0).__reduce__()[0]
_frombuffer = np.empty(0).__reduce_ex__(5)[0]

# Python 2's numpy, today's, and the one in between call the same functions by different names.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): _latin1,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        allowed = _ALLOWED.get((module, name))
        if allowed is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return allowed


def load_plain(content: bytes, name: str) -> Any:
    """Unpickle numpy arrays, dicts, lists, text and numbers; text of Python 2 is read as latin-1.

    Raises:
        UserError: the pickle is damaged, or asks for anything else, which is then not run; the message names ``name``.
    """
    try:
        return _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
    # A damaged pickle can fail anywhere in the unpickler's small machine, which calls only what is allowed.
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{name}: cannot be read as a pickle of plain arrays ({reason})") from error
