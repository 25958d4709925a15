from __future__ import annotations

from typing import Any

import pytest
import torch

from fairtat.data import image_data
from fairtat.evaluation.images import Images, tensor_bytes

X = torch.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4).to(torch.uint8)
Y = torch.tensor([1, 0])
CPU = torch.device("cpu")


def test_stored_levels_are_drawn_as_floats() -> None:
    digits = image_data("d", (X % 17), Y, white=16)
    x, y, ids = Images.of(digits).draw(torch.tensor([1]), CPU)
    torch.testing.assert_close(x, (X[1:] % 17).float() / 16)
    assert (y.tolist(), ids.tolist()) == ([0], [1])
    x, _, _ = Images.of((X, Y)).draw(torch.tensor([0, 1]), CPU)
    torch.testing.assert_close(x, X.float() / 255)


def test_batches_are_gathered_with_their_ids() -> None:
    batches = [(X[:1], Y[:1], torch.tensor([7])), (X[1:], Y[1:], torch.tensor([3]))]
    images = Images.of(batches)
    assert images.ids.tolist() == [7, 3]
    assert Images.of([(X, Y)]).ids.tolist() == [0, 1]
    assert Images.of(batches).digest == Images.of(X, Y, torch.tensor([7, 3])).digest


@pytest.mark.parametrize(
    "change",
    [
        lambda x, y, ids: (x.flip(0), y, ids),
        lambda x, y, ids: (x, y.flip(0), ids),
        lambda x, y, ids: (x, y, ids + 1),
        lambda x, y, ids: (x.reshape(2, 3, 2, 8), y, ids),
        lambda x, y, ids: (x.float(), y, ids),
        lambda x, y, ids: (x.float() / 255, y, ids),
    ],
)
def test_the_digest_tells_images_apart(change: Any) -> None:
    parts = (X, Y, torch.tensor([0, 1]))
    assert Images.of(*change(*parts)).digest != Images.of(*parts).digest


def test_the_digest_does_not_see_memory_layout() -> None:
    assert Images.of(X.contiguous(memory_format=torch.channels_last), Y).digest == Images.of(X, Y).digest


def test_bytes_of_every_dtype() -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.int64, torch.bool):
        assert len(tensor_bytes(torch.ones(3, dtype=dtype))) == 3 * dtype.itemsize
    assert len(tensor_bytes(torch.zeros(0))) == 0
    assert len(tensor_bytes(torch.tensor(1.0))) == 4


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X,), TypeError, "labels are needed"),
        (((X, Y), Y), TypeError, "labels come with the data"),
        ((3,), TypeError, "got int"),
        (([X],), TypeError, "a batch must be"),
        (([],), ValueError, "nothing to evaluate"),
        ((X, Y.float()), TypeError, "labels must be integers"),
        ((X.to(torch.int32), Y), TypeError, "floats in .0, 1. or uint8"),
    ],
)
def test_other_data_are_explained(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Images.of(*arguments)
