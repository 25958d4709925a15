"""CIFAR-10-C and CIFAR-100-C: the test images under corruptions of five severities.

Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
ICLR 2019 (arXiv:1903.12261).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fairtat.data.sets.cifar import DEFAULT_ROOT
from fairtat.data.types import ImageData, image_data
from fairtat.errors import UserError, did_you_mean

__all__ = ["CORRUPTED", "CORRUPTIONS", "EXTRA_CORRUPTIONS", "SEVERITIES", "load_corrupted"]

CORRUPTED = {"cifar10": "CIFAR-10-C", "cifar100": "CIFAR-100-C"}
"""The folder for each set that has a corrupted form."""

CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
"""Those that the mean corruption error is taken over."""

EXTRA_CORRUPTIONS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""Published beside them, for validation."""

SEVERITIES = (1, 2, 3, 4, 5)


def load_corrupted(
    name: str,
    corruption: str,
    severity: int,
    *,
    root: str | Path | None = None,
    class_names: tuple[str, ...] | None = None,
) -> ImageData:
    """The test images of ``name`` under one corruption: image i is test image i.

    Reads ``ROOT/CIFAR-10-C/CORRUPTION.npy``, uint8 (5 N, 32, 32, 3) with the severities one after the other, and
    ``labels.npy`` (5 N,); only the images that are needed are read.

    Args:
        name: ``cifar10`` or ``cifar100``.
        corruption: one of `CORRUPTIONS` or `EXTRA_CORRUPTIONS`.
        severity: 1 to 5.
        root: the folder that holds the published one; by default ``data``.
        class_names: one name per class; by default the numbers.

    Raises:
        UserError: unknown names, or files that are missing, damaged or of another shape.
    """
    if name not in CORRUPTED:
        raise UserError(f"{name!r} has no corrupted form{did_you_mean(name, CORRUPTED)}")
    known = (*CORRUPTIONS, *EXTRA_CORRUPTIONS)
    if corruption not in known:
        raise UserError(f"no corruption is called {corruption!r}{did_you_mean(corruption, known)}")
    if severity not in SEVERITIES:
        raise UserError(f"severity is {severity}; expected 1 to 5")
    folder = (DEFAULT_ROOT if root is None else Path(root)) / CORRUPTED[name]
    file = folder / f"{corruption}.npy"
    images, labels = _array(file, name), _array(folder / "labels.npy", name)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or len(images) % len(SEVERITIES):
        raise UserError(f"{file}: holds {images.dtype} {images.shape}; expected uint8 (5 N, H, W, 3)")
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
        raise UserError(
            f"{folder / 'labels.npy'}: holds {labels.dtype} {labels.shape}; expected integers ({len(images)},), as "
            f"{file.name} has images"
        )
    per_severity = len(images) // len(SEVERITIES)
    rows = slice((severity - 1) * per_severity, severity * per_severity)
    return image_data(
        str(file), np.array(images[rows]), labels[rows].astype(np.int64), class_names=class_names, layout="nhwc"
    )


def _array(file: Path, name: str) -> Any:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(
            f"{file.absolute()}: no such file; unpack {CORRUPTED[name]}.tar (from https://zenodo.org/records/"
            f"{'2535967' if name == 'cifar10' else '3555552'}) beside it, or set the root to where it lies"
        ) from None
    except (OSError, ValueError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{file}: cannot be read as a .npy array ({reason}); is it truncated?") from error
