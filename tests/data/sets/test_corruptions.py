"""CIFAR-10-C and CIFAR-100-C: the slice of one severity, and files that do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fairtat.data import CORRUPTIONS, EXTRA_CORRUPTIONS, load_corrupted
from fairtat.errors import UserError

ROWS = 12  # images of one severity


def write(root: Path, folder: str, corruption: str) -> tuple[np.ndarray, np.ndarray]:
    (root / folder).mkdir(exist_ok=True)
    images = np.random.default_rng(len(corruption)).integers(0, 256, (5 * ROWS, 32, 32, 3), dtype=np.uint8)
    labels = np.tile(np.arange(ROWS) % 10, 5)
    np.save(root / folder / f"{corruption}.npy", images)
    np.save(root / folder / "labels.npy", labels)
    return images, labels


@pytest.mark.parametrize(("name", "folder"), [("cifar10", "CIFAR-10-C"), ("cifar100", "CIFAR-100-C")])
def test_each_severity_is_a_fifth_of_the_file(tmp_path: Path, name: str, folder: str) -> None:
    images, labels = write(tmp_path, folder, "fog")
    for severity in range(1, 6):
        rows = slice((severity - 1) * ROWS, severity * ROWS)
        data = load_corrupted(name, "fog", severity, root=tmp_path)
        np.testing.assert_array_equal(data.images.numpy(), images[rows].transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(data.labels.numpy(), labels[rows])
        assert data.ids.tolist() == list(range(ROWS))
        assert data.white == 255


def test_class_names_are_taken_over(tmp_path: Path) -> None:
    write(tmp_path, "CIFAR-10-C", "snow")
    names = tuple("abcdefghij")
    assert load_corrupted("cifar10", "snow", 1, root=tmp_path, class_names=names).class_names == names


def test_the_published_names() -> None:
    assert len(CORRUPTIONS) == 15
    assert len(set(CORRUPTIONS) | set(EXTRA_CORRUPTIONS)) == 19


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cifar12", "fog", 1), "'cifar12' has no corrupted form; did you mean 'cifar10'"),
        (("cifar10", "fogg", 1), r"no corruption is called 'fogg'; did you mean 'fog'\?"),
        (("cifar10", "fog", 0), "severity is 0; expected 1 to 5"),
        (
            ("cifar10", "frost", 1),
            r"CIFAR-10-C/frost.npy: no such file; unpack CIFAR-10-C.tar \(from https://zenodo.org",
        ),
    ],
)
def test_wrong_arguments(tmp_path: Path, arguments: tuple[str, str, int], message: str) -> None:
    write(tmp_path, "CIFAR-10-C", "fog")
    with pytest.raises(UserError, match=message):
        load_corrupted(*arguments, root=tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("fog", np.zeros((60, 32, 32, 3), np.float32), r"fog.npy: holds float32 \(60, 32, 32, 3\); expected uint8"),
        ("fog", np.zeros((58, 32, 32, 3), np.uint8), r"fog.npy: holds uint8 \(58, 32, 32, 3\)"),
        ("fog", np.zeros((60, 3072), np.uint8), r"fog.npy: holds uint8 \(60, 3072\)"),
        ("labels", np.zeros(12, np.int64), r"labels.npy: holds int64 \(12,\); expected integers \(60,\)"),
        ("labels", np.zeros(60, np.float32), r"labels.npy: holds float32 \(60,\)"),
        ("labels", np.array([{}], dtype=object), r"labels.npy: cannot be read as a .npy array"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, file: str, content: np.ndarray, message: str) -> None:
    write(tmp_path, "CIFAR-10-C", "fog")
    np.save(tmp_path / "CIFAR-10-C" / f"{file}.npy", content)
    with pytest.raises(UserError, match=message) as caught:
        load_corrupted("cifar10", "fog", 2, root=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_truncated_file(tmp_path: Path) -> None:
    write(tmp_path, "CIFAR-10-C", "fog")
    file = tmp_path / "CIFAR-10-C" / "fog.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"fog.npy: cannot be read as a .npy array \(.*\); is it truncated\?"):
        load_corrupted("cifar10", "fog", 1, root=tmp_path)
