"""The images under evaluation, from tensors, an `ImageData` or a loader."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fairtat.data import ImageData, StreamData
from fairtat.data.types import scaled
from fairtat.evaluation.cache.fingerprint import tensor_bytes


class Images:
    """N labeled images, drawn by index as floats in [0, 1].

    Images stay as they are stored (uint8 in a quarter of the memory of floats), on their device; a batch is cast and
    moved when it is drawn.
    """

    def __init__(self, stored: Tensor, labels: Tensor, ids: Tensor, white: int) -> None:
        self.stored = stored  # (N, ...)
        self.labels = labels  # (N,) int64 on the CPU
        self.ids = ids  # (N,) int64 on the CPU
        self.white = white  # the stored value that means 1.0

    @classmethod
    def of(cls, data: Any, labels: Tensor | None = None, sample_ids: Tensor | None = None) -> Images:
        """From ``(images, labels)`` in one or two arguments, an `ImageData` or `StreamData`, or an iterable of batches.

        A batch is ``(images, labels)`` or ``(images, labels, ids)``. Streams and iterables are read once, into memory.

        Raises:
            TypeError, ValueError: something else, no images, or shapes that do not fit.
        """
        if isinstance(data, StreamData):
            data = data.decoded()
        if isinstance(data, Tensor):
            if labels is None:
                raise TypeError("labels are needed beside images: evaluate(model, images, labels)")
            images = data
        elif labels is not None:
            raise TypeError("labels come with the data; give them apart only beside a tensor of images")
        elif isinstance(data, ImageData):
            return cls._checked(data.images, data.labels, data.ids if sample_ids is None else sample_ids, data.white)
        elif isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
            images, labels = data
        elif isinstance(data, Iterable):
            images, labels, ids = _gathered(data)
            sample_ids = ids if sample_ids is None else sample_ids
        else:
            raise TypeError(
                "data must be (images, labels), a fairtat.data.ImageData or an iterable of (images, labels) batches, "
                f"got {type(data).__name__}"
            )
        return cls._checked(images, labels, sample_ids, 255 if images.dtype == torch.uint8 else 1)

    @classmethod
    def _checked(cls, images: Tensor, labels: Tensor, ids: Tensor | None, white: int) -> Images:
        samples = images.shape[0]
        if samples == 0:
            raise ValueError("images is empty: there is nothing to evaluate")
        for name, tensor in (("labels", labels), ("sample_ids", ids)):
            if tensor is not None and tensor.shape != (samples,):
                raise ValueError(f"{name} must have shape ({samples},) like images, got {tuple(tensor.shape)}")
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise TypeError(f"labels must be integers, got {labels.dtype}")
        if int(labels.min()) < 0:
            raise ValueError(f"labels must be 0 or more, got {int(labels.min())}")
        if not images.is_floating_point() and images.dtype != torch.uint8:
            raise TypeError(f"images must be floats in [0, 1] or uint8, got {images.dtype}")
        ids = torch.arange(samples) if ids is None else ids
        return cls(images, labels.detach().cpu().long(), ids.detach().cpu().long(), white)

    def __len__(self) -> int:
        return self.stored.shape[0]

    def draw(self, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Images (n, ...) as floats, labels (n,) and ids (n,) of the rows ``index`` (int64, CPU), on ``device``."""
        rows = self.stored.index_select(0, index.to(self.stored.device)).to(device)
        x = rows if rows.is_floating_point() else scaled(rows, self.white)
        return x, self.labels[index].to(device), self.ids[index].to(device)

    def replaced(self, images: Tensor) -> Images:
        """Other pixels under the same labels and ids."""
        if images.shape[0] != len(self):
            raise ValueError(f"expected {len(self)} images in the order of the clean ones, got {images.shape[0]}")
        return Images(images, self.labels, self.ids, 255 if images.dtype == torch.uint8 else 1)

    @cached_property
    def range(self) -> tuple[float, float]:
        """Smallest and largest pixel as the model would see it; NaN if any is NaN."""
        low, high = torch.aminmax(self.stored)
        return float(low) / self.white, float(high) / self.white

    @cached_property
    def digest(self) -> str:
        """A fingerprint of pixels, labels, ids and their order."""
        found = hashlib.sha256(f"{tuple(self.stored.shape)} {self.stored.dtype} {self.white}".encode())
        for tensor in (self.stored, self.labels, self.ids):
            found.update(tensor_bytes(tensor))
        return found.hexdigest()


def _gathered(batches: Iterable[Any]) -> tuple[Tensor, Tensor, Tensor | None]:
    images, labels, ids = [], [], []
    for batch in batches:
        if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
            raise TypeError(f"a batch must be (images, labels) or (images, labels, ids), got {type(batch).__name__}")
        images.append(batch[0].cpu())
        labels.append(torch.as_tensor(batch[1]).cpu())
        if len(batch) == 3:
            ids.append(torch.as_tensor(batch[2]).cpu())
    if not images:
        raise ValueError("images is empty: there is nothing to evaluate")
    return torch.cat(images), torch.cat(labels), torch.cat(ids) if ids else None
