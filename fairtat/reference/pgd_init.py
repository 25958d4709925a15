"""pgd_init: where an attack starts inside the ball around x."""

from __future__ import annotations

import torch
from torch import Tensor

from fairtat.reference.philox import RADIUS_POSITION, element_normals, element_words, philox4x32

NORMAL_STD = 1e-3  # the start of TRADES (Zhang et al. 2019)
TINY = 1e-300  # a direction of one or two elements can come out as zero; it then stays zero instead of NaN


@torch.no_grad()
def pgd_init(
    out: Tensor,
    x: Tensor,
    eps_n: Tensor | None,
    eps: float,
    sample_ids: Tensor | None,
    seed: int,
    stream: int,
    init: str,
    norm: str,
    lo: float,
    hi: float,
    pixels: Tensor | None = None,
    model_input: Tensor | None = None,
    mean: Tensor | None = None,
    std: Tensor | None = None,
) -> None:
    """Write the start into ``out``, which has the shape and strides of ``x`` (N, ...).

    Bytes are ``x / 255`` in float32, which ``pixels`` takes; ``model_input`` takes the start as `pgd_step_` has it.

    Linf: ``clip(x + eps*u)``, ``u = (r >> 8) * 2**-23 - 1``. L2: uniform in the ball by a normal direction
    and the radius ``eps * U**(1/D)``. ``normal``: ``x + 1e-3*z`` kept inside the ball. ``zero``: x.
    """
    if pixels is not None:
        x = pixels.copy_(x.to(pixels.dtype) / 255.0)
    n = x.shape[0]
    # flatten takes elements in logical order, so the noise does not depend on the memory format.
    flat = x.flatten(1)
    d = flat.shape[1]
    radius = eps if eps_n is None else eps_n[:, None]
    ids = torch.arange(n, device=x.device) if sample_ids is None else sample_ids
    if init == "zero" or d == 0:
        start = flat
    elif init == "uniform" and norm == "linf":
        u = (element_words(d, stream, ids, seed) >> 8).to(x.dtype) * 2.0**-23 - 1.0
        start = flat + radius * u
    else:
        z = element_normals(d, stream, ids, seed)
        length = z.square().sum(1, keepdim=True).sqrt()
        if init == "uniform":
            word = philox4x32(torch.tensor([[RADIUS_POSITION]], device=x.device), stream, ids[:, None], seed)[0]
            u = ((word >> 8) + 1).double() * 2.0**-24
            start = (flat.double() + z * (radius * u ** (1.0 / d) / length.clamp_min(TINY))).to(x.dtype)
        elif norm == "l2":
            scale = (radius / length.clamp_min(TINY)).clamp_max(NORMAL_STD)
            start = (flat.double() + z * scale).to(x.dtype)
        else:
            start = (flat.double() + z * NORMAL_STD).to(x.dtype)
            start = torch.minimum(torch.maximum(start, flat - radius), flat + radius)
    start = torch.where(start < lo, lo, start)
    out.copy_(torch.where(start > hi, hi, start).reshape(x.shape))
    if model_input is None:
        return
    if mean is None or std is None:
        model_input.copy_(out)
    else:
        per_channel = (1, -1, *[1] * (x.ndim - 2))
        model_input.copy_((out - mean.view(per_channel)) / std.view(per_channel))
