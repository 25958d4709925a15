"""The equations of pgd_step_ in numpy: float32 to the last bit for Linf, float64 for L2."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

Number = float | np.ndarray | Tensor


Bounds = tuple[float, float]


GRADS = [torch.float32, torch.bfloat16, torch.float16]


SHAPES = [(1, 1), (2, 1, 1, 1), (3, 7), (1, 3, 5, 5), (4, 3, 9, 7), (2, 2, 3, 1, 4, 2), (5, 3, 67, 33)]


INF, NAN = float("inf"), float("nan")


def by_sample(value: Number, like: np.ndarray) -> np.ndarray:
    """A radius or step in the images' precision, with a shape that broadcasts over them."""
    array = np.asarray(value, dtype=like.dtype)
    return array.reshape(-1, *[1] * (like.ndim - 1)) if array.ndim else array


def linf(
    x_adv: Tensor, grad: Tensor, x: Tensor, eps: Number, step: Number, targeted: bool, bounds: Bounds = (0.0, 1.0)
) -> Tensor:
    """The equation of the design in the precision of the images."""
    a, g, c = x_adv.numpy(), grad.double().numpy(), x.numpy()
    eps, step = by_sample(eps, c), by_sample(step, c)
    lo, hi = c.dtype.type(bounds[0]), c.dtype.type(bounds[1])
    sign = np.where(g > 0, 1, np.where(g < 0, -1, 0)).astype(c.dtype)
    moved = a - step * sign if targeted else a + step * sign
    # A bound replaces a value that lies beyond it, and no other: that settles the sign of zero.
    lower, upper = c - eps, c + eps
    lower, upper = np.where(lower < lo, lo, lower), np.where(upper > hi, hi, upper)
    moved = np.where(moved < lower, lower, moved)
    return torch.from_numpy(np.where(moved > upper, upper, moved))


def l2(
    x_adv: Tensor, grad: Tensor, x: Tensor, eps: Number, step: Number, targeted: bool, bounds: Bounds = (0.0, 1.0)
) -> Tensor:
    """The equation in float64; an infinite gradient counts as the largest float32, NaN as 0."""
    a, g, c = x_adv.double().numpy(), grad.double().numpy(), x.double().numpy()
    eps, step = by_sample(eps, c), by_sample(step, c)
    largest = np.finfo(np.float32).max.astype(float)
    g = np.clip(np.nan_to_num(g, nan=0.0, posinf=largest, neginf=-largest), -largest, largest)
    inner = tuple(range(1, g.ndim))
    direction = g / (np.sqrt((g * g).sum(inner, keepdims=True)) + 1e-12)
    v = a - (1 if targeted else -1) * step * direction - c
    length = np.sqrt((v * v).sum(inner, keepdims=True))
    v = v * np.minimum(1.0, eps / np.maximum(length, 1e-300))
    return torch.from_numpy(np.clip(c + v, *bounds))


def batch(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """x_adv near x, a gradient with zeros, and x."""
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=g)
    x_adv = (x + (torch.rand(shape, generator=g) - 0.5) * 0.3).clamp(0, 1)
    grad = torch.randn(shape, generator=g) * (torch.rand(shape, generator=g) > 0.2)
    return x_adv, grad.to(dtype), x
