"""Checks of user data: what is accepted becomes the same tensors, what is not gives one line that says why."""

from __future__ import annotations

import logging

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
    ],
)
def test_layouts_become_channels_first(shape: tuple[int, ...], expected: tuple[int, int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    data = image_data("x", pixels, np.array([0, 1, 0, 1, 1]))
    assert data.image_shape == expected
    assert data.images.is_contiguous()
    if shape[-1] != expected[-1]:
        np.testing.assert_array_equal(data.images.numpy(), np.moveaxis(pixels, -1, 1))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 3, 9, 3), {"nchw": (3, 9, 3), "nhwc": (3, 3, 9)}),
        ((5, 1, 9, 3), {"nchw": (1, 9, 3), "nhwc": (3, 1, 9)}),
        ((5, 6, 7, 4), {"nchw": (6, 7, 4), "nhwc": (4, 6, 7)}),
        ((5, 13, 7, 9), {"nchw": (13, 7, 9), "nhwc": (9, 13, 7)}),
    ],
)
def test_a_layout_that_cannot_be_told_is_asked_for(
    shape: tuple[int, ...], expected: dict[str, tuple[int, int, int]]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with pytest.raises(UserError, match=r"^x: images have shape .*set data.layout to nchw or nhwc") as caught:
        image_data("x", pixels, [0, 1, 0, 1, 1])
    assert ("alpha" in str(caught.value)) == (shape[-1] == 4)
    for layout, image_shape in expected.items():
        data = image_data("x", pixels, [0, 1, 0, 1, 1], layout=layout)
        assert data.image_shape == image_shape
        np.testing.assert_array_equal(data.images.numpy(), pixels if layout == "nchw" else np.moveaxis(pixels, 3, 1))


def test_bool_images_are_black_and_white() -> None:
    pixels = np.random.default_rng(0).random((4, 3, 5)) < 0.5
    data = image_data("x", pixels, [0, 1, 0, 1])
    np.testing.assert_array_equal(data.floats(data.images)[:, 0].numpy(), pixels.astype(np.float32))


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        (
            "uint16",
            4095,
            r"images have dtype uint16; .*they lie in \[0, 4095\], so divide by the value that is white, 65535",
        ),
        ("int64", 255, r"images have dtype int64; .*they lie in \[0, 255\], so store images.astype\('uint8'\)"),
        (
            "int16",
            3000,
            r"images have dtype int16; .*they lie in \[0, 3000\], so divide by the value that is white, and",
        ),
    ],
)
def test_integers_of_more_than_8_bits_are_refused_by_name(dtype: str, value: int, message: str) -> None:
    pixels = np.zeros((2, 3, 3), dtype)
    pixels[1, 1, 1] = value
    with pytest.raises(UserError, match=message):
        image_data("x", pixels, [0, 1])


def test_floats_may_be_off_by_a_rounding_and_end_up_in_range() -> None:
    pixels = torch.tensor([-5e-7, 1 + 5e-7, 0.25, 0.5]).reshape(1, 1, 2, 2).repeat(2, 1, 1, 1)
    assert image_data("x", pixels, [0, 1]).images[0].flatten().tolist() == [0.0, 1.0, 0.25, 0.5]
    with pytest.raises(UserError, match=r"float images lie in \[-1, 1.5\]; .*undo the normalization"):
        image_data("x", torch.tensor([-1, 1.5]).reshape(2, 1, 1), [0, 1])
    with pytest.raises(UserError, match=r"lie in \[0.25, 1.00001"):
        image_data("x", torch.tensor([0.25, 1.00001]).reshape(2, 1, 1), [0, 1])


def test_dark_images_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="fairtat"):
        image_data("x", torch.full((2, 3, 3), 200, dtype=torch.uint8), [0, 1])
        image_data("x", torch.full((2, 3, 3), 16, dtype=torch.uint8), [0, 1], white=16)
        assert caplog.messages == []
        image_data("mine", torch.full((2, 3, 3), 16, dtype=torch.uint8), [0, 1])
        image_data("mine", torch.full((2, 3, 3), 1 / 255), [0, 1])
    assert [message.partition(", and")[0] for message in caplog.messages] == [
        "notice: mine: the brightest value of all images is 16",
        "notice: mine: the brightest value of all images is 0.00392157",
    ]


def test_uint8_maps_onto_the_unit_interval_exactly() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(2, 1, 1, 1)
    data = image_data("x", pixels, [0, 1])
    floats = data.floats(data.images)
    assert floats.dtype == torch.float32
    np.testing.assert_array_equal(floats[0].flatten().numpy(), np.arange(256, dtype=np.float32) / np.float32(255))
    assert float(floats.max()) == 1.0


def test_float_images_are_kept_as_they_are() -> None:
    pixels = torch.rand(4, 1, 5, 4, dtype=torch.float64)
    data = image_data("x", pixels, [0, 1, 0, 1])
    assert torch.equal(data.floats(data.images), pixels.float())


def test_drawing_a_batch_leaves_the_stored_images_alone() -> None:
    for pixels in (torch.rand(2, 1, 5, 4), torch.randint(0, 256, (2, 1, 5, 4), dtype=torch.uint8)):
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
        (
            "int",
            r"^mine: images have dtype int32; expected uint8, or floats in \[0, 1\]: they lie in \[0, 0\], so store",
        ),
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
        ([0, 0, 0, 0], None, r"labels hold 1 class; expected at least 2"),
    ],
)
def test_bad_labels(labels: list[object], class_names: tuple[str, ...] | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        image_data("mine", torch.zeros(4, 1, 2, 2), torch.tensor(labels), class_names=class_names)


def test_values_above_the_white_level_are_refused() -> None:
    with pytest.raises(UserError, match=r"images reach 17; expected uint8 values in \[0, 16\]"):
        image_data("mine", torch.full((2, 1, 2, 2), 17, dtype=torch.uint8), [0, 1], white=16)
