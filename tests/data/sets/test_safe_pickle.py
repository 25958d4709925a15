"""Pickles of arrays are read whatever wrote them; what else a pickle may ask for is not run."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from fairtat.data.sets.safe_pickle import load_plain
from fairtat.errors import UserError


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol(protocol: int) -> None:
    value = {"data": np.arange(12, dtype=np.uint8).reshape(3, 4), "labels": [1, 2, 3], "name": "ä", b"raw": b"\x00\xff"}
    found = load_plain(pickle.dumps(value, protocol), "file")
    np.testing.assert_array_equal(found.pop("data"), value.pop("data"))
    assert found == value


def python2_pickle(pixels: np.ndarray, labels: list[int]) -> bytes:
    """{'data': pixels, 'labels': labels} in the opcodes of Python 2 and numpy 1, as in the published files."""

    def text(value: bytes) -> bytes:  # SHORT_BINSTRING, BINSTRING: Python 2's str
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value

    def number(value: int) -> bytes:  # BININT
        return b"J" + struct.pack("<i", value)

    rebuild = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"tR"
    dtype = b"cnumpy\ndtype\n(" + text(b"u1") + number(0) + number(1) + b"tR"
    dtype += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    shape = number(pixels.shape[0]) + number(pixels.shape[1]) + b"\x86"
    state = b"(" + number(1) + shape + dtype + b"\x89" + text(pixels.tobytes()) + b"tb"
    items = b"]" + b"(" + b"".join(map(number, labels)) + b"e"
    return b"\x80\x02}(" + text(b"data") + rebuild + state + text(b"labels") + items + b"u."


def test_pickles_of_python_2() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 97), dtype=np.uint8)
    found = load_plain(python2_pickle(pixels, [3, 1, 4, 1, 5]), "file")
    np.testing.assert_array_equal(found["data"], pixels)
    assert found["labels"] == [3, 1, 4, 1, 5]


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"data": np.zeros(3), "more": [x]}])
def test_code_is_not_run(tmp_path: Path, wrap) -> None:
    file = tmp_path / "touched"
    content = pickle.dumps(wrap(Touch(file)))
    with pytest.raises(UserError, match=r"^batch: cannot be read as a pickle of plain arrays \(it asks for "):
        load_plain(content, "batch")
    assert not file.exists()
    pickle.loads(content)
    assert file.exists()  # it would have been


@pytest.mark.parametrize(
    "call", [b"cbuiltins\neval\n(U\x011tR.", b"c_codecs\nencode\n(U\x01xU\x05rot13tR.", b"cos\nsystem\n."]
)
def test_other_functions_are_refused(call: bytes) -> None:
    with pytest.raises(UserError, match="cannot be read as a pickle of plain arrays"):
        load_plain(b"\x80\x02" + call, "batch")


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_damage_is_told_in_one_line(protocol: int) -> None:
    content = pickle.dumps({"data": np.arange(40, dtype=np.uint8), "labels": [1, 2]}, protocol)
    for length in range(0, len(content) - 1, 7):
        with pytest.raises(UserError) as caught:
            load_plain(content[:length], "batch")
        assert "\n" not in str(caught.value)
