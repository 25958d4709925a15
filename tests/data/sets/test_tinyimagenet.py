"""TinyImageNet in its published layout, written here with four classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fairtat.data import batches, load_splits, load_tinyimagenet
from fairtat.errors import UserError

WNIDS = ["n03126707", "n02012849", "n01443537", "n07720875"]
WORDS = "n01443537\tgoldfish, Carassius auratus\nn02012849\tcrane\nn03126707\tcrane\nn00000001\tother\n"


def image(value: int, *, gray: bool = False) -> Image.Image:
    return Image.fromarray(np.full((64, 64) if gray else (64, 64, 3), value, np.uint8))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny-imagenet-200"
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    (folder / "words.txt").write_text(WORDS)
    for number, wnid in enumerate(sorted(WNIDS)):
        (folder / "train" / wnid / "images").mkdir(parents=True)
        for copy in range(5):
            file = folder / "train" / wnid / "images" / f"{wnid}_{copy}.JPEG"
            image(10 * number + copy, gray=copy == 0).save(file, quality=100)
    lines = []
    for number in range(6):
        image(100 + number).save(folder / "val" / "images" / f"val_{number}.JPEG", quality=100)
        lines.append(f"val_{number}.JPEG\t{WNIDS[number % 4]}\t0\t32\t44\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return tmp_path


def test_images_labels_and_names(root: Path) -> None:
    parts = load_tinyimagenet(root)
    assert parts.train.class_names == ("goldfish", "crane (n02012849)", "crane (n03126707)", "n07720875")
    (train,), (test,) = batches(parts.train, 20), batches(parts.test, 6)
    assert train.x.shape == (20, 3, 64, 64)
    assert train.y.tolist() == [k for k in range(4) for _ in range(5)]
    values = [round(float(x.mean()) * 255) for x in train.x]
    assert values == [10 * k + copy for k in range(4) for copy in range(5)]
    assert test.y.tolist() == [sorted(WNIDS).index(WNIDS[number % 4]) for number in range(6)]
    assert [round(float(x.mean()) * 255) for x in test.x] == list(range(100, 106))
    assert test.ids.tolist() == list(range(20, 26))


def test_what_macos_leaves_is_skipped(root: Path) -> None:
    (root / "tiny-imagenet-200" / "train" / WNIDS[0] / "images" / f"._{WNIDS[0]}_0.JPEG").write_bytes(b"no image")
    assert len(load_tinyimagenet(root).train) == 20
    words = root / "tiny-imagenet-200" / "words.txt"
    words.write_bytes(b"n01443537\tgold\x1b[31mfish\n" + b"\xff\xfe")
    with pytest.raises(UserError, match=r"words.txt: cannot be read"):
        load_tinyimagenet(root)
    words.write_text("n01443537\tgold\x1b[31mfish\n")
    assert load_tinyimagenet(root).train.class_names[0] == "gold[31mfish"


def test_the_published_validation_part_is_the_test_part(root: Path) -> None:
    splits = load_splits("tinyimagenet", root=root, val=0.2, workers=0)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (16, 4, 6)
    assert len(load_splits("tinyimagenet", root=root / "tiny-imagenet-200", workers=0).test) == 6


def test_what_is_missing_is_told(root: Path) -> None:
    folder = root / "tiny-imagenet-200"
    (folder / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn99999999\t0\t0\t1\t1\n")
    with pytest.raises(
        UserError, match=r"val_annotations.txt: line 1 names class 'n99999999', which wnids.txt has not"
    ):
        load_tinyimagenet(root)
    (folder / "val" / "val_annotations.txt").unlink()
    with pytest.raises(UserError, match=r"val_annotations.txt: no such file; expected the published"):
        load_tinyimagenet(root)
    for file in (folder / "train" / WNIDS[0] / "images").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=rf"train/{WNIDS[0]}/images: holds no .JPEG files"):
        load_tinyimagenet(root)
    with pytest.raises(UserError, match=r"tinyimagenet: no tiny-imagenet-200/wnids.txt in .*; set data.root"):
        load_tinyimagenet(root / "elsewhere")
