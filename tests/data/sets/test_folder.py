"""Folders of images: classes and files in a fixed order, published parts recognized, gaps told."""

from __future__ import annotations

import itertools
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fairtat.data import StreamData, batches, check_images, load_folder, load_splits
from fairtat.errors import UserError


def write(folder: Path, counts: dict[str, int], *, first: int = 0, size: tuple[int, int] = (5, 4)) -> None:
    """``counts`` gray images per class, whose pixels are first, first + 1, ... in the order of classes and names."""
    value = first
    for class_name in sorted(counts):
        (folder / class_name).mkdir(parents=True)
        for number in range(counts[class_name]):
            Image.fromarray(np.full(size, value, np.uint8)).save(folder / class_name / f"{number:03}.png")
            value += 1


def values(data: StreamData) -> list[tuple[int, int]]:
    (batch,) = batches(data, len(data))
    return [(int(x[0, 0, 0] * 255 + 0.5), int(y)) for x, y in zip(batch.x, batch.y, strict=True)]


def test_one_folder_a_class(tmp_path: Path) -> None:
    write(tmp_path, {"dog": 3, "cat": 2, "ant": 4})
    (tmp_path / ".cache").mkdir()
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    parts = load_folder(tmp_path)
    assert (parts.val, parts.test) == (None, None)
    assert parts.train.class_names == ("ant", "cat", "dog")
    assert parts.train.image_shape == (1, 5, 4)
    assert values(parts.train) == list(zip(range(9), [0, 0, 0, 0, 1, 1, 2, 2, 2], strict=True))


def test_files_further_down_and_capital_extensions(tmp_path: Path) -> None:
    write(tmp_path, {"a": 1, "b": 1})
    (tmp_path / "a" / "more").mkdir()
    Image.fromarray(np.full((5, 4), 9, np.uint8)).save(tmp_path / "a" / "more" / "X.PNG")
    assert values(load_folder(tmp_path).train) == [(0, 0), (9, 0), (1, 1)]


def test_published_parts(tmp_path: Path) -> None:
    write(tmp_path / "train", {"a": 10, "b": 10})
    write(tmp_path / "val", {"a": 2, "b": 1}, first=50)
    write(tmp_path / "test", {"b": 3}, first=80)  # a class may be missing in a part
    splits = load_splits(tmp_path)
    assert values(splits.val) == [(50, 0), (51, 0), (52, 1)]
    assert values(splits.test) == [(80, 1), (81, 1), (82, 1)]
    assert len(splits.train) == 20
    ids = torch.cat([splits.train.ids, splits.val.ids, splits.test.ids])
    assert sorted(ids.tolist()) == list(range(26))


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_validation_comes_from_the_train_part_where_it_lacks(tmp_path: Path, test_name: str) -> None:
    write(tmp_path / "train", {"a": 10, "b": 20})
    write(tmp_path / test_name, {"a": 2, "b": 1}, first=50)
    splits = load_splits(tmp_path, val=0.2)
    assert values(splits.test) == [(50, 0), (51, 0), (52, 1)]
    assert [int((splits.val.labels == k).sum()) for k in range(2)] == [2, 4]
    held = values(splits.train) + values(splits.val)
    assert sorted(held) == [(v, int(v >= 10)) for v in range(30)]


def test_images_of_several_sizes(tmp_path: Path) -> None:
    write(tmp_path / "train", {"a": 3, "b": 3})
    write(tmp_path / "test", {"a": 1, "b": 1}, size=(8, 8))
    with pytest.raises(UserError, match=r"000.png: is 8 pixels high and 8 wide; expected 5 and 4, as the training"):
        load_folder(tmp_path)
    parts = load_folder(tmp_path, image_size=4)
    assert parts.train.image_shape == parts.test.image_shape == (1, 4, 4)
    assert len(values(parts.test)) == 2


def test_a_broken_file_is_named_when_it_is_read(tmp_path: Path) -> None:
    write(tmp_path, {"a": 3, "b": 3})
    file = tmp_path / "b" / "001.png"
    file.write_bytes(file.read_bytes()[:50])  # the header is whole
    data = load_splits(tmp_path, val=0.3, test=0.3, placement="stream", workers=1)
    drawn = itertools.chain.from_iterable(batches(part, 2) for part in (data.train, data.val, data.test))
    with pytest.raises(UserError, match=r"b/001.png: cannot be read as an image"):
        list(drawn)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "train" / "empty").mkdir(), r"train/empty: holds no images \(\.bmp, "),
        (lambda root: write(root / "test2", {"z": 1}), None),
        (lambda root: write(root / "val", {"z": 1}), r"val: has class 'z', which the training set does not have"),
        (lambda root: (root / "test").mkdir(), r"test: holds no images"),
    ],
)
def test_gaps(tmp_path: Path, spoil, message: str | None) -> None:
    write(tmp_path / "train", {"a": 3, "b": 3})
    spoil(tmp_path)
    if message is None:
        assert load_folder(tmp_path).test is None
        return
    with pytest.raises(UserError, match=message):
        load_folder(tmp_path)


def test_no_classes_or_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 0 subfolders; expected one for each class, at least 2"):
        load_folder(tmp_path)
    with pytest.raises(UserError, match=r"nowhere: no such folder"):
        load_folder(tmp_path / "nowhere")


def test_what_macos_and_tools_leave_is_skipped(tmp_path: Path) -> None:
    write(tmp_path / "train", {"a": 2, "b": 2})
    write(tmp_path / "test", {"a": 1, "b": 1}, first=10)
    plain = load_folder(tmp_path)
    for place in ("__MACOSX/a", "train/__MACOSX", "train/.git", "train/a/.thumbnails", "test/b/@eaDir"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "000.png").write_bytes(b"\0\5\x16\7 no image")
    for name in ("._000.png", ".hidden.jpg", ".DS_Store"):
        (tmp_path / "train" / "a" / name).write_bytes(b"\0\5\x16\7 no image")
    parts = load_folder(tmp_path)
    assert parts.train.class_names == ("a", "b")
    assert values(parts.train) == values(plain.train) == [(0, 0), (1, 0), (2, 1), (3, 1)]
    assert values(parts.test) == values(plain.test)
    for name in ("000.png", "001.png"):
        (tmp_path / "train" / "a" / name).unlink()
    with pytest.raises(UserError, match=r"train/a: holds no images"):
        load_folder(tmp_path)


@pytest.mark.parametrize("names", [("Train", "Test"), ("training", "testing"), ("TRAIN", "Validation")])
def test_parts_in_other_spellings(tmp_path: Path, names: tuple[str, str]) -> None:
    write(tmp_path / names[0], {"a": 2, "b": 2})
    write(tmp_path / names[1], {"a": 1, "b": 1}, first=10)
    parts = load_folder(tmp_path)
    assert parts.train.class_names == ("a", "b")
    assert values(parts.test) == [(10, 0), (11, 1)]


def test_a_class_may_be_called_train_but_parts_are_no_classes(tmp_path: Path) -> None:
    write(tmp_path / "vehicles", {"car": 1, "train": 1})
    assert load_folder(tmp_path / "vehicles").train.class_names == ("car", "train")
    write(tmp_path / "parts" / "test", {"a": 1, "b": 1})
    write(tmp_path / "parts" / "val", {"a": 1, "b": 1})
    with pytest.raises(UserError, match="parts: holds test and val, but no train beside them"):
        load_folder(tmp_path / "parts")
    write(tmp_path / "flat", {"test": 1, "train": 1})
    with pytest.raises(UserError, match="flat/train: has 0 subfolders"):
        load_folder(tmp_path / "flat")


def test_names_of_folders_that_a_terminal_would_obey(tmp_path: Path) -> None:
    names = ("a\x1b[31m", "b\nb", "c\udce9", "\x1b")  # the third is no UTF-8
    for part, first in (("train", 0), ("test", 10)):
        write(tmp_path / part, dict.fromkeys(names, 1), first=first)
    parts = load_folder(tmp_path)
    assert parts.train.class_names == ("0", "a[31m", "b b", "c")
    assert parts.test.class_names == parts.train.class_names
    assert values(parts.train) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert values(parts.test) == [(10, 0), (11, 1), (12, 2), (13, 3)]


def test_a_link_that_leads_back_up(tmp_path: Path) -> None:
    write(tmp_path, {"a": 2, "b": 1})
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a")
    assert values(load_folder(tmp_path).train) == [(0, 0), (1, 0), (2, 1)]


def test_a_folder_that_cannot_be_read_is_not_taken_for_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"a": 2, "b": 1})
    (tmp_path / "a" / "closed").mkdir()
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"a/closed: cannot be read \(Permission denied\)"):
        load_folder(tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_file_of_any_part_is_found_by_a_check(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fairtat.data.stream._GROUPS_WITHOUT_WORKERS", 0)
    write(tmp_path / "train", {"a": 10, "b": 10})
    write(tmp_path / "test", {"a": 2, "b": 2}, size=(5, 4))
    splits = load_splits(tmp_path, workers=workers)
    parts = (splits.train, splits.val, splits.test)
    check_images(*parts)
    check_images(*parts, decode=True)
    file = tmp_path / "test" / "b" / "001.png"
    whole = file.read_bytes()
    for content in (b"", whole[:50], b"no image"):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"test/b/001.png: cannot be read as an image"):
            check_images(*parts)
    inside = bytearray(whole)
    inside[whole.index(b"IDAT") + 6] ^= 0xFF  # head and end are whole
    file.write_bytes(bytes(inside))
    check_images(*parts)
    with pytest.raises(UserError, match=r"test/b/001.png: cannot be read as an image"):
        check_images(*parts, decode=True)


def test_turned_images_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "train", {"a": 10, "b": 10})
    write(tmp_path / "test", {"a": 1, "b": 1})
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("000.png", "001.png"):
        Image.fromarray(np.full((4, 5), 9, np.uint8)).save(tmp_path / "train" / "b" / name, exif=exif)
    with caplog.at_level(logging.WARNING, logger="fairtat"):
        check_images(*load_folder(tmp_path)[::2])
    assert caplog.messages == [
        "notice: 2 of 22 images are turned as their EXIF orientation says; data.exif: ignore leaves them as they are "
        "stored"
    ]
    with pytest.raises(UserError, match=r"b/000.png: is 4 pixels high and 5 wide; expected 5 and 4"):
        check_images(load_folder(tmp_path, exif="ignore").train)
