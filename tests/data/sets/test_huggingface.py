"""Sets of Hugging Face `datasets`, as `save_to_disk` writes them."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from fairtat.data import StreamData, batches, load_huggingface, load_splits
from fairtat.errors import UserError


@pytest.fixture(scope="module")
def library() -> ModuleType:
    return pytest.importorskip("datasets", reason="the package datasets is not installed")


def table(library: ModuleType, values: list[int], labels: list[int], *, gray: bool = False):
    shape = (6, 5) if gray else (6, 5, 3)
    features = library.Features(
        {
            "name": library.Value("string"),
            "picture": library.Image(),
            "kind": library.ClassLabel(names=["cat", "dog"]),
            "coarse": library.ClassLabel(names=["x", "y", "z"]),
        }
    )
    columns = {
        "name": [str(v) for v in values],
        "picture": [Image.fromarray(np.full(shape, v, np.uint8)) for v in values],
        "kind": labels,
        "coarse": [2] * len(values),
    }
    return library.Dataset.from_dict(columns, features=features)


def values(data: StreamData) -> list[tuple[int, int]]:
    (batch,) = batches(data, len(data))
    return [(int(x.mean() * 255 + 0.5), int(y)) for x, y in zip(batch.x, batch.y, strict=True)]


@pytest.mark.parametrize("workers", [0, 1])
def test_parts_columns_and_pixels(library: ModuleType, tmp_path: Path, workers: int) -> None:
    parts = {
        "train": table(library, list(range(12)), [0, 1] * 6),
        "test": table(library, [50, 51], [1, 1]),
    }
    library.DatasetDict(parts).save_to_disk(tmp_path / "set")
    splits = load_splits(f"hf:{tmp_path / 'set'}", val=0.2, placement="stream", workers=workers)
    assert splits.train.class_names == ("cat", "dog")
    assert splits.train.image_shape == (3, 6, 5)
    assert values(splits.test) == [(50, 1), (51, 1)]
    assert sorted(values(splits.train) + values(splits.val)) == [(v, v % 2) for v in range(12)]
    assert len(splits.val) == 2


def test_a_single_table_is_split_and_gray_stays_gray(library: ModuleType, tmp_path: Path) -> None:
    table(library, list(range(20)), [0, 1] * 10, gray=True).save_to_disk(tmp_path / "set")
    splits = load_splits(f"hf:{tmp_path / 'set'}", val=0.2, test=0.3, workers=0)
    assert splits.train.image_shape == (1, 6, 5)
    held = values(splits.train) + values(splits.val) + values(splits.test)
    assert sorted(held) == [(v, v % 2) for v in range(20)]
    assert len(splits.test) == 6


def test_a_validation_part_alone_is_the_test_part(library: ModuleType, tmp_path: Path) -> None:
    parts = {"train": table(library, [1, 2, 3, 4], [0, 1, 0, 1]), "validation": table(library, [9], [0])}
    library.DatasetDict(parts).save_to_disk(tmp_path / "set")
    parts = load_huggingface(str(tmp_path / "set"), image_size=4)
    assert parts.val is None
    assert parts.test.image_shape == (3, 4, 4)
    assert values(parts.test) == [(9, 0)]


def test_tables_that_do_not_fit(library: ModuleType, tmp_path: Path) -> None:
    whole = table(library, [1, 2], [0, 1])

    def bad(tables, message: str) -> None:
        path = tmp_path / f"set{len(list(tmp_path.iterdir()))}"
        tables.save_to_disk(path)
        with pytest.raises(UserError, match=message):
            values(load_huggingface(str(path)).train)

    bad(whole.remove_columns(["picture"]), "has the columns name, kind, coarse; expected one of images")
    bad(whole.remove_columns(["kind", "coarse"]), "has the columns name, picture; expected one of class labels")
    bad(table(library, [1, 2], [0, -1]), r"\(train\): has rows without a label; expected one for each in 'kind'")
    bad(library.DatasetDict({"a": whole}), "has the splits a; expected train among them")
    broken = whole.cast_column("picture", library.Image(decode=False)).map(
        lambda row: {"picture": {"bytes": row["picture"]["bytes"] if row["name"] == "1" else b"no image", "path": None}}
    )
    bad(broken.cast_column("picture", library.Image()), r"\(train\), row 1: cannot be read as an image")


@pytest.mark.parametrize(
    ("kind", "train", "test", "class_names"),
    [
        ("string", ["dog", "cat", "\x1b[1mcow"] * 2, ["cat", "dog"], ("[1mcow", "cat", "dog")),
        ("int64", [0, 2, 1] * 2, [1, 0], ("0", "1", "2")),
        ("bool", [True, False] * 3, [True, True], ("0", "1")),
    ],
)
def test_labels_that_are_no_class_labels(
    library: ModuleType, tmp_path: Path, kind: str, train: list, test: list, class_names: tuple[str, ...]
) -> None:
    def plain(labels: list):
        whole = table(library, list(range(len(labels))), [0] * len(labels)).remove_columns(["kind", "coarse"])
        return whole.add_column("label", labels, feature=library.Value(kind))

    library.DatasetDict({"train": plain(train), "test": plain(test)}).save_to_disk(tmp_path / "set")
    parts = load_huggingface(str(tmp_path / "set"))
    assert parts.train.class_names == parts.test.class_names == class_names
    number_of = {label: number for number, label in enumerate(sorted(set(train)))}
    assert parts.train.labels.tolist() == [number_of[label] for label in train]
    assert parts.test.labels.tolist() == [number_of[label] for label in test]


def test_parts_with_the_classes_in_another_order_are_refused(library: ModuleType, tmp_path: Path) -> None:
    train = table(library, [1, 2], [0, 1])
    test = train.cast_column("kind", library.ClassLabel(names=["dog", "cat"]))
    library.DatasetDict({"train": train, "test": test}).save_to_disk(tmp_path / "set")
    with pytest.raises(UserError, match=r"\(test\): its classes are not those of the train split, in the same order"):
        load_huggingface(str(tmp_path / "set"))


def test_headers_are_looked_at_and_images_turned_as_asked(library: ModuleType, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.random.default_rng(0).integers(0, 256, (5, 6), dtype=np.uint8)
    content = []
    for number in range(4):
        file = io.BytesIO()
        upright = np.rot90(stored, -1)  # as many rows as the turned ones have
        Image.fromarray(stored if number == 3 else upright).save(file, "PNG", **({"exif": exif} if number == 3 else {}))
        content.append({"bytes": file.getvalue(), "path": None})
    features = library.Features({"image": library.Image(), "label": library.ClassLabel(names=["a", "b"])})

    def written(images: list, path: Path) -> str:
        library.Dataset.from_dict({"image": images, "label": [0, 1] * 2}, features=features).save_to_disk(path)
        return str(path)

    name = written(content, tmp_path / "good")
    train = load_huggingface(name).train
    assert train.check() == 1
    (batch,) = batches(train, 4)
    np.testing.assert_array_equal((batch.x[3, 0] * 255).round().to(torch.uint8).numpy(), upright)
    with pytest.raises(UserError, match=r"\(train\), row 3: is 5 pixels high and 6 wide; expected 6 and 5"):
        load_huggingface(name, exif="ignore").train.check()
    content[2]["bytes"] = content[2]["bytes"][:60]
    with pytest.raises(UserError, match=r"\(train\), row 2: cannot be read as an image"):
        load_huggingface(written(content, tmp_path / "bad")).train.check()


def test_images_that_lie_beside_the_table(library: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.full((6, 5), 9, np.uint8)).save(tmp_path / "a.png")
    features = library.Features({"image": library.Image(mode="RGB"), "label": library.ClassLabel(names=["a", "b"])})
    columns = {"image": [str(tmp_path / "a.png")] * 2, "label": [0, 1]}
    monkeypatch.setattr(library, "load_dataset", lambda name: library.Dataset.from_dict(columns, features=features))
    train = load_huggingface("some/set").train
    assert train.image_shape == (3, 6, 5)  # as the set declares, though the file is gray
    assert values(train) == [(9, 0), (9, 1)]


def test_a_set_that_is_not_there(library: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"^hf:.*empty: cannot be loaded \(") as caught:
        load_huggingface(str(tmp_path / "empty"))
    assert "\n" not in str(caught.value)

    def offline(name: str) -> None:
        raise ConnectionError(f"cannot reach the hub for {name}\nretry")

    monkeypatch.setattr(library, "load_dataset", offline)
    with pytest.raises(UserError, match=r"hf:some/set: cannot be loaded \(cannot reach the hub for some/set\)$"):
        load_huggingface("some/set")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"the data set hf:a/b needs datasets: pip install 'fairtat\[hf\]'"):
        load_huggingface("a/b")
