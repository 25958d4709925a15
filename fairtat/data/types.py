"""Image data sets as plain tensors on one device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fairtat.errors import UserError

__all__ = ["ImageData", "checked_class_names", "image_data", "scaled"]


@dataclass(frozen=True)
class ImageData:
    """Labelled images on one device, kept as stored: a batch is cast when it is drawn.

    An image's id is its row in the full data set. It survives splitting and shuffling, so random numbers that
    depend on the id (attack starts, targets) do not depend on the batch that a sample falls in.
    """

    name: str
    images: Tensor  # (N, C, H, W) uint8, or float32 in [0, 1]
    labels: Tensor  # (N,) int64
    ids: Tensor  # (N,) int64
    class_names: tuple[str, ...]  # (C,) one name a class
    white: int  # the stored value that stands for 1.0: 255 for 8-bit images, 1 for floats

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def device(self) -> torch.device:
        return self.images.device

    def to(self, device: torch.device | str) -> ImageData:
        return replace(self, images=self.images.to(device), labels=self.labels.to(device), ids=self.ids.to(device))

    def take(self, index: Tensor) -> ImageData:
        """The samples at ``index`` (int64, on the data's device), in that order, with their ids."""
        # index_select copies whole images; indexing with a tensor goes pixel by pixel, 15 times slower on a CPU.
        return replace(
            self,
            images=self.images.index_select(0, index),
            labels=self.labels.index_select(0, index),
            ids=self.ids.index_select(0, index),
        )

    def floats(self, images: Tensor) -> Tensor:
        """Stored images as new float32 ones in [0, 1]: whoever writes into them leaves the data alone."""
        return scaled(images, self.white)


def scaled(images: Tensor, white: int) -> Tensor:
    """Stored images as new float32 ones in [0, 1], v / white to the last bit on every device."""
    floats = images.to(torch.float32, copy=True)
    if white == 1:
        return floats
    # By a tensor: CUDA turns the division by a Python number into a product, which is off by a rounding.
    return floats.div_(floats.new_full((), white))


def image_data(
    name: str,
    images: Any,
    labels: Any,
    *,
    class_names: tuple[str, ...] | None = None,
    white: int = 255,
) -> ImageData:
    """Check arrays once and make an `ImageData` of them (on the CPU).

    Args:
        name: what errors call this data, for example the file's path.
        images: (N, H, W), (N, C, H, W) or (N, H, W, C) with C = 1 or 3; uint8 in [0, white], or floats in [0, 1].
        labels: (N,) integers in [0, number of classes).
        class_names: one name a class; by default the numbers 0 .. max(labels).
        white: the uint8 value that stands for 1.0.

    Raises:
        UserError: wrong shapes or dtypes, NaN or out-of-range values; one line naming ``name`` and the array.
    """
    pixels = _checked_images(name, torch.as_tensor(images), white)
    classes = _checked_labels(name, torch.as_tensor(labels), len(pixels))
    names = checked_class_names(name, classes, class_names)
    return ImageData(
        name=name,
        images=pixels,
        labels=classes,
        ids=torch.arange(len(pixels), dtype=torch.int64),
        class_names=names,
        white=1 if pixels.is_floating_point() else white,
    )


def _checked_images(name: str, images: Tensor, white: int) -> Tensor:
    if images.dim() == 3:
        images = images.unsqueeze(1)
    elif images.dim() == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.permute(0, 3, 1, 2)
    if images.dim() != 4 or 0 in images.shape:
        raise UserError(
            f"{name}: images have shape {tuple(images.shape)}; expected (N, H, W), (N, C, H, W) or (N, H, W, C), "
            "none of them 0"
        )
    if images.dtype == torch.uint8:
        brightest = int(images.max())
        if brightest > white:
            raise UserError(f"{name}: images reach {brightest}; expected uint8 values in [0, {white}]")
        return images.contiguous()
    if not images.is_floating_point():
        raise UserError(f"{name}: images have dtype {images.dtype}; expected uint8, or floats in [0, 1]")
    bad = (~images.isfinite()).flatten(1).any(1)
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise UserError(
            f"{name}: {int(bad.sum())} of {len(images)} images hold NaN or infinity (the first is image {first}); "
            "expected finite floats in [0, 1]"
        )
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        raise UserError(
            f"{name}: float images lie in [{low:g}, {high:g}]; expected [0, 1] (divide by 255, or store uint8)"
        )
    return images.to(torch.float32).contiguous()


def _checked_labels(name: str, labels: Tensor, samples: int) -> Tensor:
    if labels.dim() != 1 or len(labels) != samples:
        raise UserError(f"{name}: labels have shape {tuple(labels.shape)}; expected ({samples},), one an image")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise UserError(f"{name}: labels have dtype {labels.dtype}; expected integers")
    return labels.to(torch.int64)


def checked_class_names(name: str, labels: Tensor, class_names: tuple[str, ...] | None) -> tuple[str, ...]:
    """One name a class, the numbers if there are none; the labels are in their range."""
    low, high = int(labels.min()), int(labels.max())
    num_classes = high + 1 if class_names is None else len(class_names)
    outside = (labels < 0) | (labels >= num_classes)
    if bool(outside.any()):
        first = int(outside.nonzero()[0])
        wanted = "0 or more" if class_names is None else f"0 to {num_classes - 1} ({num_classes} class names)"
        raise UserError(
            f"{name}: labels lie in [{low}, {high}]; expected {wanted} (the first outside is sample {first})"
        )
    if num_classes < 2:
        raise UserError(f"{name}: labels hold {num_classes} class; expected at least 2")
    return class_names if class_names is not None else tuple(str(k) for k in range(num_classes))
