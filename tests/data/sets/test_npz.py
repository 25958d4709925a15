"""Files from outside: good ones load to the values written, bad ones give one line that names the file."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from fairtat.data import load_npz, load_npz_parts, load_splits
from fairtat.data.sets import npz
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
    elif kind == "object names":
        np.savez(file, **arrays, class_names=np.array(["a", "b", "c"], dtype=object))
    elif kind == "strings":
        np.savez(file, images=np.array(["a"] * 12), labels=arrays["labels"])
    elif kind == "huge":
        header = io.BytesIO()
        shape = (10**6, 10**6, 3)
        np.lib.format.write_array_header_2_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        np.savez(file, labels=arrays["labels"])
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr("images.npy", header.getvalue() + bytes(100))
    elif kind == "member":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("images.npy", b"not an array")
            archive.writestr("labels.npy", b"")
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
        ("objects", "images is an array of Python objects, which would run code when read"),
        ("object names", "class_names is an array of Python objects"),
        ("huge", "cannot be read as an .npz file of plain arrays (images claims 3000000000000 bytes, more than"),
        ("member", "cannot be read as an .npz file"),
        ("no labels", "has no array 'labels' beside 'images'; it holds images, label"),
        ("strings", "images has dtype <U1; expected numbers"),
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


def test_a_layout_and_labels_of_text(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    file = tmp_path / "mine.npz"
    images = np.concatenate([arrays["images"], arrays["images"][..., :1]], axis=3)
    np.savez(file, images=images, labels=np.array(["cat", "\x1b[2Jdog"] * 6).reshape(12, 1))
    with pytest.raises(UserError, match="neither axis 1 nor axis 3 has 1 or 3 channels"):
        load_npz(file)
    data = load_npz(file, layout="nhwc")
    assert data.image_shape == (4, 5, 6)
    assert data.class_names == ("[2Jdog", "cat")  # in the order of what is stored
    assert data.labels.tolist() == [1, 0] * 6


def test_what_does_not_fit_into_memory_is_not_read(
    tmp_path: Path, arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.npz"
    np.savez_compressed(file, **arrays, other=np.zeros(10**6))  # not asked for, so not read
    assert len(load_npz(file)) == 12
    monkeypatch.setattr(npz, "free_memory", lambda device: 1000)
    with pytest.raises(UserError, match=r"images takes 0.0 GiB; 0.0 GiB of memory are free"):
        load_npz(file)


def test_nothing_is_unpickled(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "sprung",)  # type: ignore[return-value]

    file = tmp_path / "mine.npz"
    np.savez(file, images=arrays["images"], labels=np.array([Trap()] * 12, dtype=object))
    with pytest.raises(UserError, match="labels is an array of Python objects"):
        load_npz(file)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (("images", "labels"), ("test_images", "test_labels")),
        (("x_train", "y_train"), ("x_test", "y_test")),
        (("train_images", "train_labels"), ("x_test", "y_test")),
    ],
)
def test_a_file_with_a_test_part(
    tmp_path: Path, arrays: dict[str, np.ndarray], train: tuple[str, str], test: tuple[str, str]
) -> None:
    file = tmp_path / "mine.npz"
    images, labels = arrays["images"], arrays["labels"]
    np.savez(file, **{train[0]: images, train[1]: labels, test[0]: images[:6], test[1]: labels[:6].reshape(-1, 1)})
    splits = load_splits(file, val=0.25)
    np.testing.assert_array_equal(splits.test.images.numpy(), images[:6].transpose(0, 3, 1, 2))
    assert splits.test.labels.tolist() == labels[:6].tolist()
    ids = torch.cat([splits.train.ids, splits.val.ids, splits.test.ids])
    assert sorted(ids.tolist()) == list(range(18))
    assert len(load_npz(file)) == 12


def test_a_test_file_and_all_three_sets(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    images, labels = arrays["images"], arrays["labels"]
    both = {"val_images": images[:3], "val_labels": labels[:3]}
    np.savez(tmp_path / "train.npz", **arrays, **both, class_names=["a", "b", "c"])
    np.savez(tmp_path / "test.npz", images=images[3:9] / 255, labels=np.array(["c", "a", "b"] * 2))
    parts = load_npz_parts(tmp_path / "train.npz", test_file=tmp_path / "test.npz")
    assert parts.val is not None
    assert parts.test is not None
    assert (len(parts.train), len(parts.val), parts.test.labels.tolist()) == (12, 3, [2, 0, 1] * 2)
    splits = load_splits(tmp_path / "train.npz", test_file=tmp_path / "test.npz")
    assert (len(splits.train), len(splits.val), len(splits.test)) == (12, 3, 6)  # nothing is held out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_images": 0}, "has no array 'test_labels' beside 'test_images'; it holds images, labels, test_images"),
        ({"test_images": 1, "test_labels": 0}, r"\(test\): images have shape \(1, 5, 6\); expected \(3, 5, 6\)"),
        ({"test_images": 0, "test_labels": 2}, r"\(test\): labels lie in \[3, 5\]; expected 0 to 2"),
    ],
)
def test_test_parts_that_do_not_fit(
    tmp_path: Path, arrays: dict[str, np.ndarray], changes: dict[str, int], message: str
) -> None:
    images, labels = arrays["images"], arrays["labels"]
    kinds = {"test_images": [images, images[..., :1]], "test_labels": [labels, labels, labels + 3]}
    np.savez(tmp_path / "mine.npz", **arrays, **{key: kinds[key][kind] for key, kind in changes.items()})
    with pytest.raises(UserError, match=message):
        load_npz_parts(tmp_path / "mine.npz")


def test_other_names_are_listed_with_those_expected(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", data=np.zeros(3), target=np.zeros(3))
    expected = "has no images and labels; it holds data, target; expected images and labels, or train_images"
    with pytest.raises(UserError, match=expected):
        load_npz(tmp_path / "mine.npz")
    with pytest.raises(
        UserError, match=r"data.test_file is 'x.npz' for 'digits'; expected null: only .npz and .parquet"
    ):
        load_splits("digits", test_file="x.npz")
