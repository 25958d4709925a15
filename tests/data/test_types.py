"""Checks of user data: what is accepted becomes the same tensors, what is not gives one line that says why."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fairtat.data import image_data
from fairtat.errors import UserError


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 7, 9), (1, 7, 9)),
        ((5, 1, 7, 9), (1, 7, 9)),
        ((5, 3, 7, 9), (3, 7, 9)),
        ((5, 7, 9, 3), (3, 7, 9)),
        ((5, 7, 9, 1), (1, 7, 9)),
        ((5, 3, 9, 3), (3, 9, 3)),  # both read as channels: channels first wins
        ((5, 4, 7, 9), (4, 7, 9)),
    ],
)
def test_layouts_become_channels_first(shape: tuple[int, ...], expected: tuple[int, int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    data = image_data("x", pixels, np.array([0, 1, 0, 1, 1]))
    assert data.image_shape == expected
    assert data.images.is_contiguous()
    if shape[-1] != expected[-1]:
        np.testing.assert_array_equal(data.images.numpy(), np.moveaxis(pixels, -1, 1))


def test_uint8_maps_onto_the_unit_interval_exactly() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(2, 1, 1, 1)
    data = image_data("x", pixels, [0, 1])
    floats = data.floats(data.images)
    assert floats.dtype == torch.float32
    np.testing.assert_array_equal(floats[0].flatten().numpy(), np.arange(256, dtype=np.float32) / np.float32(255))
    assert float(floats.max()) == 1.0


def test_float_images_are_kept_as_they_are() -> None:
    pixels = torch.rand(4, 1, 3, 3, dtype=torch.float64)
    data = image_data("x", pixels, [0, 1, 0, 1])
    assert torch.equal(data.floats(data.images), pixels.float())


def test_drawing_a_batch_leaves_the_stored_images_alone() -> None:
    for pixels in (torch.rand(2, 1, 3, 3), torch.randint(0, 256, (2, 1, 3, 3), dtype=torch.uint8)):
        data = image_data("x", pixels.clone(), [0, 1])
        data.floats(data.images[0:2]).zero_()
        assert torch.equal(data.images, pixels)


def bad_images(kind: str) -> np.ndarray:
    pixels = np.full((6, 1, 4, 4), 0.5, dtype=np.float32)
    if kind == "nan":
        pixels[3, 0, 1, 1] = np.nan
        pixels[5, 0, 1, 1] = np.inf
    elif kind == "range":
        pixels *= 255
    elif kind == "int":
        pixels = pixels.astype(np.int32)
    elif kind == "shape":
        pixels = pixels.reshape(6, 16)
    elif kind == "empty":
        pixels = pixels[:0]
    return pixels


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan", r"^mine: 2 of 6 images hold NaN or infinity \(the first is image 3\)"),
        ("range", r"^mine: float images lie in \[127.5, 127.5\]; expected \[0, 1\] \(divide by 255"),
        ("int", r"^mine: images have dtype torch.int32; expected uint8"),
        ("shape", r"^mine: images have shape \(6, 16\); expected \(N, H, W\)"),
        ("empty", r"^mine: images have shape \(0, 1, 4, 4\)"),
    ],
)
def test_bad_images(kind: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        image_data("mine", bad_images(kind), np.arange(6) % 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "class_names", "message"),
    [
        ([0, 1, -1, 1], None, r"labels lie in \[-1, 1\]; expected 0 or more \(the first outside is sample 2\)"),
        ([0, 1, 2, 5], ("a", "b", "c"), r"labels lie in \[0, 5\]; expected 0 to 2 \(3 class names\).*sample 3"),
        ([0, 1, 1], None, r"labels have shape \(3,\); expected \(4,\)"),
        ([[0], [1], [0], [1]], None, r"labels have shape \(4, 1\)"),
        ([0.0, 1.0, 0.0, 1.0], None, r"labels have dtype torch.float32; expected integers"),
        ([True, False, True, False], None, r"labels have dtype torch.bool; expected integers"),
        ([0, 0, 0, 0], None, r"labels hold 1 class; expected at least 2"),
    ],
)
def test_bad_labels(labels: list[object], class_names: tuple[str, ...] | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        image_data("mine", torch.zeros(4, 1, 2, 2), torch.tensor(labels), class_names=class_names)


def test_values_above_the_white_level_are_refused() -> None:
    with pytest.raises(UserError, match=r"images reach 17; expected uint8 values in \[0, 16\]"):
        image_data("mine", torch.full((2, 1, 2, 2), 17, dtype=torch.uint8), [0, 1], white=16)
