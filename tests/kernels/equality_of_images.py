"""pgd_init and pgd_step of the Triton kernels against the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import torch
from layouts import LAYOUTS, channels_last
from pairwise import pairs
from torch import Tensor
from triton_calls import (
    BF16,
    IDS,
    INF,
    LOW_PRECISION,
    NAN,
    SEEDS,
    Case,
    Guarded,
    call,
    close,
    generator,
    images,
    same_bits,
    with_64_bit_indices,
)

from fairtat import reference
from fairtat.backends import triton as kernels

SHAPES = [(1, 1), (3, 5), (2, 3, 4), (2, 3, 33, 31), (2, 2, 3, 1, 4, 2), (3, 1, 1030), (0, 3, 4, 4), (2, 0, 4)]
SPECIAL = [NAN, INF, -INF, 0.0, -0.0, 1e-45, -1e-45, 6e-8, -6e-8, 3e38, -3e38, 1.0]


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
        return table[torch.randint(len(table), (60, 1), generator=g)] * torch.rand(60, columns, generator=g)

    x_adv, grad, x = Guarded(draw(5)), draw(5) - 1e-3, draw(5)
    eps, step = (draw(1)[:, 0].nan_to_num(0.1, 0.1) for _ in range(2))
    scale = x.double().abs().amax(1) + torch.minimum(eps.double(), x_adv.tensor.double().abs().amax(1) + step.double())
    expected, counts = x_adv.tensor.clone(), [torch.zeros(60, dtype=torch.int64) for _ in range(2)]
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


def with_momentum(
    shape: tuple[int, ...], norm: str, grad_dtype: torch.dtype, momentum: float, layout: Callable[[Tensor], Tensor]
) -> None:
    """Three steps; the first sample's gradient is all zero in the second, and special elsewhere."""
    n = shape[0]
    x = layout(images(shape, 0))
    start = layout((x + 0.05 * torch.randn(shape, generator=generator(2))).clamp(0, 1))
    expected, ours = start.clone(), Guarded(start)
    velocity, our_velocity = torch.zeros_like(x), Guarded(torch.zeros_like(x))
    counts = [torch.arange(n) for _ in range(2)]
    mean, std = (torch.linspace(0.4, 0.5, shape[1]), torch.linspace(0.2, 0.3, shape[1])) if shape[1] else (None, None)
    inputs = [Guarded(torch.full_like(x, NAN, dtype=BF16)) for _ in range(2)]
    step_n = torch.linspace(0.03, -0.03, n)
    for step in range(3):
        grad = torch.randn(shape, generator=generator(step)) * 10.0 ** (step - 1)
        if step == 1 and n:
            grad[0] = 0.0
            grad[-1].view(-1)[: len(SPECIAL)] = torch.tensor(SPECIAL)[: grad[-1].numel()]
        grad = layout(grad.to(grad_dtype))
        rest = (grad, x, None, 0.1, step_n, 0.0, True, norm, 0.0, 1.0)
        reference.pgd_step_(expected, *rest, inputs[0].tensor, mean, std, counts[0], velocity, momentum)
        call(
            kernels.pgd_step_, ours.tensor, *rest, inputs[1].tensor, mean, std, counts[1], our_velocity.tensor, momentum
        )
        same_bits(our_velocity.tensor, velocity)
        (same_bits if norm == "linf" else close)(ours.tensor, expected)
        if norm == "linf":
            same_bits(inputs[1].tensor, inputs[0].tensor)
        same_bits(counts[1], counts[0])
    for guarded in (ours, our_velocity, inputs[1]):
        guarded.check()


def pgd_step() -> Iterator[Case]:
    for norm, shape in product(("linf", "l2"), ((1, 1), (3, 5), (2, 3, 33, 31), (3, 1, 1030), (0, 3, 4, 4), (2, 0, 4))):
        yield (
            f"{norm} {shape} momentum",
            partial(with_momentum, shape, norm, torch.float32, 0.9, torch.Tensor.contiguous),
        )
    for norm, grad_dtype, layout in pairs(("linf", "l2"), LOW_PRECISION, LAYOUTS):
        options = (norm, grad_dtype, 1.0, layout)
        yield f"{options} momentum", partial(with_momentum, (2, 3, 7, 5), *options)
    for norm in ("linf", "l2"):
        for shape in SHAPES:
            yield f"{norm} {shape}", partial(step, shape, norm=norm)
            if shape[1] > 0:
                everything = {"input_dtype": BF16, "normalise": True, "by_sample": True, "targeted": False}
                yield f"{norm} {shape} all", partial(step, shape, norm=norm, **everything)
        for layout, grad_dtype, input_dtype in pairs(LAYOUTS, LOW_PRECISION, LOW_PRECISION):
            options = {
                "layout": layout, "norm": norm, "grad_dtype": grad_dtype, "input_dtype": input_dtype,
                "normalise": True, "by_sample": grad_dtype == BF16,
            }  # fmt: skip
            yield f"{norm} {layout.__name__} {grad_dtype} {input_dtype}", partial(step, **options)
        for grad_dtype, targeted, by_sample in pairs(LOW_PRECISION, (True, False), (True, False)):
            options = {"norm": norm, "grad_dtype": grad_dtype, "special": True, "targeted": targeted}
            yield f"{norm} special {grad_dtype} {targeted} {by_sample}", partial(step, **options, by_sample=by_sample)
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
    for n, d in ((3, 7), (2, 2049)):
        yield f"one long sample {n} {d}", partial(step_uncounted, n, d)
    wide = partial(step, (2, 3, 33, 31), normalise=True, input_dtype=BF16)
    yield "64-bit indices", partial(with_64_bit_indices, wide)


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


def start_of_bytes(
    init: str,
    norm: str,
    layout: Callable[[Tensor], Tensor],
    dtype: torch.dtype,
    normalise: bool,
    shape: tuple[int, ...],
) -> None:
    """The bits of the start of x / 255, and of the model's input from that start."""
    x = layout((images(shape, 0) * 255).byte())
    floats = x.float() / 255
    mean, std = torch.linspace(0.4, 0.5, shape[1]), torch.linspace(0.2, 0.3, shape[1])
    rest = (None, 0.03, None, 7, 1, init, norm, 0.0, 1.0)
    expected = torch.empty_like(floats)
    call(kernels.pgd_init, expected, floats, *rest)
    ours, pixels = Guarded(torch.full_like(floats, NAN)), Guarded(torch.full_like(floats, NAN))
    model_input = Guarded(torch.full_like(floats, NAN, dtype=dtype))
    statistics = (mean, std) if normalise else (None, None)
    call(kernels.pgd_init, ours.tensor, x, *rest, pixels.tensor, model_input.tensor, *statistics)
    for guarded in (ours, pixels, model_input):
        guarded.check()
    same_bits(pixels.tensor, floats)
    same_bits(ours.tensor, expected)
    if normalise:
        per_channel = (1, -1, *[1] * (x.ndim - 2))
        expected = (expected - mean.view(per_channel)) / std.view(per_channel)
    same_bits(model_input.tensor, expected.to(dtype))


def pgd_init() -> Iterator[Case]:
    forms = (("uniform", "linf"), ("normal", "linf"), ("zero", "linf"), ("uniform", "l2"))
    shapes = ((3, 3, 7, 5), (2, 1, 4, 4), (2, 5), (2, 2, 3, 4, 3, 2))
    for (init, norm), shape, dtype in product(forms, shapes, LOW_PRECISION):
        layout = channels_last if len(shape) == 4 and dtype == BF16 else backwards
        case = partial(start_of_bytes, init, norm, layout, dtype, dtype != torch.float16, shape)
        yield f"{init} {norm} {shape} of bytes {dtype}", case
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
    wide = partial(start, "uniform", "linf", (2, 3, 33, 31), channels_last)
    yield "64-bit indices", partial(with_64_bit_indices, wide)
    yield "special", partial(start, "uniform", "linf", special=True)
    yield "no direction", no_direction


def no_direction() -> None:
    # This sample's first word is the largest, so ln(u1) = 0: in one dimension the direction has no length.
    for d in (1, 2):
        x = torch.full((1, d), 0.5)
        out = torch.empty_like(x)
        call(kernels.pgd_init, out, x, None, 0.1, torch.tensor([1205178]), 0, 0, "uniform", "l2", 0.0, 1.0)
        same_bits(out, x)
