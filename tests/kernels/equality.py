"""The Triton kernels against the reference: every op's table of equality, as a program.

``TRITON_INTERPRET=1 python equality.py OP ...`` runs them on CPU tensors under Triton's interpreter; without the
variable they are compiled and run on a GPU. Prints one JSON object a line, with the op, the case and its failure.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from fairtat import reference
from fairtat.backends import triton as kernels
from fairtat.ops.sample_targets import target_table
from fairtat.reference.class_stats import HEADER

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
INF, NAN = float("inf"), float("nan")
BF16 = torch.bfloat16
LOW_PRECISION = (torch.float32, BF16, torch.float16)
SHAPES = [(1, 1), (3, 5), (2, 3, 4), (2, 3, 33, 31), (2, 2, 3, 1, 4, 2), (3, 1, 1030), (0, 3, 4, 4), (2, 0, 4)]
IDS = (0, 1, -1, 2**32, 2**32 + 7, -(2**63), 2**63 - 1)
SEEDS = (0, 1, -1, 2**32 + 5, -(2**63), 2**63, 2**64 - 1)
SPECIAL = [NAN, INF, -INF, 0.0, -0.0, 1e-45, -1e-45, 6e-8, -6e-8, 3e38, -3e38, 1.0]
GUARD = 32

Case = tuple[str, Callable[[], None]]


def cast_impl(
    self: Any, src: TensorHandle, dst_type: Any, original: Any = InterpreterBuilder.cast_impl
) -> TensorHandle:
    """The interpreter truncates to bfloat16 and loses subnormals on the way back; GPUs round and keep them."""
    source, result = src.dtype.scalar, dst_type.scalar
    if source == tl.bfloat16 and result == tl.float32:
        return TensorHandle((src.data.astype(np.uint32) << 16).view(np.float32), result)
    if source == tl.float32 and result == tl.bfloat16:
        rounded = torch.from_numpy(np.ascontiguousarray(src.data)).bfloat16()
        return TensorHandle(rounded.view(torch.uint16).numpy(), result)
    return original(self, src, dst_type)


def call(kernel: Callable[..., Any], *arguments: Any) -> Any:
    """Run a kernel on DEVICE: tensors go there, and what it wrote comes back."""
    if DEVICE == "cpu":
        return kernel(*arguments)
    there = [a.to(DEVICE) if isinstance(a, Tensor) else a for a in arguments]
    result = kernel(*there)
    for ours, theirs in zip(arguments, there, strict=True):
        if isinstance(ours, Tensor):
            ours.copy_(theirs)
    return result.cpu() if isinstance(result, Tensor) else result and tuple(t.cpu() for t in result)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.rand(shape, generator=generator(seed))


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def width_outermost(x: Tensor) -> Tensor:
    """(N, C, H, W) stored as (N, W, C, H): dense, and neither of PyTorch's named formats."""
    return x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)


LAYOUTS = (torch.Tensor.contiguous, channels_last, width_outermost)


class Guarded:
    """A copy of a tensor, strides and all, between margins that nobody may write to."""

    def __init__(self, t: Tensor) -> None:
        self.storage = torch.full((t.numel() + 2 * GUARD,), 77, dtype=t.dtype)
        self.tensor = self.storage.as_strided(t.shape, t.stride(), GUARD)
        self.tensor.copy_(t)

    def check(self) -> None:
        margins = torch.cat([self.storage[:GUARD], self.storage[-GUARD:]])
        assert bool((margins == 77).all()), "wrote outside the tensor"


def same_bits(actual: Tensor, expected: Tensor) -> None:
    """Equal to the last bit: tells +0 from -0; a NaN equals a NaN."""
    assert actual.dtype == expected.dtype, f"{actual.dtype} is not {expected.dtype}"
    assert actual.shape == expected.shape, f"{actual.shape} is not {expected.shape}"
    integer = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[actual.element_size()]
    differ = actual.contiguous().view(integer) != expected.contiguous().view(integer)
    if actual.is_floating_point():
        differ &= ~(actual.isnan() & expected.isnan())
    assert not bool(differ.any()), f"{int(differ.sum())} differ: {actual[differ][:4]} is not {expected[differ][:4]}"


def close(actual: Tensor, expected: Tensor, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    torch.testing.assert_close(actual.double(), expected.double(), rtol=rtol, atol=atol, equal_nan=True)


def with_64_bit_indices(check: Callable[[], None]) -> None:
    """As for an image too large to make here."""
    before = kernels.is_wide
    kernels.is_wide = lambda elements: True
    try:
        check()
    finally:
        kernels.is_wide = before


def step(
    shape: tuple[int, ...] = (2, 3, 7, 5),
    layout: Callable[[Tensor], Tensor] = torch.Tensor.contiguous,
    norm: str = "linf",
    grad_dtype: torch.dtype = torch.float32,
    input_dtype: torch.dtype | None = None,
    normalise: bool = False,
    by_sample: bool = False,
    targeted: bool = True,
    bounds: tuple[float, float] = (0.0, 1.0),
    special: bool = False,
    zero: slice | None = None,
    scale: float = 1.0,
) -> None:
    n = shape[0]
    x = layout(images(shape, 0))
    grad = torch.randn(shape, generator=generator(1)) * scale
    x_adv = layout((x + 0.05 * torch.randn(shape, generator=generator(2))).clamp(*bounds))
    if special:
        values = torch.tensor(SPECIAL)
        grad.view(-1)[: 3 * len(values)] = values.repeat(3)
        if norm == "linf":  # every image value beside every gradient
            x_adv.view(-1)[: len(values)] = values[6]
            x.view(-1)[len(values) : 3 * len(values)] = values.repeat_interleave(2)
            x_adv.view(-1)[2 * len(values) : 3 * len(values)] = values.roll(5)
    if zero is not None:
        grad[zero] = 0.0
        grad[zero].view(-1)[::3] = NAN
    grad = layout(grad.to(grad_dtype))
    eps_n = torch.linspace(0.0, 0.1, n) if by_sample else None
    step_n = torch.linspace(0.02, 0.0, n) if by_sample else None
    mean = std = None
    if normalise:
        mean, std = torch.linspace(0.4, 0.5, shape[1]), torch.linspace(0.2, 0.3, shape[1])
    exact = norm == "linf"
    dtype = torch.float32 if exact else torch.float64
    expected, expected_count = x_adv.to(dtype, copy=True), torch.arange(n)
    radii = [None if t is None else t.to(dtype) for t in (eps_n, step_n)]
    reference.pgd_step_(
        expected, grad, x.to(dtype), radii[0], 8 / 255, radii[1], 2 / 255, targeted, norm, *bounds, None, None, None,
        expected_count,
    )  # fmt: skip
    ours, count = Guarded(x_adv), torch.arange(n)
    model_input = None if input_dtype is None else Guarded(torch.full_like(x, NAN, dtype=input_dtype))
    call(
        kernels.pgd_step_,
        ours.tensor, grad, x, eps_n, 8 / 255, step_n, 2 / 255, targeted, norm, *bounds,
        None if model_input is None else model_input.tensor, mean, std, count,
    )  # fmt: skip
    ours.check()
    same_bits(count, expected_count)
    (same_bits if exact else close)(ours.tensor, expected)
    if model_input is not None:
        model_input.check()
        normalised = ours.tensor
        if mean is not None and std is not None:
            per_channel = (1, -1, *[1] * (x.ndim - 2))
            normalised = (normalised - mean.view(per_channel)) / std.view(per_channel)
        same_bits(model_input.tensor, normalised.to(model_input.tensor.dtype))


def l2_at_any_magnitude() -> None:
    """Where floats over- and underflow, and where a pixel is not finite."""
    g = generator(4)
    table = torch.tensor([0.0, 1e-45, 1e-38, 1e-20, 1e-8, 1.0, 1e15, 1e20, 1e38, NAN, INF])

    def draw(columns: int) -> Tensor:
        return table[torch.randint(len(table), (150, 1), generator=g)] * torch.rand(150, columns, generator=g)

    x_adv, grad, x = Guarded(draw(5)), draw(5) - 1e-3, draw(5)
    eps, step = (draw(1)[:, 0].nan_to_num(0.1, 0.1) for _ in range(2))
    scale = x.double().abs().amax(1) + torch.minimum(eps.double(), x_adv.tensor.double().abs().amax(1) + step.double())
    expected, counts = x_adv.tensor.clone(), [torch.zeros(150, dtype=torch.int64) for _ in range(2)]
    rest = (grad, x, eps, 0.0, step, 0.0, True, "l2", -1e38, 1e38, None, None, None)
    reference.pgd_step_(expected, *rest, counts[0])
    call(kernels.pgd_step_, x_adv.tensor, *rest, counts[1])
    x_adv.check()
    same_bits(counts[1], counts[0])
    error = (x_adv.tensor.double() - expected.double()).abs()
    same = (x_adv.tensor == expected) | (x_adv.tensor.isnan() & expected.isnan())
    assert bool((same | (error <= 1e-6 * scale[:, None] + 1e-5 * expected.double().abs() + 1e-44)).all())


def step_uncounted(n: int, d: int) -> None:
    """Without anything that depends on the sample the batch is one long sample."""
    x, grad = images((n, d), 0), images((n, d), 1) - 0.5
    expected, ours = x.clone(), Guarded(x)
    rest = (None, 0.03, None, 0.01, True, "linf", 0.0, 1.0, None, None, None, None)
    reference.pgd_step_(expected, grad, x, *rest)
    call(kernels.pgd_step_, ours.tensor, grad, x, *rest)
    ours.check()
    same_bits(ours.tensor, expected)


def pgd_step() -> Iterator[Case]:
    for norm in ("linf", "l2"):
        for shape in SHAPES:
            yield f"{norm} {shape}", partial(step, shape, norm=norm)
            if shape[1] > 0:
                yield (
                    f"{norm} {shape} all",
                    partial(
                        step,
                        shape,
                        norm=norm,
                        input_dtype=torch.bfloat16,
                        normalise=True,
                        by_sample=True,
                        targeted=False,
                    ),
                )
        for layout, grad_dtype, input_dtype in product(LAYOUTS, LOW_PRECISION, LOW_PRECISION):
            options = {
                "layout": layout, "norm": norm, "grad_dtype": grad_dtype, "input_dtype": input_dtype,
                "normalise": True, "by_sample": grad_dtype == torch.bfloat16,
            }  # fmt: skip
            name = f"{norm} {layout.__name__} {grad_dtype} {input_dtype}"
            yield name, partial(step, **options)
        for grad_dtype, targeted in product(LOW_PRECISION, (True, False)):
            options = {"norm": norm, "grad_dtype": grad_dtype, "special": True, "targeted": targeted}
            yield f"{norm} special {grad_dtype} {targeted}", partial(step, **options)
            yield f"{norm} special {grad_dtype} {targeted} eps 0", partial(step, **options, by_sample=True)
        for bounds in ((-1.0, 1.0), (0.0, 255.0), (-INF, INF), (0.25, 0.5)):
            yield f"{norm} {bounds}", partial(step, norm=norm, bounds=bounds)
        for zero in (slice(0, 1), slice(1, 3), slice(None)):
            options = {"shape": (3, 2, 40, 41), "norm": norm, "zero": zero}
            yield f"{norm} zero {zero}", partial(step, **options)
        # Gradients with one nonzero element: after the first block, negative, the smallest there is.
        yield f"{norm} late", partial(late, norm)
        yield f"{norm} bare input", partial(step, norm=norm, input_dtype=torch.float16)
    yield "l2 at any magnitude", l2_at_any_magnitude
    for scale in (1e-30, 1e-12, 1e12, 1e37):
        yield f"l2 scale {scale}", partial(step, norm="l2", scale=scale)
    for n, d in ((3, 7), (5, 1024), (2, 2049)):
        yield f"one long sample {n} {d}", partial(step_uncounted, n, d)
    yield (
        "64-bit indices",
        partial(with_64_bit_indices, partial(step, (2, 3, 33, 31), normalise=True, input_dtype=BF16)),
    )


def late(norm: str) -> None:
    grad = torch.zeros(4, 5000)
    grad[0, 4999], grad[1, 2048], grad[2, 5] = 1e-45, -1.0, -1e-45
    x, count = images((4, 5000), 3), torch.zeros(4, dtype=torch.int64)
    call(kernels.pgd_step_, x.clone(), grad, x, None, 0.1, None, 0.01, True, norm, 0.0, 1.0, None, None, None, count)
    same_bits(count, torch.tensor([0, 0, 0, 1]))


def start(
    init: str,
    norm: str,
    shape: tuple[int, ...] = (3, 3, 7, 5),
    layout: Callable[[Tensor], Tensor] = torch.Tensor.contiguous,
    by_sample: bool = False,
    ids: bool = False,
    seed: int = 7,
    stream: int = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
    eps: float = 8 / 255,
    special: bool = False,
) -> None:
    x = layout(images(shape, 0))
    if special:
        x.view(-1)[: len(SPECIAL)] = torch.tensor(SPECIAL)
    n = shape[0]
    eps_n = torch.linspace(0.0, 0.3, n) if by_sample else None
    sample_ids = torch.tensor([IDS[i % len(IDS)] for i in range(n)], dtype=torch.int64) if ids else None
    exact = init == "zero" or (init, norm) == ("uniform", "linf")
    wide = x if exact else x.double()
    expected = torch.empty_like(wide)
    eps_wide = None if eps_n is None else eps_n.to(wide.dtype)
    reference.pgd_init(expected, wide, eps_wide, eps, sample_ids, seed, stream, init, norm, *bounds)
    ours = Guarded(torch.full_like(x, NAN))
    call(kernels.pgd_init, ours.tensor, x, eps_n, eps, sample_ids, seed, stream, init, norm, *bounds)
    ours.check()
    (same_bits if exact else close)(ours.tensor, expected)


def backwards(x: Tensor) -> Tensor:
    """Stored with the dimensions of a sample in the other order, so that no two of them merge."""
    order = (0, *range(x.ndim - 1, 0, -1))
    return x.permute(order).contiguous().permute(order)


def pgd_init() -> Iterator[Case]:
    for init, norm in product(("uniform", "normal", "zero"), ("linf", "l2")):
        for shape in SHAPES:
            options = {"init": init, "norm": norm, "shape": shape, "by_sample": True, "ids": True}
            yield f"{init} {norm} {shape}", partial(start, **options)
        for layout in LAYOUTS:
            options = {"init": init, "norm": norm, "layout": layout}
            yield f"{init} {norm} {layout.__name__}", partial(start, **options)
        # Three and four dimensions to walk, and one more than the kernels walk.
        for shape in ((2, 3, 7, 5), (2, 2, 3, 4, 5), (2, 2, 3, 4, 3, 2)):
            options = {"init": init, "norm": norm, "shape": shape, "layout": backwards}
            yield f"{init} {norm} {shape} backwards", partial(start, **options)
        for bounds in ((-1.0, 1.0), (0.0, 255.0), (-INF, INF)):
            options = {"init": init, "norm": norm, "bounds": bounds, "eps": 0.5}
            yield f"{init} {norm} {bounds}", partial(start, **options)
        yield f"{init} {norm} eps 0", partial(start, init, norm, eps=0.0)
    for seed, stream in product(SEEDS, (0, 1, 2**31, 2**32 - 1)):
        options = {"shape": (7, 6), "ids": True, "seed": seed, "stream": stream}
        yield f"seed {seed} stream {stream}", partial(start, "uniform", "linf", **options)
    yield (
        "64-bit indices",
        partial(with_64_bit_indices, partial(start, "uniform", "linf", (2, 3, 33, 31), channels_last)),
    )
    yield "special", partial(start, "uniform", "linf", special=True)
    yield "no direction", no_direction


def no_direction() -> None:
    # This sample's first word is the largest, so ln(u1) = 0: in one dimension the direction has no length.
    for d in (1, 2):
        x = torch.full((1, d), 0.5)
        out = torch.empty_like(x)
        call(kernels.pgd_init, out, x, None, 0.1, torch.tensor([1205178]), 0, 0, "uniform", "l2", 0.0, 1.0)
        same_bits(out, x)


def losses(
    kind: str,
    with_y: bool,
    z: Tensor,
    target: Tensor,
    y: Tensor,
    clean: Tensor,
    bad: Tensor | None = None,
) -> None:
    """``bad`` (N,) marks rows whose target or y is out of range."""
    good = torch.ones(len(target), dtype=torch.bool) if bad is None else ~bad
    clean_given = clean if kind == "kl" else None
    y_given = y if with_y else None
    expected = reference.logit_loss(
        z.double()[good], target[good], kind, None if y_given is None else y_given[good],
        None if clean_given is None else clean_given.double()[good],
    )  # fmt: skip
    loss, dlogits, pred, reached = call(kernels.logit_loss, z, target, kind, y_given, clean_given)
    assert (loss.dtype, dlogits.dtype, pred.dtype, reached.dtype) == (
        torch.float32, z.dtype, torch.int64, torch.bool,
    )  # fmt: skip
    rtol = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-10}.get(z.dtype, 1e-5)
    close(loss[good], expected[0])
    close(dlogits[good], expected[1], rtol=rtol)
    same_bits(pred[good], expected[2])
    same_bits(reached[good], expected[3])
    if bad is not None:
        assert bool(loss[bad].isnan().all()), "the loss of an index out of range must be NaN"
        assert bool(dlogits[bad].isnan().all()), "the gradient of an index out of range must be NaN"
        same_bits(pred[bad], z[bad].argmax(1))


def rows(n: int, classes: int, scale: float = 3.0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Logits, targets, labels other than the target, clean logits."""
    g = generator(classes)
    z = torch.randn(n, classes, generator=g) * scale
    clean = z + torch.randn(n, classes, generator=g)
    target = torch.arange(n) * 7 % classes
    y = (target + 1 + torch.arange(n) % max(classes - 1, 1)) % classes
    return z.to(dtype), target, y, clean.to(dtype)


KINDS = {("ce", False): 1, ("kl", False): 1, ("margin", False): 2, ("dlr", False): 3, ("dlr", True): 4}


def logit_loss() -> Iterator[Case]:
    for (kind, with_y), fewest in KINDS.items():
        name = f"{kind} {'y ' if with_y else ''}"
        for classes in (fewest, 3, 10, 17, 1000, 2049, 4500):
            if classes >= fewest:
                batch = rows(7 if classes < 100 else 2, classes)
                yield f"{name}C={classes}", partial(losses, kind, with_y, *batch)
        for dtype, scale in product(LOW_PRECISION, (0.1, 3.0, 100.0)):
            batch = rows(9, 10, scale, dtype)
            yield f"{name}{dtype} {scale}", partial(losses, kind, with_y, *batch)
        far = torch.tensor([[1e4, -1e4, 0.0, 3.0], [-1e4, 1e4, 9e3, -5.0], [1e4, 9984.0, 1e4, 0.0]])
        index = (torch.tensor([1, 0, 3]), torch.tensor([0, 1, 0]))
        yield f"{name}far", partial(losses, kind, with_y, far, *index, far.flip(1))
        ties = torch.tensor(list(product((0.0, -0.0, 1.0, 2.0), repeat=4)))[::3].contiguous()
        index = (torch.arange(len(ties)) % 4, (torch.arange(len(ties)) % 4 + 1) % 4)
        yield f"{name}ties", partial(losses, kind, with_y, ties, *index, ties)
        z, target, y, clean = rows(6, 10)
        bad_target, bad_y = target.clone(), y.clone()
        bad_target[1], bad_target[4], bad_y[2] = -1, 10, 2**40
        marked = torch.tensor([False, True, with_y, False, True, False])
        yield f"{name}bad index", partial(losses, kind, with_y, z, bad_target, bad_y, clean, marked)
        empty = torch.empty(0, dtype=torch.int64)
        yield f"{name}empty", partial(losses, kind, with_y, z[:0], empty, empty, clean[:0])
        spoiled = z.clone()
        spoiled[1, 4] = spoiled[2] = spoiled[3, target[3]] = spoiled[0, 5] = NAN
        spoiled[0, 2] = spoiled[4, 7] = -torch.tensor(NAN)  # the sign of a NaN means nothing
        yield f"{name}nan", partial(losses, kind, with_y, spoiled, target, y, clean)
        yield f"{name}nan prediction", partial(nan_rows, kind, spoiled, target, y if with_y else None, clean)
        special = torch.tensor(list(product((-INF, INF, NAN, 0.0, 2.0), repeat=4)))[:: 1 if kind == "ce" else 3]
        index = (torch.arange(len(special)) % 4, (torch.arange(len(special)) % 4 + 1) % 4)
        shuffled = special[torch.randperm(len(special), generator=generator(3))]
        yield f"{name}special", partial(losses, kind, with_y, special.contiguous(), *index, shuffled)
    for dtype in (torch.float32, torch.bfloat16):
        yield f"confident {dtype}", partial(confident, dtype)


def nan_rows(kind: str, z: Tensor, target: Tensor, y: Tensor | None, clean: Tensor) -> None:
    _, _, pred, reached = call(kernels.logit_loss, z, target, kind, y, clean if kind == "kl" else None)
    same_bits(pred, z.argmax(1))  # a NaN counts as largest
    same_bits(reached, z.argmax(1) == target)


def confident(dtype: torch.dtype) -> None:
    """Where p_t - 1 would round to 0 the gradient stays, and the exponential is precise over its whole range."""
    gap = torch.linspace(0, 87, 301).to(dtype)
    z = torch.stack([torch.zeros_like(gap), -gap], dim=1)
    loss, dlogits, _, _ = call(kernels.logit_loss, z, torch.zeros(len(gap), dtype=torch.int64), "ce", None, None)
    close(dlogits[:, 1], torch.sigmoid(-gap.double()), rtol=2.0**-8 if dtype == torch.bfloat16 else 3e-7, atol=0)
    close(dlogits[:, 0], -torch.sigmoid(-gap.double()), rtol=2.0**-8 if dtype == torch.bfloat16 else 3e-7, atol=0)
    close(loss, torch.log1p(torch.exp(-gap.double())), rtol=1e-6, atol=0)


def draw(
    n: int, classes: int, by_label: bool, ids: bool = False, seed: int = 5, stream: int = 0, small: bool = False
) -> None:
    weight = torch.rand((classes, classes) if by_label else (classes,), generator=generator(classes)) ** 4
    if classes > 4:
        weight[..., ::3] = 0.0
    # A table of small numbers lets draws fall on the borders between classes.
    table = (weight > 0).long().cumsum(-1) if small else target_table(weight)
    label = torch.randint(classes, (n,), generator=generator(1))
    sample_ids = torch.tensor([IDS[i % len(IDS)] + i for i in range(n)], dtype=torch.int64) if ids else None
    expected = reference.sample_targets(label, table, sample_ids, seed, stream)
    same_bits(call(kernels.sample_targets, label, table, sample_ids, seed, stream), expected)
    if n > 3:
        label[2], label[3] = -1, classes
        expected[2:4] = -1
        same_bits(call(kernels.sample_targets, label, table, sample_ids, seed, stream), expected)


def sample_targets() -> Iterator[Case]:
    for n, classes, by_label in product((0, 1, 257), (2, 3, 10, 1000), (False, True)):
        yield f"{n} {classes} {by_label}", partial(draw, n, classes, by_label)
        yield f"{n} {classes} {by_label} small", partial(draw, n, classes, by_label, small=True)
    for seed, stream in product(SEEDS, (0, 2**32 - 1)):
        yield f"seed {seed} stream {stream}", partial(draw, 5, 10, True, True, seed, stream)


def count(n: int, classes: int, with_loss: bool, with_target: bool, invalid: bool = False) -> None:
    g = generator(n + classes)
    pred, label, target = (torch.randint(classes, (n,), generator=g) for _ in range(3))
    loss = torch.randn(n, generator=g) * 20
    edges = torch.tensor(
        [NAN, INF, -INF, 2.0**31, -(2.0**31), 2147483520.0, -2147483520.0, 3e38, 2.0**-33, 3 * 2.0**-33]
    )
    loss[: len(edges)] = edges[:n]
    keep = torch.ones(n, dtype=torch.bool)
    if invalid:
        pred[0], label[1], label[2] = classes, -1, 2**40
        keep[:3] = False
        if with_target:
            target[3], keep[3] = -7, False
    expected = torch.arange((HEADER + classes) * classes).view(HEADER + classes, classes)
    ours = Guarded(expected)
    reference.class_stats_(
        expected, pred[keep], label[keep], loss[keep] if with_loss else None, target[keep] if with_target else None
    )
    call(kernels.class_stats_, ours.tensor, pred, label, loss if with_loss else None, target if with_target else None)
    ours.check()
    same_bits(ours.tensor, expected)


def class_stats() -> Iterator[Case]:
    for n, classes in product((0, 1, 9, 257), (1, 2, 3, 10, 101)):
        for with_loss, with_target in product((False, True), repeat=2):
            options = (n, classes, with_loss, with_target)
            yield f"{options}", partial(count, *options)
    yield "many classes", partial(count, 1000, 1000, True, True)
    for with_loss, with_target in product((False, True), repeat=2):
        options = (40, 10, with_loss, with_target, True)
        yield f"invalid {with_loss} {with_target}", partial(count, *options)


def main(ops: list[str]) -> None:
    InterpreterBuilder.cast_impl = cast_impl
    # Fresh tensors hold NaN: what a kernel forgets to write cannot pass for a result.
    torch.use_deterministic_algorithms(True)
    np.seterr(all="ignore")  # infinities and lanes that are computed and not used
    cases = {f.__name__: f for f in (pgd_init, pgd_step, logit_loss, sample_targets, class_stats)}
    for op in ops:
        for case, check in cases[op]():
            failure = None
            try:
                check()
            except Exception:
                failure = traceback.format_exc(limit=-4)
            print(json.dumps({"op": op, "case": case, "failure": failure}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
