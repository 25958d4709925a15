"""Files from outside: good ones load to the values written, bad ones give one line that names the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fairtat.data import load_npz
from fairtat.errors import UserError


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"images": rng.integers(0, 256, (12, 5, 6, 3), dtype=np.uint8), "labels": np.arange(12) % 3}


def test_round_trip(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    file = tmp_path / "mine.npz"
    np.savez_compressed(file, **arrays, class_names=np.array(["cat", "dog", "ünï"]))
    data = load_npz(file)
    assert data.class_names == ("cat", "dog", "ünï")
    assert data.image_shape == (3, 5, 6)
    np.testing.assert_array_equal(data.images.numpy(), arrays["images"].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(data.labels.numpy(), arrays["labels"])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "uint32", ">i4", "int64"])
def test_every_integer_type_of_labels(tmp_path: Path, arrays: dict[str, np.ndarray], dtype: str) -> None:
    file = tmp_path / "mine.npz"
    np.savez(file, images=arrays["images"], labels=arrays["labels"].astype(dtype))
    assert torch.equal(load_npz(file).labels, torch.arange(12) % 3)


@pytest.mark.parametrize("dtype", ["float16", "float32", ">f4", "float64"])
def test_every_float_type_of_images(tmp_path: Path, dtype: str) -> None:
    pixels = np.linspace(0, 1, 4 * 9).reshape(4, 3, 3).astype(dtype)
    file = tmp_path / "mine.npz"
    np.savez(file, images=pixels, labels=[0, 1, 0, 1])
    np.testing.assert_array_equal(load_npz(file).images[:, 0].numpy(), pixels.astype(np.float32))


def write_bad(file: Path, kind: str, arrays: dict[str, np.ndarray]) -> None:
    if kind == "text":
        file.write_text("not an archive")
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "truncated":
        np.savez(file, **arrays)
        file.write_bytes(file.read_bytes()[:200])
    elif kind == "corrupt":
        np.savez(file, **arrays)
        content = bytearray(file.read_bytes())
        content[300] ^= 0xFF  # inside the pixels: the checksum no longer fits
        file.write_bytes(bytes(content))
    elif kind == "no labels":
        np.savez(file, images=arrays["images"], label=arrays["labels"])
    elif kind == "objects":
        np.savez(file, images=np.array([{}], dtype=object), labels=arrays["labels"])
    elif kind == "strings":
        np.savez(file, images=arrays["images"], labels=np.array(["a"] * 12))
    elif kind == "npy":
        with file.open("wb") as stream:
            np.save(stream, arrays["images"])
    elif kind == "directory":
        file.mkdir()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such file"),
        ("text", "cannot be read as an .npz file"),
        ("empty", "cannot be read as an .npz file"),
        ("truncated", "cannot be read as an .npz file"),
        ("corrupt", "cannot be read as an .npz file"),
        ("directory", "cannot be read as an .npz file"),
        ("objects", "cannot be read as an .npz file"),
        ("no labels", "has no array 'labels'; it holds images, label"),
        ("strings", "labels has dtype <U1; expected numbers"),
        ("npy", "holds a single array"),
    ],
)
def test_bad_files(tmp_path: Path, arrays: dict[str, np.ndarray], kind: str, message: str) -> None:
    file = tmp_path / "mine.npz"
    write_bad(file, kind, arrays)
    with pytest.raises(UserError) as caught:
        load_npz(file)
    text = str(caught.value)
    assert text.startswith(str(file))
    assert message in text
    assert "\n" not in text
