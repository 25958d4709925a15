"""pgd_init: where an attack starts inside the ball around x."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fairtat.reference.definition import Written, taking
from fairtat.reference.pgd_step import normalized
from fairtat.reference.philox import RADIUS_POSITION, element_normals, element_words, philox4x32

NORMAL_STD = 1e-3  # the start of TRADES (Zhang et al. 2019)
TINY = 1e-300  # a direction of one or two elements can come out as zero; it then stays zero instead of NaN


class PgdInitArgs(NamedTuple):
    """What a start takes."""

    out: Written  # (N, ...), with the strides of x
    x: Tensor  # (N, ...)
    eps_n: Tensor | None  # (N,) or None: eps
    eps: float
    sample_ids: Tensor | None  # (N,) or None: 0, 1, ...
    seed: int
    stream: int
    init: str
    norm: str
    lo: float
    hi: float
    pixels: Written | None = None  # (N, ...) for bytes in x
    model_input: Written | None = None  # (N, ...)
    mean: Tensor | None = None  # (C,) or None: no normalization
    std: Tensor | None = None  # (C,)


def start_like(x: Tensor, *_: object) -> Tensor:
    """An empty start, with the strides of x."""
    return torch.empty_like(x, dtype=torch.float32) if x.dtype is torch.uint8 else torch.empty_like(x)


@taking(PgdInitArgs)
@torch.no_grad()
def pgd_init(a: PgdInitArgs) -> None:
    """Write the start into ``out``, which has the shape and strides of ``x`` (N, ...).

    Bytes are ``x / 255`` in float32, which ``pixels`` takes; ``model_input`` takes the start as `pgd_step_` has it.

    Linf: ``clip(x + eps*u)``, ``u = (r >> 8) * 2**-23 - 1``. L2: uniform in the ball by a normal direction
    and the radius ``eps * U**(1/D)``. ``normal``: ``x + 1e-3*z`` kept inside the ball. ``zero``: x.
    """
    x, norm, stream, seed = a.x, a.norm, a.stream, a.seed
    if a.pixels is not None:
        x = a.pixels.copy_(x.to(a.pixels.dtype) / 255.0)
    n = x.shape[0]
    # flatten takes elements in logical order, so the noise does not depend on the memory format.
    flat = x.flatten(1)
    d = flat.shape[1]
    radius = a.eps if a.eps_n is None else a.eps_n[:, None]
    ids = torch.arange(n, device=x.device) if a.sample_ids is None else a.sample_ids
    if a.init == "zero" or d == 0:
        start = flat
    elif a.init == "uniform" and norm == "linf":
        u = (element_words(d, stream, ids, seed) >> 8).to(x.dtype) * 2.0**-23 - 1.0
        start = flat + radius * u
    else:
        z = element_normals(d, stream, ids, seed)
        length = z.square().sum(1, keepdim=True).sqrt()
        if a.init == "uniform":
            word = philox4x32(torch.tensor([[RADIUS_POSITION]], device=x.device), stream, ids[:, None], seed)[0]
            u = ((word >> 8) + 1).double() * 2.0**-24
            start = (flat.double() + z * (radius * u ** (1.0 / d) / length.clamp_min(TINY))).to(x.dtype)
        elif norm == "l2":
            scale = (radius / length.clamp_min(TINY)).clamp_max(NORMAL_STD)
            start = (flat.double() + z * scale).to(x.dtype)
        else:
            start = (flat.double() + z * NORMAL_STD).to(x.dtype)
            start = torch.minimum(torch.maximum(start, flat - radius), flat + radius)
    start = torch.where(start < a.lo, a.lo, start)
    a.out.copy_(torch.where(start > a.hi, a.hi, start).reshape(x.shape))
    if a.model_input is not None:
        a.model_input.copy_(normalized(a.out, a.mean, a.std))
