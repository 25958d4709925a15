"""pgd_init: where an attack starts inside the ball around x."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fairtat import backends
from fairtat.checks import (
    LOW_PRECISION,
    check_bounds,
    check_choice,
    check_dtype,
    check_images,
    check_like,
    check_sample_ids,
    check_seed,
    check_tensor,
    name_of,
    per_sample,
)
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
    pixels: Tensor | None = None,  # (N, ...)
    model_input: Tensor | None = None,  # (N, ...)
    mean: Tensor | Sequence[float] | None = None,  # (C,)
    std: Tensor | Sequence[float] | None = None,  # (C,)
    backend: str = "auto",
) -> Tensor:
    """Return a start for PGD in the eps-ball around each image.

    ``uniform``, Linf: ``clip(x + eps*u, lo, hi)`` with u ~ U[-1, 1); L2: uniform in the ball. ``normal``:
    ``x + 1e-3*z``, z ~ N(0, 1), kept inside the ball (the start of TRADES). ``zero``: x. The draws are
    Philox4x32-10 with key ``seed`` and counter ``(element // 4, stream, sample id)``, where elements are
    counted in logical (C, H, W) order: the result depends neither on the batch around a sample nor on the
    memory format.

    The same pass can make the images from bytes, ``x / 255`` in float32, and write the next model input,
    ``(x_adv - mean[c]) / std[c]`` in the model's dtype: the bits are those of the steps one after another.

    Args:
        x: Images (N, ...), float32, float64 or, with ``pixels``, uint8; dense with the batch outermost.
        eps: Radius in pixel units, a number or (N,).
        seed: Any integer in [-2**63, 2**64).
        sample_ids: (N,) int64, default ``arange(N)``.
        stream: Separates draws under one seed (restarts, epochs), in [0, 2**32).
        init: "uniform", "normal" or "zero".
        norm: "linf" or "l2".
        bounds: (low, high) of a valid pixel; of bytes after the division.
        pixels: (N, ...) float32, for uint8 images and only for them; x / 255 is written to it.
        model_input: (N, ...) written in the same pass; float32, bfloat16 or float16.
        mean, std: (C,) for dimension 1, given together and only with ``model_input``.
        backend: "auto" or a name from :data:`fairtat.backends.BACKENDS`.

    x, pixels and model_input share one dense memory format. What is written (pixels, model_input) shares memory with
    nothing else.

    Returns:
        x_adv (N, ...) with the strides of x, in its dtype or, for uint8, float32.

    Raises:
        ValueError, TypeError: naming the argument, what was given and what was expected.

    Source: Madry et al. 2018, arXiv:1706.06083; Zhang et al. 2019 (TRADES), arXiv:1901.08573.
    """
    alone = pixels is None and model_input is None and mean is None and std is None
    if alone and (chosen := _op.usual(backend, x, eps, seed, sample_ids, stream, init, norm, bounds)):
        eps_n, eps_value = (None, float(eps)) if isinstance(eps, (int, float)) else (eps, 0.0)
        start: Tensor = _op.direct(chosen, x, eps_n, eps_value, sample_ids, seed, stream, init, norm, *bounds)
        return start
    images = _images_of(x, pixels)
    check_choice("init", init, INITS)
    check_choice("norm", norm, NORMS)
    lo, hi = check_bounds(bounds, images.dtype)
    eps_n, eps_value = per_sample("eps", eps, images)
    mean_c, std_c = _model_input_of(images, model_input, mean, std)
    seed = check_seed(seed, stream)
    ids = check_sample_ids(sample_ids, x.shape[0], "x", x)
    chosen = backends.choose("pgd_init", x.device, images.dtype, backend)
    arguments = (x, eps_n, eps_value, ids, seed, stream, init, norm, lo, hi)
    more = (pixels, model_input, mean_c, std_c)
    out: Tensor = _op(*arguments, chosen) if alone else _op_and_input(*arguments, *more, chosen)
    return out


def _images_of(x: Tensor, pixels: Tensor | None) -> Tensor:
    """The checked images in floating point: x, or where x is of bytes what they are written to."""
    check_tensor("x", x)
    if x.dtype != torch.uint8:
        if pixels is not None:
            raise ValueError(f"pixels takes x / 255 of uint8 images, got x in {name_of(x.dtype)}")
        check_images("x", x)
        return x
    if pixels is None:
        raise TypeError("x must be float32 or float64, got uint8; pass pixels, to which x / 255 is written, for bytes")
    check_images("pixels", pixels)
    check_dtype("pixels", pixels, (torch.float32,))
    check_like("pixels", pixels, "x", x)
    return pixels


def _model_input_of(
    images: Tensor,
    model_input: Tensor | None,
    mean: Tensor | Sequence[float] | None,
    std: Tensor | Sequence[float] | None,
) -> tuple[Tensor | None, Tensor | None]:
    """The checked mean and std of the model's input."""
    from fairtat.ops.pgd_step import channel_values  # which imports this module

    if model_input is None:
        if mean is not None or std is not None:
            raise ValueError("mean and std need model_input, the tensor that the normalized images are written to")
        return None, None
    check_like("x", images, "model_input", model_input)
    check_dtype("model_input", model_input, (*LOW_PRECISION, *({images.dtype} - set(LOW_PRECISION))))
    if (mean is None) != (std is None):
        raise ValueError("mean and std must be given together, got only one of them")
    if mean is None or std is None:
        return None, None
    return channel_values("mean", mean, images), channel_values("std", std, images)


_op = register_op(
    "pgd_init",
    without=("pixels", "model_input", "mean", "std"),  # an op that writes nothing can be functionalized and mapped
    usual=(
        "float32 (N, ...)", "amount (N)", "seed", "int64 (N)?", "integer 0 4294967295", "one of uniform normal zero",
        "one of linf l2", "bounds",
    ),
)  # fmt: skip
_op_and_input = register_op("pgd_init", name="pgd_init_and_input")
