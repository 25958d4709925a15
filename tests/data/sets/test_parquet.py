"""Parquet files, as Hugging Face `datasets` and others write them: all pixels and labels arrive, or a line says why."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fairtat.data import StreamData, batches, load_parquet, load_splits
from fairtat.errors import UserError


@pytest.fixture(scope="module")
def arrow() -> ModuleType:
    pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    return sys.modules["pyarrow"]


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def images(count: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    shape = (count, 6, 5, 3) if channels == 3 else (count, 6, 5)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pixels_of(data: StreamData) -> np.ndarray:
    """(N, H, W, C) uint8."""
    (batch,) = batches(data, len(data))
    return (batch.x * 255).round().byte().permute(0, 2, 3, 1).numpy()


def test_what_datasets_writes(tmp_path: Path) -> None:
    library = pytest.importorskip("datasets", reason="the package datasets is not installed")
    stored = images(9)
    features = library.Features(
        {
            "name": library.Value("binary"),
            "img": library.Image(),
            "kind": library.ClassLabel(names=["cat", "dog", "cow"]),
        }
    )
    columns = {
        "name": [b"no image"] * 9,
        "img": [Image.fromarray(pixels) for pixels in stored],
        "kind": [k % 3 for k in range(9)],
    }
    library.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "set.parquet", batch_size=4)
    train = load_parquet(tmp_path / "set.parquet").train
    assert train.class_names == ("cat", "dog", "cow")
    assert train.labels.tolist() == [k % 3 for k in range(9)]
    np.testing.assert_array_equal(pixels_of(train), stored)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("nested", [True, False])
def test_files_without_a_declaration(
    arrow: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nested: bool, workers: int
) -> None:
    monkeypatch.chdir(tmp_path)
    stored, held_out = images(12, channels=1), images(4, seed=1, channels=1)

    def write(file: str, pixels: np.ndarray, labels: list[Any], row_group_size: int = 5) -> None:
        content: list[Any] = [png(each) for each in pixels]
        if nested:
            content = [{"bytes": each, "path": "x.png"} for each in content]
        table = arrow.table({"label": labels, "image": content})
        sys.modules["pyarrow.parquet"].write_table(table, file, row_group_size=row_group_size)

    write("train.parquet", stored, ["b", "a"] * 6)
    write("test.parquet", held_out, ["a", "a", "b", "a"])
    splits = load_splits(
        "train.parquet", test_file="test.parquet", val=0.34, workers=workers, placement="stream", seed=3
    )
    assert splits.test.class_names == ("a", "b")
    assert splits.test.labels.tolist() == [0, 0, 1, 0]
    np.testing.assert_array_equal(pixels_of(splits.test)[..., 0], held_out)
    assert set(splits.test.ids.tolist()) == {12, 13, 14, 15}
    for part in (splits.train, splits.val):
        np.testing.assert_array_equal(pixels_of(part)[..., 0], stored[part.ids.numpy()])
        assert part.labels.tolist() == [1 - int(k) % 2 for k in part.ids]


def test_a_shard_stands_for_all(arrow: ModuleType, tmp_path: Path) -> None:
    stored = images(10)
    files = [tmp_path / f"train-{k:05d}-of-00003.parquet" for k in range(3)]
    for file, rows in zip(files, np.array_split(np.arange(10), 3), strict=True):
        table = arrow.table({"image": [png(stored[row]) for row in rows], "label": [int(row) % 2 for row in rows]})
        sys.modules["pyarrow.parquet"].write_table(table, file)
    for file in files:
        train = load_parquet(file).train
        assert train.labels.tolist() == [k % 2 for k in range(10)]
        np.testing.assert_array_equal(pixels_of(train), stored)
    files[1].unlink()
    with pytest.raises(UserError, match=r"train-00001-of-00003\.parquet: no such file, a shard of train-00000"):
        load_parquet(files[0])


def test_files_that_cannot_be_used(arrow: ModuleType, tmp_path: Path) -> None:
    content = [png(pixels) for pixels in images(4)]

    def bad(columns: dict[str, list[Any]], message: str) -> None:
        file = tmp_path / "bad.parquet"
        sys.modules["pyarrow.parquet"].write_table(arrow.table(columns), file)
        with pytest.raises(UserError, match=message) as caught:
            load_parquet(file).train.check()
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(str(file))

    bad({"label": [0, 1, 0, 1], "x": [1.0] * 4}, "has the columns label, x; expected one of images")
    bad({"image": content, "y": [0, 1, 0, 1]}, "has the columns image, y; expected one of class labels")
    bad({"image": content, "label": [0, 1, None, 1]}, "has rows without a label; expected one for each in 'label'")
    bad({"image": content, "label": [0, 1, -1, 1]}, "has rows without a label")
    bad({"image": content, "label": [0.5, 1, 1, 1]}, r"labels hold 0\.5 \(sample 0\)")
    bad({"image": [*content[:3], None], "label": [0, 1, 0, 1]}, r"row 3: holds no bytes of an image")
    bad({"image": [*content[:3], b"no image"], "label": [0, 1, 0, 1]}, r"row 3: cannot be read as an image")
    bad({"image": [*content[:3], png(images(1)[0, :4])], "label": [0, 1, 0, 1]}, r"row 3: is 4 pixels high and 5 wide")
    bad({"image": [content[0]][:0], "label": [0][:0]}, "expected one of images|holds no rows")
    whole = tmp_path / "whole.parquet"
    sys.modules["pyarrow.parquet"].write_table(arrow.table({"image": content, "label": [0, 1, 0, 1]}), whole)
    (tmp_path / "cut.parquet").write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"cut\.parquet: cannot be read as Parquet \("):
        load_parquet(tmp_path / "cut.parquet")
    with pytest.raises(UserError, match=r"nowhere\.parquet: no such file$"):
        load_splits(tmp_path / "nowhere.parquet")
    sys.modules["pyarrow.parquet"].write_table(
        arrow.table({"image": content, "label": [0, 1, 0, 2]}), tmp_path / "three.parquet"
    )
    with pytest.raises(UserError, match=r"three\.parquet"):
        load_parquet(whole, test_file=tmp_path / "three.parquet")


def test_images_are_scaled_if_asked(arrow: ModuleType, tmp_path: Path) -> None:
    content = [png(images(1)[0]), png(np.full((12, 9, 3), 7, np.uint8))] * 2
    sys.modules["pyarrow.parquet"].write_table(
        arrow.table({"image": content, "label": [0, 1, 0, 1]}), tmp_path / "x.parquet"
    )
    train = load_parquet(tmp_path / "x.parquet", image_size=4).train
    assert train.image_shape == (3, 4, 4)
    assert (pixels_of(train)[1] == 7).all()


def test_without_pyarrow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"the data set a\.parquet needs pyarrow: pip install 'fairtat\[parquet\]'"):
        load_splits("a.parquet")
