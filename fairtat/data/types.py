"""Image data sets as plain tensors on one device."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from fairtat.data.labels import name_classes, read_groups, read_labels
from fairtat.errors import UserError

__all__ = ["ImageData", "Labeled", "Layout", "image_data", "scaled"]

Layout = Literal["auto", "nchw", "nhwc"]

_LOG = logging.getLogger("fairtat")
_CHANNELS = (1, 3)
_ROUNDING = 1e-6  # how far a float may lie outside [0, 1], as after a resize
_DARK = 1 / 8


class Labeled:
    """What all data have that have classes."""

    labels: Tensor  # (N,) int64
    class_names: tuple[str, ...]  # (C,) one name per class

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def device(self) -> torch.device:
        """Where labels lie and batches are wanted."""
        return self.labels.device


@dataclass(frozen=True)
class ImageData(Labeled):
    """Labeled images on one device, kept as stored: a batch is cast when it is drawn.

    An image's id is its row in the full data set. It survives splitting and shuffling, so random numbers that
    depend on the id (attack starts, targets) do not depend on the batch that a sample falls in.
    """

    name: str
    images: Tensor  # (N, C, H, W) uint8, or float32 in [0, 1]
    labels: Tensor  # (N,) int64
    ids: Tensor  # (N,) int64
    class_names: tuple[str, ...]  # (C,) one name per class
    white: int  # the stored value that means 1.0: 255 for 8-bit images, 1 for floats
    groups: Tensor | None = None  # (N,) int64, on the CPU: images of one group must stay on one side of a split

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

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
            groups=taken(self.groups, index),
        )

    def check(self, *, decode: bool = False) -> int:
        """As `StreamData.check`: images in memory were checked when they were read."""
        return 0

    def floats(self, images: Tensor) -> Tensor:
        """Stored images as new float32 ones in [0, 1]: writing into them leaves the data alone."""
        return scaled(images, self.white)


def taken(groups: Tensor | None, index: Tensor) -> Tensor | None:
    """The groups, on the CPU, of the samples at ``index`` on any device."""
    return None if groups is None else groups.index_select(0, index.cpu())


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
    layout: Layout = "auto",
    groups: Any = None,
) -> ImageData:
    """Check arrays once and make an `ImageData` of them (on the CPU).

    Args:
        name: what errors call this data, for example the file's path.
        images: (N, H, W), (N, C, H, W) or (N, H, W, C); uint8 in [0, white], floats in [0, 1], or bools.
        labels: (N,) or (N, 1): integers, whole-number floats or bools, in [0, number of classes), or text
            (see `fairtat.data.labels.read_labels`).
        class_names: one name per class; by default the text of the labels, or the numbers 0 .. max(labels).
        white: the uint8 value that means 1.0.
        layout: which axis of four holds the channels: ``nchw``, ``nhwc``, or ``auto`` for the one of axes 1 and 3
            that has 1 or 3.
        groups: (N,) whole numbers or text: images with the same one (frames of one video, photographs of one person)
            stay on one side of a split.

    Raises:
        UserError: wrong shapes or dtypes, axes of which ``auto`` cannot tell the channels, NaN or out-of-range values;
            one line naming ``name`` and the array.
    """
    pixels = _in_range(name, _channels_first(name, torch.as_tensor(images), layout), white)
    classes, names = read_labels(name, labels, class_names=class_names)
    if len(classes) != len(pixels):
        raise UserError(f"{name}: labels have shape {tuple(classes.shape)}; expected ({len(pixels)},), one per image")
    return ImageData(
        name=name,
        images=pixels,
        labels=classes,
        ids=torch.arange(len(pixels), dtype=torch.int64),
        class_names=name_classes(name, classes, names),
        white=1 if pixels.is_floating_point() else white,
        groups=None if groups is None else read_groups(name, groups, len(pixels)),
    )


def _channels_first(name: str, images: Tensor, layout: Layout) -> Tensor:
    shape = tuple(images.shape)
    if images.dim() not in (3, 4) or 0 in shape:
        raise UserError(
            f"{name}: images have shape {shape}; expected (N, H, W), (N, C, H, W) or (N, H, W, C), none of them 0"
        )
    if images.dim() == 3:
        return images.unsqueeze(1)
    if layout == "auto":
        first, last = shape[1] in _CHANNELS, shape[3] in _CHANNELS
        if first and last:
            raise UserError(
                f"{name}: images have shape {shape}, where axis 1 or axis 3 may be the channels; set data.layout to "
                "nchw or nhwc"
            )
        if not first and not last:
            alpha = ", or leave out the fourth, alpha: images[..., :3]" if shape[3] == 4 else ""
            raise UserError(
                f"{name}: images have shape {shape}, where neither axis 1 nor axis 3 has 1 or 3 channels; set "
                f"data.layout to nchw or nhwc to take them all{alpha}"
            )
        layout = "nchw" if first else "nhwc"
    return images if layout == "nchw" else images.permute(0, 3, 1, 2)


def _in_range(name: str, images: Tensor, white: int) -> Tensor:
    """The same as uint8 in [0, white], or float32 in [0, 1]."""
    if images.dtype == torch.bool:
        return images.to(torch.uint8).mul_(white).contiguous()
    if images.dtype == torch.uint8:
        brightest = int(images.max())
        if brightest > white:
            raise UserError(f"{name}: images reach {brightest}; expected uint8 values in [0, {white}]")
        _warn_of_dark(name, brightest, white)
        return images.contiguous()
    if not images.is_floating_point():
        raise UserError(_no_range(name, images))
    bad = (~images.isfinite()).flatten(1).any(1)
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise UserError(
            f"{name}: {int(bad.sum())} of {len(images)} images hold NaN or infinity (the first is image {first}); "
            "expected finite floats in [0, 1]"
        )
    low, high = float(images.min()), float(images.max())
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        hint = "undo the normalization, images * std + mean" if low < 0 else "divide by 255, or store uint8"
        raise UserError(f"{name}: float images lie in [{low:.9g}, {high:.9g}]; expected [0, 1] ({hint})")
    _warn_of_dark(name, high, 1)
    floats = images.to(torch.float32)
    return (floats.clamp(0, 1) if low < 0 or high > 1 else floats).contiguous()


def _no_range(name: str, images: Tensor) -> str:
    """Why integers of more than 8 bits are refused: their dtype does not say which value is white."""
    kind = str(images.dtype).removeprefix("torch.")
    expected = f"{name}: images have dtype {kind}; expected uint8, or floats in [0, 1]"
    if images.is_complex():
        return expected
    low, high = int(images.to(torch.int64).min()), int(images.to(torch.int64).max())
    if low >= 0 and high <= 255:
        return f"{expected}: they lie in [{low}, {high}], so store images.astype('uint8') if 255 is white"
    white = "the value that is white" + (", 65535 if all 16 bits are used" if kind == "uint16" else "")
    return f"{expected}: they lie in [{low}, {high}], so divide by {white}, and store float32"


def _warn_of_dark(name: str, brightest: float, white: int) -> None:
    """Images of 0 and 1 or of 17 gray levels, stored as if 255 were white, make radii far too large."""
    if brightest < _DARK * white:
        _LOG.warning(
            "notice: %s: the brightest value of all images is %g, and %g is taken for white; scale them if it is not",
            name, brightest, white,
        )  # fmt: skip
