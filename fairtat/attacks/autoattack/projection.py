"""The nearest point of a hyperplane inside a box, which FAB asks for at every step.

``min ||d||`` subject to ``<w, d> = c`` and ``lo <= p + d <= hi``. With ``gap_i`` the room of pixel i in the direction
that helps, both norms are one equation in one number, whose left side is piecewise linear and grows::

    sum_i a_i min(t, r_i) = |c|        Linf: a = |w|,   r = gap,       |d_i| = min(t, r_i)
                                       L2:   a = w**2,  r = gap / |w|, |d_i| = |w_i| min(t, r_i)

Sorted by r, it is solved between the two kinks that enclose ``|c|``. Where even the corner of the box does not reach
the plane, d goes to that corner.
"""

from __future__ import annotations

import torch
from torch import Tensor

_FAR = 1e12  # stands for infinitely far, where a product with 0 has to be 0


def project_on_plane(p: Tensor, w: Tensor, c: Tensor, norm: str, lo: float, hi: float) -> Tensor:
    """d (N, D) for points p (N, D), normals w (N, D) and distances c (N,), ``norm`` "linf" or "l2"."""
    scale = w.abs().amax(1)
    scale = torch.where(scale > 0, scale, 1.0)
    w, c = w / scale[:, None], c / scale
    direction = w.sign() * c.sign()[:, None]
    gap = torch.where(direction > 0, hi - p, p - lo).clamp(0.0, _FAR)
    size = w.abs()
    if norm == "linf":
        a, r = size, gap
    else:
        a, r = size.square(), torch.where(size > 0, gap / size, 0.0).clamp_max(_FAR)
    r = torch.where(size > 0, r, 0.0)
    moved = torch.minimum(_solve(a, r, c.abs())[:, None], r)
    return direction * (moved if norm == "linf" else moved * size)


def _solve(a: Tensor, r: Tensor, need: Tensor) -> Tensor:
    """(N,) the t at which ``sum_i a_i min(t, r_i)`` is ``need``; infinite where it never is."""
    kinks, order = r.sort(1)
    weights = a.gather(1, order)
    below = torch.cumsum(weights * kinks, 1)
    slopes = weights.flip(1).cumsum(1).flip(1)  # from each kink on: its own weight is in the slope before it
    after = torch.nn.functional.pad(slopes[:, 1:], (0, 1))
    reached = below + kinks * after  # the sum at each kink
    k = (reached < need[:, None]).sum(1, keepdim=True)
    base = torch.nn.functional.pad(below, (1, 0)).gather(1, k)[:, 0]
    slope = torch.nn.functional.pad(slopes, (0, 1)).gather(1, k)[:, 0]
    t = torch.where(slope > 0, (need - base).clamp_min(0.0) / torch.where(slope > 0, slope, 1.0), torch.inf)
    # Running sums round; one step of Newton's method with sums over all pixels takes that out again.
    exact = torch.where(r > t[:, None], a, 0.0).sum(1)
    gap = need - (a * torch.minimum(t[:, None], r)).sum(1)
    return torch.where((exact > 0) & t.isfinite(), (t + gap / torch.where(exact > 0, exact, 1.0)).clamp_min(0.0), t)
