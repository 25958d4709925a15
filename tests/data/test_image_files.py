"""Image files: the pixels that were written, one size, and one line for each file that cannot be used."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fairtat.data.image_files import FileSource, open_image
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
    gray = pixels(channels=1)
    file = save(tmp_path / "gray.png", gray)
    assert torch.equal(FileSource([file], channels=3).read([0])[0], torch.from_numpy(gray).expand(3, 6, 9))
    assert torch.equal(FileSource([file], channels=1).read([0])[0, 0], torch.from_numpy(gray))
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


def test_gray_or_color_is_decided_by_all_that_are_looked_at(tmp_path: Path) -> None:
    files = [save(tmp_path / f"{n}.png", pixels(channels=1)) for n in range(4)]
    assert FileSource(files).image_shape == (1, 6, 9)
    files.append(save(tmp_path / "4.png", pixels()))
    assert FileSource(files).image_shape == (3, 6, 9)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    good = save(tmp_path / "good.jpg", pixels(64, 64))
    whole = Path(good).read_bytes()

    def bad(name: str, content: bytes | None, message: str, **options: object) -> None:
        file = tmp_path / name
        if content is not None:
            file.write_bytes(content)
        source = FileSource([good, str(file)], **{"channels": 3, **options})
        for use in (source.read, source.check):
            with pytest.raises(UserError) as caught:
                use([1])
            assert str(caught.value).startswith(f"{file}: {message}")
            assert "\n" not in str(caught.value)

    bad("text.png", b"hello", "cannot be read as an image (it is empty, or of no known format)")
    bad("empty.png", b"", "cannot be read as an image (it is empty")
    bad("truncated.jpg", whole[: len(whole) // 2], "cannot be read as an image (image file is truncated")
    bad("gone.png", None, "no such file")
    save(tmp_path / "small.png", pixels(6, 9))
    bad(
        "small.png", None, "is 6 pixels high and 9 wide; expected 64 and 64, as the first image is (set data.image_size"
    )
    save(tmp_path / "deep.png", np.zeros((64, 64), np.uint16))
    bad("deep.png", None, "has pixels of mode I;16; expected 8 bits per channel")
    save(tmp_path / "color.png", pixels(64, 64))
    bad("color.png", None, "is in color (mode RGB); expected gray", channels=1)


# What undoes each orientation, on an array: the EXIF standard says where row 0 and column 0 of the stored pixels lie.
UPRIGHT = {
    1: lambda a: a,  # row 0 at the top, column 0 on the left
    2: lambda a: a[:, ::-1],  # top, right
    3: lambda a: a[::-1, ::-1],  # bottom, right
    4: lambda a: a[::-1],  # bottom, left
    5: lambda a: a.swapaxes(0, 1),  # left, top
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],  # right, top
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
    8: lambda a: a.swapaxes(0, 1)[::-1],  # left, bottom
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff"])
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    stored = np.zeros((8, 16), np.uint8)
    stored[:, 8:] = 100
    stored[4:, 8:] = 200  # in blocks of 8 columns and 4 rows: JPEG keeps them nearly
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = save(tmp_path / f"photo.{suffix}", stored, exif=exif, **({"quality": 100} if suffix == "jpg" else {}))
    upright = UPRIGHT[orientation](stored).astype(int)
    source = FileSource([file])
    assert source.image_shape[1:] == upright.shape
    assert np.abs(source.read([0])[0, 0].numpy().astype(int) - upright).max() <= 4
    assert source.check([0]) == int(orientation != 1 and suffix != "tiff")
    if suffix != "tiff":  # where turning is part of the format
        ignored = FileSource([file], exif="ignore")
        assert np.abs(ignored.read([0])[0, 0].numpy().astype(int) - stored).max() <= 4
        assert ignored.check([0]) == 0


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_data_are_no_reason_to_refuse_an_image(tmp_path: Path) -> None:
    whole = pixels()
    for number, exif in enumerate(
        (b"Exif\x00\x00MM\x00*\xff\xff\xff\xff", b"Exif\x00\x00", b"Exif\x00\x00II*\x00\x08")
    ):
        file = save(tmp_path / f"{number}.png", whole, exif=exif)
        source = FileSource([file])
        np.testing.assert_array_equal(source.read([0])[0].numpy(), whole.transpose(2, 0, 1))
        assert source.check([0]) == 0


def test_a_check_reads_no_pixels_of_whole_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [save(tmp_path / name, pixels()) for name in ("a.png", "b.jpg")]
    files.append(save(tmp_path / "trailing.jpg", pixels()))
    with Path(files[2]).open("ab") as stream:
        stream.write(b"\0\0")  # legal, and only decoding tells it from a file that broke off
    source, read = FileSource(files), []
    monkeypatch.setattr(source, "read", lambda rows: read.extend(rows))
    assert source.check([0, 1, 2]) == 0
    assert read == [2]


def test_cmyk_and_sixteen_bits_a_channel_in_color(tmp_path: Path) -> None:
    inks = Image.fromarray(pixels(64, 64)).convert("CMYK")
    inks.save(tmp_path / "inks.tiff")
    read = FileSource([str(tmp_path / "inks.tiff")], channels=3).read([0])
    np.testing.assert_array_equal(read[0].numpy(), np.asarray(inks.convert("RGB")).transpose(2, 0, 1))


def test_without_pillow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UserError, match=r"reading image files needs PIL: pip install 'fairtat\[vision\]'"):
        open_image("a.png")
