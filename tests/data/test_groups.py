"""Groups of images: none on two sides of a split, classes still in proportion, leaks refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairtat.data import ImageData, hold_out, image_data, load_splits, stratified_split
from fairtat.errors import UserError
from fairtat.training.config import from_dict, from_run


def grouped(sizes: list[list[int]], *, text: bool = False) -> ImageData:
    """``sizes[class][group]`` images, in random order."""
    labels, groups = [], []
    for label, of_class in enumerate(sizes):
        for number, size in enumerate(of_class):
            labels += [label] * size
            groups += [1000 * label + number] * size
    order = np.random.default_rng(0).permutation(len(labels))
    values = np.array(groups)[order]
    return image_data(
        "made",
        np.zeros((len(labels), 2, 2), np.uint8),
        np.array(labels)[order],
        class_names=tuple("abcdef"[: len(sizes)]),
        groups=values.astype(str) if text else values,
    )


@given(
    sizes=st.lists(st.lists(st.integers(1, 9), min_size=6, max_size=30), min_size=2, max_size=4),
    val=st.floats(0.05, 0.3),
    test=st.floats(0.05, 0.3),
    seed=st.integers(0, 2**40),
    text=st.booleans(),
)
def test_no_group_is_cut_and_shares_hold_to_a_group(
    sizes: list[list[int]], val: float, test: float, seed: int, text: bool
) -> None:
    data = grouped(sizes, text=text)
    splits = stratified_split(data, val=val, test=test, seed=seed)
    parts = {"val": splits.val, "test": splits.test, "train": splits.train}
    assert sorted(torch.cat([part.ids for part in parts.values()]).tolist()) == list(range(len(data)))
    assert data.groups is not None
    sides = [set(data.groups[part.ids].tolist()) for part in parts.values()]
    assert sum(map(len, sides)) == len(set().union(*sides)) == sum(map(len, sizes))
    for label, of_class in enumerate(sizes):
        for name, share in (("val", val), ("test", test)):
            members = int((parts[name].labels == label).sum())
            assert members >= 1
            assert members < share * sum(of_class) + max(of_class) + 1


def test_groups_that_hold_several_classes_stay_whole() -> None:
    rng = np.random.default_rng(1)
    groups, labels = rng.integers(0, 60, 3000), rng.integers(0, 5, 3000)
    data = image_data("made", np.zeros((3000, 2, 2), np.uint8), labels, groups=groups)
    splits = stratified_split(data, val=0.15, test=0.2, seed=4)
    for part, share in ((splits.val, 0.15), (splits.test, 0.2)):
        held = torch.bincount(part.labels, minlength=5) / torch.bincount(data.labels)
        assert bool(((held - share).abs() < 0.05).all())
    sides = [set(groups[part.ids.numpy()]) for part in (splits.train, splits.val, splits.test)]
    assert sum(map(len, sides)) == 60


def test_too_few_groups_are_named() -> None:
    data = grouped([[5, 5, 5], [9, 9]])
    assert len(hold_out(data, val=0.3)[1]) > 0
    with pytest.raises(UserError, match=r"made: class 1 \('b'\) has 18 samples in 2 groups; expected at least 3"):
        stratified_split(data, val=0.2, test=0.2)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    images = np.arange(60 * 4, dtype=np.uint8).reshape(60, 2, 2)
    labels, frames = np.arange(60) % 2, np.arange(60) // 4
    np.savez(tmp_path / "mine.npz", images=images, labels=labels, groups=frames, other=np.arange(60) // 2)
    return tmp_path / "mine.npz"


def test_an_npz_file_brings_its_groups(file: Path) -> None:
    splits = load_splits(file)
    assert not set((splits.train.ids // 4).tolist()) & set((splits.test.ids // 4).tolist())
    other = load_splits(file, groups="other")
    assert not set((other.train.ids // 2).tolist()) & set((other.test.ids // 2).tolist())
    assert load_splits(file, groups="none").train.groups is None
    with pytest.raises(UserError, match=r"has no array 'video', which data.groups names; it holds groups, images"):
        load_splits(file, groups="video")


def test_a_csv_file_gives_groups(file: Path, tmp_path: Path) -> None:
    table = tmp_path / "groups.csv"
    table.write_text("group,note\n" + "".join(f"v{k // 6},x\n" for k in range(60)))
    splits = load_splits(file, groups=str(table))
    assert not set((splits.train.ids // 6).tolist()) & set((splits.val.ids // 6).tolist())
    table.write_text("group\n1\n")
    with pytest.raises(UserError, match=r"groups.csv: has 1 rows; expected 60, one for each training image"):
        load_splits(file, groups=str(table))
    table.write_text("name\n1\n")
    with pytest.raises(UserError, match=r"groups.csv: has the columns name; expected group among them"):
        load_splits(file, groups=str(table))
    with pytest.raises(UserError, match=r"missing.csv: no such file"):
        load_splits(file, groups="missing.csv")
    with pytest.raises(UserError, match=r"data.groups is 'video' for 'digits'; expected auto, none or a .csv file"):
        load_splits("digits", groups="video")


def test_a_csv_file_names_the_images_of_a_folder(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    rows = ["file,group"]
    for label in ("a", "b"):
        (tmp_path / "set" / label).mkdir(parents=True)
        for k in range(12):
            image.new("L", (4, 4), k).save(tmp_path / "set" / label / f"{k:02}.png")
            rows.append(f"{label}/{k:02}.png,{k // 3}")
    table = tmp_path / "groups.csv"
    table.write_text("\n".join(rows))
    splits = load_splits(tmp_path / "set", groups=str(table), val=0.25, test=0.25, workers=0)
    sides = [{int(k) % 12 // 3 for k in part.ids} for part in (splits.train, splits.val, splits.test)]
    assert sum(map(len, sides)) == len(set().union(*sides)) == 4
    table.write_text("\n".join(rows[:-1]))
    with pytest.raises(UserError, match=r"has no row for b/11.png"):
        load_splits(tmp_path / "set", groups=str(table), workers=0)


def test_a_group_on_two_sides_of_published_sets_is_an_error(tmp_path: Path) -> None:
    images, labels = np.zeros((40, 2, 2), np.uint8), np.arange(40) % 2
    arrays = {"images": images, "labels": labels, "test_images": images, "test_labels": labels}
    np.savez(tmp_path / "a.npz", **arrays, groups=np.arange(40) // 2, test_groups=100 + np.arange(40) // 2)
    assert len(load_splits(tmp_path / "a.npz").test) == 40
    np.savez(tmp_path / "b.npz", **arrays, groups=np.arange(40) // 2, test_groups=19 + np.arange(40) // 2)
    with pytest.raises(UserError, match=r"b.npz: 1 groups have images in both (train|val) and test \(such as image"):
        load_splits(tmp_path / "b.npz")


def test_a_run_that_knew_no_groups_keeps_its_split() -> None:
    assert from_run({"data": {"name": "digits"}}, source="old").data.groups == "none"
    assert from_run({"data": {"name": "digits", "groups": "auto"}}, source="new").data.groups == "auto"
    assert from_dict({"data": {"name": "digits"}}).data.groups == "auto"


def test_an_empty_file_of_groups_is_told_for_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("")
    with pytest.raises(UserError, match=r"groups.csv: has the columns none; expected different names"):
        load_splits("digits", groups=str(tmp_path / "groups.csv"))
