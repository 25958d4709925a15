"""pgd_step_: how fast is one projected step in place, beside PyTorch's op chain, torch.compile and a plain copy?

The floor is a PyTorch copy that reads and writes as many bytes as the step must: 16 per element in float32. GB/s counts
those bytes for every contestant, so one that moves more shows less. On a GPU each contestant is a CUDA graph of many
steps, cold ones over inputs that rotate through memory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from harness.case import Benchmark, Case, Contestant, Entrant, Settings, Verify
from harness.equality import close_to
from harness.op import BASELINE, floor, op_contestants
from torch import Tensor

from fairtat import ops

EPS, STEP = 8 / 255, 2 / 255
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Inputs:
    """Tensors of one case, the same for every contestant; each takes its own copy of the start.

    ``mixed`` is what training with bfloat16 asks for: that gradient, channels_last, and the normalized model input.
    """

    def __init__(self, settings: Settings, seed: int, shape: tuple[int, ...], mixed: bool = False) -> None:
        device = settings.place
        if settings.rehearsal:
            shape = (2, *shape[1:2], 8, 8)
        generator = torch.Generator(device).manual_seed(seed)
        layout = torch.channels_last if mixed else torch.contiguous_format

        def uniform(low: float, high: float) -> Tensor:
            values = torch.rand(shape, generator=generator, device=device) * (high - low) + low
            return values.contiguous(memory_format=layout)

        self.mixed = mixed
        self.x = uniform(0.0, 1.0)
        self.start = (self.x + uniform(-EPS, EPS)).clamp_(0.0, 1.0)
        self.grad = uniform(-1.0, 1.0).to(torch.bfloat16 if mixed else torch.float32)
        self.mean, self.std = torch.tensor(MEAN, device=device), torch.tensor(STD, device=device)

    @property
    def bytes_moved(self) -> int:
        # x_adv is read and written, x and the gradient are read, the model input is written.
        return self.x.numel() * (4 + 4 + 4 + self.grad.dtype.itemsize + (4 if self.mixed else 0))


Step = Callable[[Tensor], tuple[Tensor, Tensor | None]]  # x_adv -> where it moved, and the model's input


def entrant(make: Callable[[Inputs], Step], i: Inputs) -> Entrant:
    state, step = i.start.clone(), make(i)

    def outcome() -> dict[str, Tensor]:
        x_adv, model_input = step(i.start.clone())
        return {"x_adv": x_adv} if model_input is None else {"x_adv": x_adv, "model_input": model_input}

    return Entrant(lambda: step(state), outcome)


@cache  # one compiled function for all inputs of a rotation
def chain_step(mixed: bool, in_place: bool, compiled: bool) -> Callable[..., Any]:
    """The textbook step as six PyTorch ops; it returns a new tensor, or copies it into x_adv as its last op."""

    def step(x_adv: Tensor, grad: Tensor, x: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor | None]:
        new = torch.add(x_adv, grad.sign(), alpha=-STEP).clamp(x - EPS, x + EPS).clamp(0.0, 1.0)
        if in_place:
            new = x_adv.copy_(new)
        return new, (new - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1) if mixed else None

    return torch.compile(step, dynamic=False) if compiled else step


def chain(i: Inputs, *, in_place: bool = False, compiled: bool = False) -> Step:
    step = chain_step(i.mixed, in_place, compiled)
    return lambda x_adv: step(x_adv, i.grad, i.x, i.mean, i.std)


def bounds_step(i: Inputs) -> Step:
    """Three ops on bounds that were computed before the loop: less work in a step, for two more tensors."""
    lower, upper = ((i.x + sign * EPS).clamp_(0.0, 1.0) for sign in (-1, 1))
    return lambda x_adv: (x_adv.add_(i.grad.sign(), alpha=-STEP).clamp_(lower, upper), None)


def op(i: Inputs, backend: str) -> Entrant:
    """The public op, as a training loop calls it."""
    extras: dict[str, Any] = {"model_input": torch.empty_like(i.x), "mean": i.mean, "std": i.std} if i.mixed else {}

    def step(x_adv: Tensor) -> tuple[Tensor, Tensor | None]:
        ops.pgd_step_(x_adv, i.grad, i.x, EPS, STEP, backend=backend, **extras)
        return x_adv, extras.get("model_input")

    return entrant(lambda _: step, i)


def as_the_reference(i: Inputs) -> Verify:
    outcome = op(i, "reference").outcome
    assert outcome is not None
    return close_to(outcome(), {"model_input": 2e-6})


def case(name: str, shape: tuple[int, ...], mixed: bool = False, **about: Any) -> Case[Inputs]:
    return Case(name, partial(Inputs, shape=shape, mixed=mixed), **about)


BATCH = (128, 3, 32, 32)
ON_GPU = partial(case, device="cuda")
IN_PLACE = partial(chain, in_place=True, compiled=True)

BENCHMARK = Benchmark(
    name="pgd_step",
    question="How fast is one projected step on x_adv, in place?",
    contestants=(
        *op_contestants(op),
        Contestant("eager, allocating", "eager", partial(entrant, chain), on=("cpu",)),
        Contestant(
            "eager, bounds precomputed", "eager", partial(entrant, bounds_step), on=("cpu",),
            when=lambda settings, i: not i.mixed,
        ),
        Contestant(
            "torch.compile, allocating", "compile", partial(entrant, partial(chain, compiled=True)), graph=True
        ),
        Contestant("torch.compile, in place", "compile", partial(entrant, IN_PLACE), graph=True),
        floor(lambda i: torch.ones(i.bytes_moved // 8, device=i.x.device)),
    ),
    baseline=BASELINE,
    verify=as_the_reference,
    rule="x_adv equal to the reference to the last bit, a model input within 2e-6",
    bytes_moved=lambda i: i.bytes_moved,
    settings={"eps": "8/255", "step_size": "2/255"},
    cases=(
        case("(1, 3, 8, 8)", (1, 3, 8, 8), quick=True),
        case("(128, 3, 32, 32)", BATCH, headline=True),
        case("(512, 3, 32, 32)", (512, 3, 32, 32), headline=True),
        case("(64, 3, 224, 224)", (64, 3, 224, 224), headline=True),
        case("(128, 3, 32, 32), bfloat16 gradient, model input, channels_last", BATCH, mixed=True),
        ON_GPU("(448, 3, 224, 224), 257 MiB tensors", (448, 3, 224, 224), headline=True, quick=True),
        ON_GPU("(128, 3, 32, 32), cold L2", BATCH, cold=True, headline=True, quick=True),
        ON_GPU("(128, 3, 32, 32), warm L2", BATCH),
        ON_GPU(
            "(128, 3, 32, 32), bfloat16 gradient, model input, channels_last, cold L2", BATCH, mixed=True, cold=True,
            quick=True,
        ),
    ),
)  # fmt: skip


def test_pgd_step(case: Case[Inputs], compare: Callable[[Case[Inputs]], None]) -> None:
    compare(case)
