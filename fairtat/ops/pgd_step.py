"""pgd_step_: one projected gradient step, in place, in one pass over memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fairtat import backends
from fairtat.checks import (
    LOW_PRECISION,
    amount,
    channel_numbers,
    check_bounds,
    check_choice,
    check_dtype,
    check_images,
    check_labels,
    check_like,
    check_mask,
    check_tensor,
    per_sample,
)
from fairtat.ops._library import register_op
from fairtat.ops.pgd_init import NORMS

STEP_NORMS = (*NORMS, "l1")


def pgd_step_(
    x_adv: Tensor,  # (N, ...)
    grad: Tensor,  # (N, ...)
    x: Tensor,  # (N, ...)
    eps: float | Tensor,  # scalar or (N,)
    step_size: float | Tensor,  # scalar or (N,)
    *,
    targeted: bool | Tensor = True,  # one for all or (N,)
    norm: str = "linf",
    bounds: tuple[float, float] = (0.0, 1.0),
    model_input: Tensor | None = None,  # (N, ...)
    mean: Tensor | Sequence[float] | None = None,  # (C,)
    std: Tensor | Sequence[float] | None = None,  # (C,)
    zero_grad: Tensor | None = None,  # (N,)
    velocity: Tensor | None = None,  # (N, ...)
    momentum: float = 0.0,
    density: float = 0.01,
    backend: str = "auto",
) -> Tensor:
    """Move ``x_adv`` one PGD step and project it on the eps-ball around ``x`` and on the bounds, in place.

    With d = +1 towards a target and -1 away from a label::

        linf:  v = x_adv - d*step*sign(grad)            sign(0) = sign(NaN) = 0
               x_adv = min(max(v, max(x - eps, lo)), min(x + eps, hi))
        l2:    v = x_adv - d*step*grad/(||grad|| + 1e-12) - x
               x_adv = clip(x + v*min(1, eps/||v||), lo, hi)
        l1:    v = x_adv - d*step*s/||s||_1              s = sign(grad) at the largest |grad|, 0 elsewhere
               x_adv = the nearest point to v with ||x_adv - x||_1 <= eps and lo <= x_adv <= hi

    With a ``velocity``, the step is made along it instead of along the gradient, after::

        velocity = momentum * velocity + grad / ||grad||_1            an all-zero gradient adds nothing

    In L1, s keeps a share ``density`` of a sample's elements, at least one, and those that equal the smallest of these.
    The arithmetic is float64, and only x_adv is rounded.

    In Linf each element is independent and these comparisons decide: with NaN they are false. In L2 and L1 a NaN of the
    gradient counts as 0 and an infinity as the largest float32, while a pixel of x or x_adv that is not finite makes
    its sample NaN; norms are summed in float64, so images, radii and steps may have any size that float32 holds. The
    same pass can write the next model input, ``(x_adv - mean[c]) / std[c]`` in the model's dtype.

    Args:
        x_adv: Current adversarial images (N, ...), float32 or float64; overwritten.
        grad: d loss / d x_adv (N, ...), float32, bfloat16 or float16 (float64 for float64 images).
        x: Clean images (N, ...), of x_adv's dtype.
        eps: Radius in pixel units, a number or (N,).
        step_size: Step in pixel units, a number or (N,).
        targeted: True descends the loss (towards a target), False ascends it; a bool, or (N,) bool. The direction is
            the sign of the step in every kernel, so a mixed batch costs what steps per sample cost.
        norm: "linf", "l2", or "l1", which the "cpu" and "reference" backends serve.
        bounds: (low, high) of a valid pixel.
        model_input: (N, ...) written in the same pass; float32, bfloat16 or float16.
        mean, std: (C,) for dimension 1, given together and only with ``model_input``.
        zero_grad: (N,) int64; 1 is added for each sample whose gradient is all zero (or NaN).
        velocity: (N, ...) of x_adv's dtype, overwritten: the gradients of earlier steps, zero before the first. NaN and
            infinite gradients count here as in L2.
        momentum: The share of it that is kept, at least 0; only with ``velocity``.
        density: The share of elements that an L1 step moves, in (0, 1].
        backend: "auto" or a name from :data:`fairtat.backends.BACKENDS`.

    x_adv, grad, x, model_input and velocity share one dense memory format with the batch outermost. What is written
    (x_adv, model_input, zero_grad, velocity) shares memory with nothing else.

    Returns:
        x_adv, the same tensor.

    Raises:
        ValueError, TypeError: naming the argument, what was given and what was expected.

    Source: Madry et al. 2018, arXiv:1706.06083; Dong et al. 2018 (momentum), arXiv:1710.06081; Tramer & Boneh
    2019 (SLIDE, the sparse step), arXiv:1904.13000; Croce & Hein 2021 (APGD-L1, the projection), arXiv:2103.01208.
    """
    chosen = _op.usual(
        backend, x_adv, grad, x, eps, step_size, targeted, norm, bounds, model_input, mean, std, zero_grad, velocity,
        momentum,
    )  # fmt: skip
    if (
        chosen
        and (mean is None) == (std is None)
        and (mean is None or model_input is not None)
        and (velocity is not None or not momentum)
    ):
        # Asked for numbers: that is quicker than to ask for a tensor.
        eps_n, eps_value = (None, float(eps)) if isinstance(eps, (int, float)) else (eps, 0.0)
        step_n, step_value = (None, float(step_size)) if isinstance(step_size, (int, float)) else (step_size, 0.0)
        _op.direct(
            chosen, x_adv, grad, x, eps_n, eps_value, step_n, step_value, targeted, norm, *bounds,
            model_input, mean, std, zero_grad, velocity, float(momentum), 0,
        )  # fmt: skip
        return x_adv
    check_images("x_adv", x_adv)
    for name, value in (("grad", grad), ("x", x)):
        check_like("x_adv", x_adv, name, value)
        if value is x_adv:
            raise ValueError(f"{name} must not be x_adv itself, which is overwritten; pass a clone")
    check_dtype("x", x, (x_adv.dtype,))
    check_dtype("grad", grad, LOW_PRECISION if x_adv.dtype == torch.float32 else (*LOW_PRECISION, torch.float64))
    check_choice("norm", norm, STEP_NORMS)
    kept = kept_elements(density, x.shape[1:].numel()) if norm == "l1" else 0
    lo, hi = check_bounds(bounds, x.dtype)
    eps_n, eps_value = per_sample("eps", eps, x)
    step_n, step_value = per_sample("step_size", step_size, x)
    if isinstance(targeted, Tensor):
        check_mask("targeted", targeted, x.shape[0], "x_adv", x_adv)
        step_n, targeted = signed_steps(step_n, step_value, targeted, x), True
    elif not isinstance(targeted, bool):
        raise TypeError(f"targeted must be True, False or a tensor (N,), got {type(targeted).__name__}")
    mean_c = std_c = None
    if model_input is not None:
        check_like("x_adv", x_adv, "model_input", model_input)
        check_dtype("model_input", model_input, (*LOW_PRECISION, *({x_adv.dtype} - set(LOW_PRECISION))))
        if (mean is None) != (std is None):
            raise ValueError("mean and std must be given together, got only one of them")
        if mean is not None and std is not None:
            mean_c, std_c = channel_values("mean", mean, x), channel_values("std", std, x)
    elif mean is not None or std is not None:
        raise ValueError("mean and std need model_input, the tensor that the normalized images are written to")
    if zero_grad is not None:
        check_labels("zero_grad", zero_grad, x.shape[0], "x_adv", x_adv)
        if not zero_grad.is_contiguous():
            raise ValueError(f"zero_grad must be contiguous, got strides {zero_grad.stride()}")
    momentum = amount("momentum", momentum, torch.float32, expected="a number")
    if velocity is not None:
        check_like("x_adv", x_adv, "velocity", velocity)
        check_dtype("velocity", velocity, (x_adv.dtype,))
    elif momentum:
        raise ValueError(f"momentum needs velocity, the tensor that holds the earlier gradients, got {momentum}")
    chosen = backends.choose("pgd_step", x.device, x.dtype, backend, form=norm)
    _op(
        x_adv, grad, x, eps_n, eps_value, step_n, step_value, targeted, norm, lo, hi,
        model_input, mean_c, std_c, zero_grad, velocity, momentum, kept, chosen,
    )  # fmt: skip
    return x_adv


def signed_steps(step_n: Tensor | None, step: float, targeted: Tensor, x: Tensor) -> Tensor:
    """(N,) steps towards a target: negative for the samples that move away."""
    if step_n is None:
        step_n = x.new_full((x.shape[0],), step)
    return torch.where(targeted, step_n, -step_n)


def kept_elements(density: float, elements: int) -> int:
    """How many elements of a sample an L1 step moves, where no two gradients are equal."""
    check_density(density)
    return min(max(round(density * elements), 1), elements)


def check_density(density: object) -> None:
    if isinstance(density, bool) or not isinstance(density, (int, float)):
        raise TypeError(f"density must be a number, got {type(density).__name__}")
    if not 0 < density <= 1:
        raise ValueError(f"density must be in (0, 1], got {density}")


def channel_values(name: str, value: Tensor | Sequence[float], x: Tensor) -> Tensor:
    """Per-channel numbers as a (C,) tensor of x's dtype and device."""
    if isinstance(value, Tensor):
        check_tensor(name, value)
    else:
        value = channel_numbers(name, value, x.dtype)
    t = torch.as_tensor(value, dtype=x.dtype, device=x.device)
    if tuple(t.shape) != (x.shape[1],):
        raise ValueError(f"{name} must have one value for each of the {x.shape[1]} channels, got {tuple(t.shape)}")
    return t.contiguous()


_op = register_op(
    "pgd_step",
    usual=(
        "float32 (N, C, ...) written", "float32|bfloat16|float16 like 0", "float32 like 0", "amount (N)", "amount (N)",
        "bool", "one of linf l2", "bounds", "float32|bfloat16|float16 like 0? written", "float32 (C)?", "float32 (C)?",
        "int64 (N)? written", "float32 like 0? written", "amount",
    ),
)  # fmt: skip
