"""pgd_init: where an attack starts inside the ball around x."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fairtat import backends
from fairtat.checks import check_bounds, check_choice, check_images, check_sample_ids, check_seed, per_sample
from fairtat.ops._library import register_op

INITS = ("uniform", "normal", "zero")
NORMS = ("linf", "l2")


def pgd_init(
    x: Tensor,  # (N, ...)
    eps: float | Tensor,  # scalar or (N,)
    *,
    seed: int,
    sample_ids: Tensor | None = None,  # (N,)
    stream: int = 0,
    init: str = "uniform",
    norm: str = "linf",
    bounds: tuple[float, float] = (0.0, 1.0),
    backend: str = "auto",
) -> Tensor:
    """Return a start for PGD in the eps-ball around each image.

    ``uniform``, Linf: ``clip(x + eps*u, lo, hi)`` with u ~ U[-1, 1); L2: uniform in the ball. ``normal``:
    ``x + 1e-3*z``, z ~ N(0, 1), kept inside the ball (the start of TRADES). ``zero``: x. The draws are
    Philox4x32-10 with key ``seed`` and counter ``(element // 4, stream, sample id)``, where elements are
    counted in logical (C, H, W) order: the result depends neither on the batch around a sample nor on the
    memory format.

    Args:
        x: Images (N, ...), float32 or float64, dense with the batch outermost.
        eps: Radius in pixel units, a number or (N,).
        seed: Any integer in [-2**63, 2**64).
        sample_ids: (N,) int64, default ``arange(N)``.
        stream: Separates draws under one seed (restarts, epochs), in [0, 2**32).
        init: "uniform", "normal" or "zero".
        norm: "linf" or "l2".
        bounds: (low, high) of a valid pixel.
        backend: "auto" or a name from :data:`fairtat.backends.BACKENDS`.

    Returns:
        x_adv (N, ...) with the dtype and strides of x.

    Raises:
        ValueError, TypeError: naming the argument, what was given and what was expected.

    Source: Madry et al. 2018, arXiv:1706.06083; Zhang et al. 2019 (TRADES), arXiv:1901.08573.
    """
    if chosen := _op.usual(backend, x, eps, seed, sample_ids, stream, init, norm, bounds):
        eps_n, eps_value = (eps, 0.0) if isinstance(eps, Tensor) else (None, float(eps))
        start: Tensor = _op.direct(x, eps_n, eps_value, sample_ids, seed, stream, init, norm, *bounds, chosen)
        return start
    check_images("x", x)
    check_choice("init", init, INITS)
    check_choice("norm", norm, NORMS)
    lo, hi = check_bounds(bounds, x.dtype)
    eps_n, eps_value = per_sample("eps", eps, x)
    seed = check_seed(seed, stream)
    ids = check_sample_ids(sample_ids, x.shape[0], "x", x)
    chosen = backends.choose("pgd_init", x.device, x.dtype, backend)
    out: Tensor = _op(x, eps_n, eps_value, ids, seed, stream, init, norm, lo, hi, chosen)
    return out


def _run(kernel: Callable[..., None], x: Tensor, *arguments: Any) -> Tensor:
    out = torch.empty_like(x)
    kernel(out, x, *arguments)  # an attack has room for its start, so the kernel allocates none
    return out


_op = register_op(
    "pgd_init(Tensor x, Tensor? eps_n, float eps, Tensor? sample_ids, SymInt seed, SymInt stream, str init, str norm, "
    "float lo, float hi) -> Tensor",
    fake=lambda x, *_: torch.empty_like(x),
    run=_run,
    usual=(
        "float32 (N, ...)", "amount (N)", "seed", "int64 (N)?", "integer 0 4294967295", "one of uniform normal zero",
        "one of linf l2", "bounds",
    ),
)  # fmt: skip
