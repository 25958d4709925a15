"""The nearest point of a hyperplane inside a box, which FAB asks for at every step.

``min ||d||`` subject to ``<w, d> = c`` and ``lo <= p + d <= hi``. With ``gap_i`` the room of pixel i in the direction
that helps, both norms are one equation in one number, whose left side is piecewise linear and grows::

    sum_i a_i min(t, r_i) = |c|        Linf: a = |w|,   r = gap,       |d_i| = min(t, r_i)
                                       L2:   a = w**2,  r = gap / |w|, |d_i| = |w_i| min(t, r_i)

It is solved by Newton's method from t = 0, which never passes the root, since the slope falls at every kink. Where even
the corner of the box does not reach the plane, d goes to that corner. Close to the corner t may end below the root, d
short of the plane by less than 0.1% of ``|c|`` for normals of Gaussian or Cauchy pixels. Sorting by r would be exact,
and takes longer than a small network.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fairtat.engines.realized import realized

_FAR = 1e12  # stands for infinitely far, where a product with 0 has to be 0
_NEWTON_STEPS = 12


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
    a, r = realized(a), realized(r)  # which every step reads
    moved = torch.minimum(_solve(a, r, c.abs())[:, None], r)
    return direction * (moved if norm == "linf" else moved * size)


def _solve(a: Tensor, r: Tensor, need: Tensor) -> Tensor:
    """(N,) the t at which ``sum_i a_i min(t, r_i)`` is ``need``; infinite where it never is."""
    t = torch.zeros_like(need)
    for _ in range(_NEWTON_STEPS):
        moved = torch.minimum(t[:, None], r)
        slope = torch.linalg.vecdot(a, (r - moved).sign())  # of the pixels with r > t; faster than by flags
        gap = (need - torch.linalg.vecdot(a, moved)).clamp_min(0.0)
        t = t + torch.where(slope > 0, gap / torch.where(slope > 0, slope, 1.0), 0.0)
    return torch.where(torch.linalg.vecdot(a, r) < need, torch.inf, t)
