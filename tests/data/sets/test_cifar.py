"""CIFAR from files in the published formats, which the tests write; damage is told by the file's name."""

from __future__ import annotations

import hashlib
import io
import pickle
import shutil
import sys
import tarfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from fairtat.data import ImageData, load_cifar10, load_cifar100, load_splits
from fairtat.data.sets import cifar as cifar_module
from fairtat.errors import UserError

ROWS = 20  # in each file


@pytest.fixture
def published() -> Iterator[None]:
    """Warnings that these files are not the published ones are expected; `test_the_published_sums` is about them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is not the published file")
        yield


def pixels_of(file: str) -> np.ndarray:
    seed = int(hashlib.md5(file.encode()).hexdigest()[:8], 16)
    return np.random.default_rng(seed).integers(0, 256, (ROWS, 3072), dtype=np.uint8)


def labels_of(file: str, classes: int) -> list[int]:
    return [int(v) for v in (pixels_of(file)[:, 0] + np.arange(ROWS)) % classes]


BATCHES = [f"data_batch_{n}" for n in range(1, 6)]
NAMES10 = [f"kind{n}" for n in range(10)]
NAMES100 = [f"fine{n}" for n in range(100)]


def write(root: Path, form: str) -> Path:
    """One of the four published folders; returns it."""
    hundred = form.startswith("cifar-100")
    folder = root / form
    folder.mkdir(parents=True)
    for file in ["train", "test"] if hundred else [*BATCHES, "test_batch"]:
        data = pixels_of(file)
        labels = labels_of(file, 100 if hundred else 10)
        if form in ("cifar-10-batches-py", "cifar-100-python"):
            record = {"data": data, "batch_label": file, "filenames": ["x.png"] * ROWS}
            record |= {"fine_labels": labels, "coarse_labels": [0] * ROWS} if hundred else {"labels": labels}
            (folder / file).write_bytes(pickle.dumps(record, 2))
        else:
            columns = [np.zeros((ROWS, 1), np.uint8)] if hundred else []
            columns += [np.array(labels, np.uint8)[:, None], data]
            (folder / f"{file}.bin").write_bytes(np.concatenate(columns, axis=1).tobytes())
    if form == "cifar-10-batches-py":
        (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": NAMES10, "num_vis": 3072}, 2))
    elif form == "cifar-10-batches-bin":
        (folder / "batches.meta.txt").write_text("\n".join(NAMES10) + "\n\n")
    elif form == "cifar-100-python":
        (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": NAMES100, "coarse_label_names": []}, 2))
    else:
        (folder / "fine_label_names.txt").write_text("\n".join(NAMES100) + "\n")
    return folder


ARCHIVES = {
    "cifar-10-batches-py": "cifar-10-python.tar.gz",
    "cifar-10-batches-bin": "cifar-10-binary.tar.gz",
    "cifar-100-python": "cifar-100-python.tar.gz",
    "cifar-100-binary": "cifar-100-binary.tar.gz",
}


def pack(folder: Path) -> Path:
    archive = folder.parent / ARCHIVES[folder.name]
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    shutil.rmtree(folder)
    return archive


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("place", ["in root", "root itself", "archive"])
@pytest.mark.parametrize("form", ARCHIVES)
def test_every_published_form(tmp_path: Path, form: str, place: str) -> None:
    folder = write(tmp_path, form)
    if place == "archive":
        pack(folder)
    hundred = form.startswith("cifar-100")
    load = load_cifar100 if hundred else load_cifar10
    parts = load(folder if place == "root itself" else tmp_path)
    assert parts.val is None
    for part, files in (
        (parts.train, ["train"] if hundred else BATCHES),
        (parts.test, ["test" if hundred else "test_batch"]),
    ):
        assert isinstance(part, ImageData)
        # A record is 1024 red, 1024 green and 1024 blue pixels, row by row.
        pixels = np.stack([row.reshape(3, 32, 32) for file in files for row in pixels_of(file)])
        np.testing.assert_array_equal(part.images.numpy(), pixels)
        assert part.labels.tolist() == [v for file in files for v in labels_of(file, 100 if hundred else 10)]
        assert part.class_names == tuple(NAMES100 if hundred else NAMES10)
    assert torch.cat([parts.train.ids, parts.test.ids]).tolist() == list(range(len(parts.train) + ROWS))


@pytest.mark.usefixtures("published")
def test_splits_keep_the_test_part(tmp_path: Path) -> None:
    write(tmp_path, "cifar-10-batches-py")
    splits = load_splits("cifar10", root=tmp_path, val=0.2, seed=3)
    assert splits.test.ids.tolist() == list(range(100, 120))
    assert sorted(torch.cat([splits.train.ids, splits.val.ids]).tolist()) == list(range(100))
    for label in range(10):
        members = int((torch.cat([splits.train.labels, splits.val.labels]) == label).sum())
        assert int((splits.val.labels == label).sum()) == max(1, round(0.2 * members))


def test_the_published_sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path, "cifar-100-python")
    sums = {file: hashlib.md5((folder / file).read_bytes()).hexdigest() for file in ("train", "test", "meta")}
    monkeypatch.setattr(cifar_module, "_MD5", sums)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_cifar100(tmp_path)
    with (folder / "test").open("ab") as stream:
        stream.write(b"more")  # which an unpickler does not look at
    with pytest.warns(UserWarning, match=r"cifar-100-python/test: is not the published file \(MD5 .*fetch it again"):
        load_cifar100(tmp_path)


def test_missing_files_say_where_and_how(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_cifar10(tmp_path)
    message = str(caught.value)
    for part in (
        str(tmp_path),
        "cifar-10-batches-py/",
        "cifar-10-binary.tar.gz",
        "data.root",
        "https://www.cs.toronto",
    ):
        assert part in message
    assert "\n" not in message
    folder = write(tmp_path, "cifar-10-batches-py")
    (folder / "data_batch_4").unlink()
    with pytest.raises(UserError, match="data_batch_4: no such file, though others of the set are there"):
        load_cifar10(tmp_path)


def damage(folder: Path, kind: str) -> None:
    file = folder / "data_batch_2"
    record = pickle.loads(file.read_bytes())
    if kind == "truncated":
        file.write_bytes(file.read_bytes()[:-500])
        return
    if kind == "label":
        record["labels"][5] = 10
    elif kind == "labels":
        record["labels"] = record["labels"][:-1]
    elif kind == "label text":
        record["labels"] = ["cat"] * ROWS
    elif kind == "width":
        record["data"] = record["data"][:, :100]
    elif kind == "dtype":
        record["data"] = record["data"].astype(np.float32)
    elif kind == "keys":
        del record["labels"]
    elif kind == "list":
        record = [1, 2]
    file.write_bytes(pickle.dumps(record, 2))


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "cannot be read as a pickle of plain arrays"),
        ("label", r"labels lie in \[0, 10\]; expected 0 to 9 \(10 class names\) \(the first outside is sample 5\)"),
        ("labels", rf"labels have shape \({ROWS - 1},\); expected \({ROWS},\)"),
        ("label text", r"'labels' holds <U3; expected integers"),
        ("width", rf"'data' is uint8 \({ROWS}, 100\); expected uint8 \(N, 3072\)"),
        ("dtype", rf"'data' is float32 \({ROWS}, 3072\)"),
        ("keys", "holds data, batch_label, filenames; expected a dict with 'data' and 'labels'"),
        ("list", "holds list; expected a dict"),
    ],
)
def test_damaged_files(tmp_path: Path, kind: str, message: str) -> None:
    damage(write(tmp_path, "cifar-10-batches-py"), kind)
    with pytest.raises(UserError, match=rf"data_batch_2: {message}") as caught:
        load_cifar10(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_truncated_binary_file(tmp_path: Path) -> None:
    file = write(tmp_path, "cifar-10-batches-bin") / "data_batch_5.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=rf"data_batch_5.bin: has {ROWS * 3073 - 1} bytes; expected a multiple of 3073"):
        load_cifar10(tmp_path)


@pytest.mark.usefixtures("published")
def test_damaged_archives(tmp_path: Path) -> None:
    archive = pack(write(tmp_path, "cifar-10-batches-py"))
    archive.write_bytes(archive.read_bytes()[:-2000])
    with pytest.raises(
        UserError, match=r"cifar-10-python.tar.gz: cannot be read as a .tar.gz archive .*fetch it again"
    ):
        load_cifar10(tmp_path)
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("other"), io.BytesIO())
    with pytest.raises(UserError, match=r"cifar-10-python.tar.gz: has no cifar-10-batches-py/data_batch_1"):
        load_cifar10(tmp_path)


@pytest.mark.usefixtures("published")
def test_download_goes_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(root: str, download: bool) -> None:
        assert download
        write(Path(root), "cifar-10-batches-py")

    fake = ModuleType("torchvision.datasets")
    fake.CIFAR10 = fetch  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", fake)
    assert len(load_cifar10(tmp_path / "new", download=True).train) == 5 * ROWS
    monkeypatch.setattr(fake, "CIFAR10", None)  # files that are there are not fetched again
    assert len(load_cifar10(tmp_path / "new", download=True).train) == 5 * ROWS

    def offline(root: str, download: bool) -> None:
        raise OSError("no route to host\nat all")

    monkeypatch.setattr(fake, "CIFAR10", offline)
    with pytest.raises(UserError, match=r"cifar10: cannot be downloaded to .* \(no route to host\)"):
        load_cifar10(tmp_path / "elsewhere", download=True)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(UserError, match=r"downloading cifar10 needs torchvision: pip install 'fairtat\[vision\]'"):
        load_cifar10(tmp_path / "elsewhere", download=True)
