"""Image files: the pixels that were written, one size, and one line for each file that cannot be used."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fairtat.data.image_files import FileSource, channels_of, open_image
from fairtat.errors import UserError


def pixels(height: int = 6, width: int = 9, channels: int = 3) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(height * width).integers(0, 256, shape, dtype=np.uint8)


def save(file: Path, array: np.ndarray, **options: object) -> str:
    Image.fromarray(array).save(file, **options)
    return str(file)


def test_pixels_are_those_of_the_file(tmp_path: Path) -> None:
    arrays = [pixels(), pixels() // 2, 255 - pixels()]
    files = [save(tmp_path / f"{n}.png", array) for n, array in enumerate(arrays)]
    source = FileSource(files, channels=3)
    assert source.image_shape == (3, 6, 9)
    read = source.read([2, 0, 1, 2])
    np.testing.assert_array_equal(read.numpy(), np.stack([arrays[n].transpose(2, 0, 1) for n in (2, 0, 1, 2)]))


def test_modes(tmp_path: Path) -> None:
    grey = pixels(channels=1)
    file = save(tmp_path / "grey.png", grey)
    assert torch.equal(FileSource([file], channels=3).read([0])[0], torch.from_numpy(grey).expand(3, 6, 9))
    assert torch.equal(FileSource([file], channels=1).read([0])[0, 0], torch.from_numpy(grey))
    transparent = np.concatenate([pixels(), np.full((6, 9, 1), 128, np.uint8)], axis=2)
    read = FileSource([save(tmp_path / "rgba.png", transparent)], channels=3).read([0])
    np.testing.assert_array_equal(read[0].numpy(), pixels().transpose(2, 0, 1))
    few = Image.fromarray(pixels()).quantize(4)
    few.save(tmp_path / "palette.png")
    read = FileSource([str(tmp_path / "palette.png")], channels=3).read([0])
    np.testing.assert_array_equal(read[0].numpy(), np.asarray(few.convert("RGB")).transpose(2, 0, 1))


def test_scaling_covers_the_square_and_keeps_the_middle(tmp_path: Path) -> None:
    flat = np.zeros((20, 60, 3), np.uint8)
    flat[:, 20:40] = 200  # the middle square
    read = FileSource([save(tmp_path / "wide.png", flat)], channels=3, image_size=20).read([0])
    assert read.shape == (1, 3, 20, 20)
    assert (read == 200).all()
    halved = FileSource([str(tmp_path / "wide.png")], channels=3, image_size=10).read([0])
    assert (halved[..., 1:-1] == 200).all()
    for size in ((31, 17), (7, 7), (3, 50), (33, 32)):
        file = save(tmp_path / f"{size}.png", pixels(*size))
        assert FileSource([file], channels=3, image_size=16).read([0]).shape == (1, 3, 16, 16)


def test_grey_or_colour_is_decided_by_all_that_are_looked_at(tmp_path: Path) -> None:
    files = [save(tmp_path / f"{n}.png", pixels(channels=1)) for n in range(4)]
    assert channels_of(files) == 1
    files.append(save(tmp_path / "4.png", pixels()))
    assert channels_of(files) == 3


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    good = save(tmp_path / "good.jpg", pixels(64, 64))
    whole = Path(good).read_bytes()

    def bad(name: str, content: bytes | None, message: str, **options: object) -> None:
        file = tmp_path / name
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(UserError) as caught:
            FileSource([good, str(file)], **{"channels": 3, **options}).read([1])
        assert str(caught.value).startswith(f"{file}: {message}")
        assert "\n" not in str(caught.value)

    bad("text.png", b"hello", "cannot be read as an image (of no known format)")
    bad("empty.png", b"", "cannot be read as an image")
    bad("truncated.jpg", whole[: len(whole) // 2], "cannot be read as an image (image file is truncated")
    bad("gone.png", None, "no such file")
    save(tmp_path / "small.png", pixels(6, 9))
    bad(
        "small.png", None, "is 6 pixels high and 9 wide; expected 64 and 64, as the first image is (set data.image_size"
    )
    save(tmp_path / "deep.png", np.zeros((64, 64), np.uint16))
    bad("deep.png", None, "has pixels of mode I;16; expected 8 bits a channel")
    save(tmp_path / "colour.png", pixels(64, 64))
    bad("colour.png", None, "is in colour (mode RGB); expected grey", channels=1)


def test_without_pillow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UserError, match=r"reading image files needs PIL: pip install 'fairtat\[vision\]'"):
        open_image("a.png")
