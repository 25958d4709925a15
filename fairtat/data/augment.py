"""Random crops and mirrored images for a whole batch at a time.

Reflected at its edges, a row of W pixels repeats with period 2 (W - 1), and the repeated row is its own mirror image.
So each crop of it, mirrored or not, is W *consecutive* pixels of the one row

    x[W-1-p] .. x[W-2],  x[W-1] .. x[1],  x[0] .. x[W-1],  x[W-2] .. x[W-1-p]        (2 W + 2 p - 1 pixels)

and cropping and mirroring a batch is a single gather of consecutive pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fairtat.errors import UserError, did_you_mean

__all__ = ["AUGMENTATIONS", "Augment", "Moves", "make_augment"]

AUGMENTATIONS = ("none", "flip", "crop_flip")


class Moves(NamedTuple):
    """How each of N images is cropped and mirrored."""

    down: Tensor  # (N,) int64 in [-pad, pad]: the crop's first row
    right: Tensor  # (N,) int64 in [-pad, pad]: the crop's first column
    mirrored: Tensor  # (N,) bool, after cropping

    def to(self, device: torch.device) -> Moves:
        return Moves(*(part.to(device, non_blocking=True) for part in self))

    def at(self, index: Tensor) -> Moves:
        return Moves(*(part.index_select(0, index) for part in self))

    def within(self, span: slice) -> Moves:
        return Moves(*(part[span] for part in self))


@dataclass(frozen=True)
class Augment:
    """Shift each image by up to ``pad`` pixels in both directions, reflected at the edge, and mirror half of them.

    out[i, j] = image[reflect(i + down), reflect(j' + right)], j' = W - 1 - j if mirrored, else j: what padding by
    reflection, cropping and flipping give, to the last bit.
    """

    pad: int = 4

    def check(self, image_size: tuple[int, int]) -> None:
        """
        Raises:
            UserError: images of this size (H, W) cannot be padded so far: reflection needs pad < size.
        """
        height, width = image_size
        if not 0 <= self.pad < min(height, width):
            raise UserError(
                f"data.pad is {self.pad}; expected 0 to {min(height, width) - 1} for images of {height}x{width}, "
                "which are reflected at the edge"
            )

    def draw(self, samples: int, generator: torch.Generator) -> Moves:
        """Independent uniform shifts and mirrorings, on the generator's device."""
        device = generator.device
        shifts = torch.randint(-self.pad, self.pad + 1, (2, samples), generator=generator, device=device)
        mirrored = torch.randint(0, 2, (samples,), generator=generator, device=device, dtype=torch.bool)
        return Moves(shifts[0], shifts[1], mirrored)

    def __call__(self, images: Tensor, moves: Moves) -> Tensor:
        """New images (N, C, H, W) of the same dtype, moved as ``moves`` (on the same device) say."""
        samples, channels, height, width = images.shape
        last = width - 1
        images = images.contiguous()  # else `cat` keeps another memory format, and rows are not consecutive
        mirror = images.flip(3)
        rows = torch.cat(
            [images[..., last - self.pad : last], mirror[..., :last], images, mirror[..., 1 : self.pad + 1]], dim=3
        )
        length = rows.shape[3]
        zero = self.pad + last  # where x[0] lies
        start = zero + torch.where(moves.mirrored, -last - moves.right, moves.right)  # (N,)

        row = torch.arange(height, device=images.device) + moves.down.unsqueeze(1)
        row = (height - 1) - ((height - 1) - row.abs()).abs()  # (N, H), reflected
        first_row = torch.arange(samples * channels, device=images.device).reshape(samples, channels, 1) * height
        index = (first_row + row.unsqueeze(1)) * length + start.reshape(-1, 1, 1)  # (N, C, H)
        windows = rows.as_strided((max(rows.numel() - last, 0), width), (1, 1))
        return windows.index_select(0, index.flatten()).reshape(images.shape)


def make_augment(name: str, *, pad: int = 4) -> Augment | None:
    """The augmentation that ``data.augment`` names (see `AUGMENTATIONS`): None for ``none``.

    Raises:
        UserError: no such augmentation.
    """
    if name not in AUGMENTATIONS:
        raise UserError(f"no augmentation is called {name!r}{did_you_mean(name, AUGMENTATIONS)}")
    if name == "none":
        return None
    return Augment(pad=pad if name == "crop_flip" else 0)
