"""Data sets by name."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from fairtat.data import DATASETS, ImageData, StreamData, batches, load, load_splits
from fairtat.errors import UserError
from fairtat.training.config import DataConfig


def test_names_and_files(tmp_path: Path) -> None:
    assert load("digits").name == "digits"
    file = tmp_path / "mine.npz"
    np.savez(file, images=np.zeros((12, 4, 4), np.uint8), labels=np.arange(12) % 2)
    assert load(file).name == str(file)


def test_the_help_of_the_command_line_names_them_all() -> None:
    text = inspect.getsource(DataConfig)
    assert [name for name in DATASETS if not re.search(rf"\b{name}\b", text)] == []


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digts", {}, r"no data set is called 'digts'; did you mean 'digits'\?"),
        (
            "./no/such/place",
            {},
            r"no data set is called './no/such/place'; valid: FILE.npz, FILE.parquet, a folder of images, cifar10",
        ),
        ("digits", {"download": True}, "data.download is true for 'digits'; expected false: only cifar10 and cifar100"),
        ("digits", {"layout": "nchw"}, "data.layout is nchw for 'digits'; expected auto: only .npz files"),
        ("digits", {"image_size": 16}, "data.image_size is 16 for 'digits'; expected null"),
    ],
)
def test_mistakes(name: str, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_splits(name, **options)


def test_load_splits_uses_its_shares() -> None:
    splits = load_splits("digits", val=0.1, test=0.3, seed=1)
    assert len(splits.train) + len(splits.val) + len(splits.test) == 1797
    assert abs(len(splits.test) - 0.3 * 1797) <= 5
    assert abs(len(splits.val) - 0.1 * 1797) <= 5


def test_placement_changes_where_images_lie_and_nothing_else() -> None:
    held = load_splits("digits", seed=2)
    streamed = load_splits("digits", seed=2, placement="stream", workers=1)
    assert isinstance(held.train, ImageData)
    assert isinstance(load_splits("digits", seed=2, placement="device").train, ImageData)
    for part in ("train", "val", "test"):
        one, other = getattr(held, part), getattr(streamed, part)
        assert isinstance(other, StreamData)
        for a, b in zip(batches(one, 500, seed=1), batches(other, 500, seed=1), strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_layout_is_passed_on(tmp_path: Path) -> None:
    file = tmp_path / "mine.npz"
    np.savez(file, images=np.zeros((12, 3, 7, 3), np.uint8), labels=np.arange(12) % 2)
    with pytest.raises(UserError, match=r"set data.layout to nchw or nhwc"):
        load(file)
    assert load(file, layout="nhwc").image_shape == (3, 3, 7)
    assert load_splits(file, layout="nchw").test.image_shape == (3, 7, 3)


def test_labels_from_1_that_leave_class_0_empty_get_a_hint(tmp_path: Path) -> None:
    file = tmp_path / "mine.npz"
    np.savez(file, images=np.zeros((12, 7, 7), np.uint8), labels=np.arange(12) % 2 + 1)
    with pytest.raises(UserError, match=r"class 0 \('0'\) has 0 samples; .*; do the labels start at 1\?"):
        load_splits(file)
