"""Common corruptions of images at five severities, made on the fly, and the errors that are reported of them.

The families and severities follow CIFAR-10-C (Hendrycks and Dietterich 2019, arXiv:1903.12261); lengths, given there
for images of 32 pixels, grow with larger images. Pixels are not those of the published files: compare with published
figures on CIFAR-10-C and CIFAR-100-C themselves. Filters, warps and JPEG are kornia's: it works on batches of tensors
of any size and number of channels, where imagecorruptions asks for OpenCV, scikit-image and 32 x 32 pixels or more.
Snow, frost, glass and spatter are left out: they need photographs, or shuffle one pixel at a time.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fairtat.data import SEVERITIES
from fairtat.errors import UserError, did_you_mean
from fairtat.optional import optional_import

BLOCK = 256  # images whose random numbers are drawn together, so that results do not depend on the batch size

Corrupt = Callable[[Tensor, int, torch.Generator], Tensor]  # images (n, C, H, W), severity - 1, randomness


@dataclass(frozen=True)
class CorruptionSettings:
    """One corruption at one of five severities; ``made_by`` is "kornia" (made here) or "file" (read ready-made)."""

    corruption: str
    severity: int
    seed: int = 0
    made_by: str = "kornia"

    def __str__(self) -> str:
        return f"{self.corruption.replace('_', ' ')}, severity {self.severity}"

    @property
    def name(self) -> str:
        """Such as "gaussian_noise/3"."""
        return f"{self.corruption}/{self.severity}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def corrupt(images: Tensor, corruption: str, severity: int, *, seed: int = 0) -> Tensor:
    """Images (N, C, H, W) in [0, 1], corrupted and rounded to 8 bits as a file would hold them.

    The same (images, corruption, severity, seed) give the same pixels on every device.

    Raises:
        UserError: no such corruption or severity, or kornia is not installed.
        ValueError: images of another shape or range.
    """
    made = check_corruption(corruption, severity)
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(f"images must be floats (N, C, H, W), got {images.dtype} of shape {tuple(images.shape)}")
    blocks = []
    for number, block in enumerate(images.split(BLOCK)):
        stream = hashlib.sha256(f"{seed}/{corruption}/{severity}/{number}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(stream[:8], "big", signed=True))
        blocks.append(made(block.float().cpu(), severity - 1, generator))
    return torch.cat(blocks).clamp_(0, 1).mul_(255).round_().div_(255).to(images.device)


def check_corruption(corruption: str, severity: int) -> Corrupt:
    """The function behind a name; ``UserError`` when there is none, or no such severity."""
    if corruption not in SYNTHETIC_CORRUPTIONS:
        raise UserError(f"no corruption is called {corruption!r}{did_you_mean(corruption, SYNTHETIC_CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise UserError(f"severity of {corruption} is {severity}; expected 1 to 5")
    return SYNTHETIC_CORRUPTIONS[corruption]


def mce(errors: Mapping[str, Mapping[int, float]], baseline: Mapping[str, Mapping[int, float]]) -> float:
    """Mean corruption error, 1 for the baseline: the errors of each corruption relative to a baseline model's.

    ``mCE = mean over c of (sum_s E[c, s]) / (sum_s E_baseline[c, s])``, not in percent; both as
    `Evaluation.corruption_errors`. The published figures take AlexNet (ImageNet-C) as the baseline; on other data any
    model that is named beside the figure will do.

    Raises:
        ValueError: corruptions or severities that the baseline lacks, or a baseline without errors.
    """
    if not errors:
        raise ValueError("mce needs errors under at least one corruption")
    ratios = []
    for corruption, by_severity in errors.items():
        of_baseline = baseline.get(corruption, {})
        missing = sorted(set(by_severity) - set(of_baseline))
        if missing:
            raise ValueError(f"mce: the baseline has no {corruption} at severity {missing[0]}")
        total = sum(of_baseline[severity] for severity in by_severity)
        if total == 0:
            raise ValueError(f"mce: the baseline makes no errors under {corruption}, so there is nothing to divide by")
        ratios.append(sum(by_severity.values()) / total)
    return math.fsum(ratios) / len(ratios)


def _gaussian_noise(x: Tensor, level: int, generator: torch.Generator) -> Tensor:
    return x + (0.04, 0.06, 0.08, 0.09, 0.10)[level] * torch.randn(x.shape, generator=generator)


def _shot_noise(x: Tensor, level: int, generator: torch.Generator) -> Tensor:
    photons = (500, 250, 100, 75, 50)[level]
    return torch.poisson(x * photons, generator=generator) / photons


def _impulse_noise(x: Tensor, level: int, generator: torch.Generator) -> Tensor:
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[level]
    u = torch.rand(x.shape, generator=generator)
    return torch.where(u < share / 2, 0.0, torch.where(u < share, 1.0, x))


def _speckle_noise(x: Tensor, level: int, generator: torch.Generator) -> Tensor:
    return x + x * (0.06, 0.1, 0.12, 0.16, 0.2)[level] * torch.randn(x.shape, generator=generator)


def _gaussian_blur(x: Tensor, level: int, generator: torch.Generator) -> Tensor:
    sigma = (0.4, 0.6, 0.7, 0.8, 1.0)[level] * _scale(x)
    return _blurred(x, sigma)


def _defocus_blur(x: Tensor, level: int, generator: torch.Generator) -> Tensor:
    size, softness = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))[level]
    size, softness = size * _scale(x), softness * _scale(x)
    reach = max(1, math.ceil(size + 3 * softness))
    at = torch.arange(-reach, reach + 1.0)
    # The disk of an open aperture with a soft edge.
    disk = torch.sigmoid((size - torch.hypot(at[:, None], at[None])) / (0.25 * softness + 0.05))
    disk = disk / disk.sum()
    padded = F.pad(x, (reach,) * 4, mode="reflect" if reach < min(x.shape[2:]) else "replicate")
    return F.conv2d(padded, disk.expand(x.shape[1], 1, -1, -1), groups=x.shape[1])


def _motion_blur(x: Tensor, level: int, generator: torch.Generator) -> Tensor:
    sigma = (0.6, 0.9, 1.2, 1.35, 1.5)[level] * _scale(x)
    reach = math.ceil(2.5 * sigma)
    angle = 90 * torch.rand(len(x), generator=generator) - 45
    kernel = torch.zeros(len(x), 2 * reach + 1, 2 * reach + 1)
    # Weights that fade along a line through the center, spread over the pixels next to each of its points.
    for step in range(-4 * reach, 4 * reach + 1):
        weight = math.exp(-((step / 4) ** 2) / (2 * sigma**2))
        row = reach + step / 4 * torch.sin(torch.deg2rad(angle))
        column = reach + step / 4 * torch.cos(torch.deg2rad(angle))
        kernel[torch.arange(len(x)), row.round().long(), column.round().long()] += weight
    kernel /= kernel.sum((1, 2), keepdim=True)
    filtered: Tensor = _kornia("filters").filter2d(x, kernel, border_type="replicate")
    return filtered


def _zoom_blur(x: Tensor, level: int, generator: torch.Generator) -> Tensor:
    largest = (0.06, 0.11, 0.16, 0.21, 0.26)[level]
    zooms = torch.arange(0.0, largest - 1e-6, 0.01).tolist()
    scale = _kornia("geometry.transform").scale
    layers = [scale(x, torch.full((len(x), 2), 1 + zoom), padding_mode="border") for zoom in zooms]
    return (x + torch.stack(layers).sum(0)) / (len(layers) + 1)


def _fog(x: Tensor, level: int, generator: torch.Generator) -> Tensor:
    amount, decay = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))[level]
    haze = torch.zeros(len(x), 1, *x.shape[2:])
    cells, weight = 1, 1.0
    # Clouds: the same noise at every scale, finer scales weaker.
    while cells <= max(x.shape[2:]):
        noise = torch.rand(len(x), 1, cells + 1, cells + 1, generator=generator)
        haze += weight * F.interpolate(noise, size=x.shape[2:], mode="bilinear", align_corners=True)
        cells, weight = 2 * cells, weight / decay
    low, high = haze.amin((2, 3), keepdim=True), haze.amax((2, 3), keepdim=True)
    haze = (haze - low) / (high - low).clamp(min=1e-6)
    brightest = x.amax((1, 2, 3), keepdim=True)
    return (x + amount * haze) * brightest / (brightest + amount)


def _brightness(x: Tensor, level: int, generator: torch.Generator) -> Tensor:
    return x + (0.05, 0.1, 0.15, 0.2, 0.3)[level]


def _contrast(x: Tensor, level: int, generator: torch.Generator) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * (0.75, 0.5, 0.4, 0.3, 0.15)[level] + mean


def _elastic_transform(x: Tensor, level: int, generator: torch.Generator) -> Tensor:
    strength = (0.02, 0.03, 0.04, 0.055, 0.07)[level]  # of the half side, which the warp counts in
    smooth = _blurred(2 * torch.rand(len(x), 2, *x.shape[2:], generator=generator) - 1, 1.5 * _scale(x))
    smooth = strength * smooth / smooth.std((1, 2, 3), keepdim=True)
    across, down = torch.linspace(-1, 1, x.shape[3]), torch.linspace(-1, 1, x.shape[2])
    grid = torch.stack(torch.meshgrid(down, across, indexing="ij")[::-1], -1)
    return F.grid_sample(x, grid + smooth.permute(0, 2, 3, 1), align_corners=True, padding_mode="reflection")


def _pixelate(x: Tensor, level: int, generator: torch.Generator) -> Tensor:
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[level]
    height, width = (max(1, int(side * share)) for side in x.shape[2:])
    return F.interpolate(F.interpolate(x, (height, width), mode="area"), x.shape[2:], mode="area")


def _jpeg_compression(x: Tensor, level: int, generator: torch.Generator) -> Tensor:
    quality = torch.full((len(x),), float((80, 65, 58, 50, 40)[level]))
    gray = x.shape[1] == 1
    color = x.expand(-1, 3, -1, -1) if gray else x
    coded: Tensor = _kornia("enhance").jpeg_codec_differentiable(color, quality)
    return coded.mean(1, keepdim=True) if gray else coded


def _blurred(x: Tensor, sigma: float) -> Tensor:
    size = 2 * max(1, math.ceil(3 * sigma)) + 1
    border = "reflect" if size // 2 < min(x.shape[2:]) else "replicate"
    blurred: Tensor = _kornia("filters").gaussian_blur2d(x, (size, size), (sigma, sigma), border_type=border)
    return blurred


def _scale(x: Tensor) -> float:
    """How much longer than on CIFAR's 32 pixels a length is; on smaller images it stays, or nothing would be seen."""
    return max(1.0, min(x.shape[2:]) / 32)


def _kornia(module: str) -> ModuleType:
    return optional_import(f"kornia.{module}", purpose="corrupting images", extra="eval")


SYNTHETIC_CORRUPTIONS: dict[str, Corrupt] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "speckle_noise": _speckle_noise,
    "gaussian_blur": _gaussian_blur,
    "defocus_blur": _defocus_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic_transform,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
}
"""Every corruption that can be made here, by the name that CIFAR-10-C gives it."""
