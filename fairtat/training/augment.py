"""What is done to a batch of training images: RandAugment, CutOut, mixup and CutMix."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fairtat.data import Batch
from fairtat.errors import UserError
from fairtat.optional import optional_import
from fairtat.training.config import AugmentConfig

__all__ = ["BatchAugment", "make_batch_augment"]

_GROUPS = 16  # of a batch's images that share the operations of RandAugment: one call each


class BatchAugment:
    """Augments a batch and, where it mixes images, their labels. Draws from PyTorch's global generator on the CPU.

    Mixed, ``x = a x_i + (1 - a) x_j`` (mixup; CutMix pastes a box of x_j that covers about ``1 - a`` of the image)
    has the label distribution ``q = a onehot(y_i) + (1 - a) onehot(y_j)``, a from Beta(alpha, alpha), one per batch.
    The label of the mixed image, for its attack and for statistics, is the class of the larger share, y_i where they
    are equal.

    RandAugment, mixup and CutMix are torchvision's.

    Raises:
        UserError: torchvision is missing, or images have other than 1 or 3 channels, or are smaller than the cutout.

    Source: arXiv:1909.13719 (RandAugment), 1708.04552 (CutOut), 1710.09412 (mixup), 1905.04899 (CutMix).
    """

    def __init__(self, config: AugmentConfig, num_classes: int, image_shape: tuple[int, ...]) -> None:
        self._cutout, self._mix_share = config.cutout, float(config.mix_share)
        self._randaugment: Callable[[Tensor], Tensor] | None = None
        self._mixes: list[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = []
        if config.cutout > min(image_shape[1:]):
            raise UserError(f"augment.cutout is {config.cutout}; expected at most {min(image_shape[1:])}, the image")
        if config.randaugment:
            if image_shape[0] not in (1, 3):
                raise UserError(f"augment.randaugment needs images of 1 or 3 channels, got {image_shape[0]}")
            v2 = optional_import("torchvision.transforms.v2", purpose="augment.randaugment", extra="vision")
            self._randaugment = v2.RandAugment(num_ops=config.randaugment, magnitude=config.magnitude)
        for key, name in (("mixup", "MixUp"), ("cutmix", "CutMix")):
            alpha = float(getattr(config, key))
            if alpha:
                v2 = optional_import("torchvision.transforms.v2", purpose=f"augment.{key}", extra="vision")
                self._mixes.append(getattr(v2, name)(alpha=alpha, num_classes=num_classes))

    def __call__(self, batch: Batch) -> tuple[Batch, Tensor | None]:
        """The batch, and the label distributions (N, C) float32 if it is mixed."""
        if not len(batch.y):
            return batch, None
        x = batch.x
        if self._randaugment is not None:
            x = torch.cat([self._randaugment(part) for part in x.tensor_split(min(_GROUPS, len(x)))])
        if self._cutout:
            x = _cut_out(x, self._cutout)
        batch = batch._replace(x=x)
        if not self._mixes or float(torch.rand(())) >= self._mix_share:
            return batch, None
        mix = self._mixes[int(torch.randint(len(self._mixes), ()))]
        x, labels = mix(batch.x, batch.y)
        largest = labels.amax(dim=1)
        own = labels.gather(1, batch.y[:, None])[:, 0]
        y = torch.where(own == largest, batch.y, labels.argmax(dim=1))
        return batch._replace(x=x.clamp(0, 1), y=y), labels.float()


def make_batch_augment(config: AugmentConfig, num_classes: int, image_shape: tuple[int, ...]) -> BatchAugment | None:
    """What the configuration asks for, or None."""
    asked = config.randaugment or config.cutout or config.mixup or config.cutmix
    return BatchAugment(config, num_classes, image_shape) if asked else None


def _cut_out(x: Tensor, side: int) -> Tensor:
    """A black square around a random pixel of each image; what lies beyond the edge is lost, as published."""
    n, _, height, width = x.shape
    first = torch.stack([torch.randint(height, (n,)), torch.randint(width, (n,))]) - side // 2
    first = first.to(x.device, non_blocking=True)
    inside = [
        (position >= begin[:, None]) & (position < begin[:, None] + side)
        for position, begin in zip(
            (torch.arange(size, device=x.device) for size in (height, width)), first, strict=True
        )
    ]
    return x.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0.0)
