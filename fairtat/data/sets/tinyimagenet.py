"""TinyImageNet: 200 classes of 3 x 64 x 64, 500 training and 50 validation images each.

Source: Le and Yang, "Tiny ImageNet Visual Recognition Challenge", Stanford CS 231N (2015).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch

from fairtat.data.image_files import FileSource
from fairtat.data.sets.cifar import DEFAULT_ROOT
from fairtat.data.sets.folder import is_data
from fairtat.data.splits import PublishedSplits, number_parts
from fairtat.data.stream import StreamData, stream_data
from fairtat.errors import UserError

__all__ = ["load_tinyimagenet"]

_FOLDER = "tiny-imagenet-200"


def load_tinyimagenet(root: str | Path | None = None) -> PublishedSplits:
    """TinyImageNet from its published folder ``tiny-imagenet-200``, in ``root`` (by default ``data``).

    Its validation images are the test set: the published test images have no labels. Classes are the WordNet ids in
    alphabetical order, under the first of their names in ``words.txt``. Pixels are as stored, whatever EXIF data say.

    Raises:
        UserError: files that are missing, or lists that do not fit them.
    """
    place = DEFAULT_ROOT if root is None else Path(root)
    folder = place if (place / "wnids.txt").is_file() else place / _FOLDER
    if not (folder / "wnids.txt").is_file():
        raise UserError(
            f"tinyimagenet: no {_FOLDER}/wnids.txt in {place.absolute()}; set data.root to where it lies, or unpack "
            "http://cs231n.stanford.edu/tiny-imagenet-200.zip there"
        )
    wnids = sorted(line.strip() for line in _lines(folder / "wnids.txt") if line.strip())
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    names = _class_names(folder / "words.txt", wnids)

    train_files: list[str] = []
    train_labels: list[int] = []
    for wnid, label in label_of.items():
        images = folder / "train" / wnid / "images"
        found = sorted(str(file) for file in images.glob("*.JPEG") if is_data(file.name))
        if not found:
            raise UserError(f"{images}: holds no .JPEG files; expected the images of class {wnid} from wnids.txt")
        train_files += found
        train_labels += [label] * len(found)

    test_files: list[str] = []
    test_labels: list[int] = []
    annotations = folder / "val" / "val_annotations.txt"
    for number, line in enumerate(_lines(annotations), start=1):
        file, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if wnid not in label_of:
            raise UserError(f"{annotations}: line {number} names class {wnid!r}, which wnids.txt has not")
        test_files.append(str(folder / "val" / "images" / file))
        test_labels.append(label_of[wnid])
    if not test_files:
        raise UserError(f"{annotations}: is empty; expected one line for each image")

    def part(files: list[str], labels: list[int]) -> StreamData:
        return stream_data(
            "tinyimagenet", FileSource(files, channels=3, exif="ignore"), torch.tensor(labels), class_names=names
        )

    return number_parts(PublishedSplits(train=part(train_files, train_labels), test=part(test_files, test_labels)))


def _class_names(words: Path, wnids: list[str]) -> tuple[str, ...]:
    """The first word of each class; two classes of one name (cranes are birds and machines) keep their ids."""
    word_of = {}
    for line in _lines(words):
        wnid, _, synonyms = line.partition("\t")
        word_of[wnid] = synonyms.partition(",")[0].strip()
    names = [word_of.get(wnid, wnid) for wnid in wnids]
    count = Counter(names)
    return tuple(name if count[name] == 1 else f"{name} ({wnid})" for name, wnid in zip(names, wnids, strict=True))


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; expected the published {_FOLDER} folder") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from error
