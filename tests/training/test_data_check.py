"""Damaged images of every part are found before the first epoch, and by a dry run even where only pixels show them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fairtat.errors import UserError
from fairtat.training import dry_run, train
from fairtat.training.config import from_dict


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    rng = np.random.default_rng(0)
    for part, count in (("train", 10), ("val", 2), ("test", 2)):
        for name in ("a", "b"):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{number}.png")
    return folder


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_file_that_broke_off_is_found_before_anything_is_written(images: Path, tmp_path: Path, part: str) -> None:
    file = images / part / "b" / "1.png"
    file.write_bytes(file.read_bytes()[:70])
    with pytest.raises(UserError, match=rf"{part}/b/1.png: cannot be read as an image"):
        train(config_of(images, tmp_path))
    assert not (tmp_path / "run").exists()


def test_a_dry_run_decodes_every_image(images: Path, tmp_path: Path) -> None:
    file = images / "test" / "b" / "1.png"
    content = bytearray(file.read_bytes())
    content[content.index(b"IDAT") + 6] ^= 0xFF
    file.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"test/b/1.png: cannot be read as an image"):
        dry_run(config_of(images, tmp_path))


def config_of(images: Path, tmp_path: Path):
    return from_dict({
        "data": {"name": str(images), "workers": 0},
        "model": {"name": "mlp", "options": {"width": 4}},
        "epochs": 1,
        "device": "cpu",
        "output": str(tmp_path / "run"),
    })  # fmt: skip
