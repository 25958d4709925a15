"""pgd_step_: one projected step in place, beside PyTorch's op chain, torch.compile and a plain copy.

The floor is a PyTorch copy that reads and writes as many bytes as the step must: 16 an element in float32. GB/s
counts those bytes for everybody, so a contestant that moves more shows less. On a GPU each contestant is a CUDA
graph of many steps, cold ones over inputs that rotate through memory.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from harness import (
    Benchmark,
    Case,
    CaseSpec,
    Contestant,
    Entrant,
    Role,
    Settings,
    Target,
    Verify,
    close_to,
    equal_to,
    gpu,
)
from torch import Tensor

from fairtat import backends, ops

EPS, STEP = 8 / 255, 2 / 255
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

FAIRTAT, KERNEL, COPY = "fairtat", "fairtat kernel", "copy of as many bytes"
EAGER, EAGER_OUT, EAGER_BOUNDS = "eager, allocating", "eager, out=", "eager, bounds precomputed"
COMPILED, COMPILED_IN_PLACE = "torch.compile, allocating", "torch.compile, in place"


@dataclass(frozen=True)
class Setup:
    """What varies between the cases."""

    shape: tuple[int, ...]
    grad_dtype: torch.dtype = torch.float32
    channels_last: bool = False
    eps_per_sample: bool = False
    model_input: bool = False
    norm: str = "linf"

    @property
    def bytes_per_element(self) -> int:
        # x_adv is read and written, x and the gradient are read, the model input is written.
        return 4 + 4 + 4 + self.grad_dtype.itemsize + (4 if self.model_input else 0)


class Inputs:
    """Tensors of one case, the same for every contestant; each takes its own copy of the start."""

    def __init__(self, setup: Setup, device: str = "cpu", seed: int = 0) -> None:
        generator = torch.Generator(device).manual_seed(seed)
        layout = torch.channels_last if setup.channels_last else torch.contiguous_format

        def uniform(low: float, high: float) -> Tensor:
            values = torch.rand(setup.shape, generator=generator, device=device) * (high - low) + low
            return values.contiguous(memory_format=layout)

        n = setup.shape[0]
        self.x = uniform(0.0, 1.0)
        self.start = (self.x + uniform(-EPS, EPS)).clamp_(0.0, 1.0)
        self.grad = uniform(-1.0, 1.0).to(setup.grad_dtype)
        self.eps_n = torch.rand(n, generator=generator, device=device) * EPS if setup.eps_per_sample else None
        self.mean, self.std = torch.tensor(MEAN, device=device), torch.tensor(STD, device=device)

    @property
    def eps(self) -> float | Tensor:
        """As the op takes it."""
        return EPS if self.eps_n is None else self.eps_n

    @property
    def eps_broadcast(self) -> float | Tensor:
        """As a chain of PyTorch ops takes it."""
        return EPS if self.eps_n is None else self.eps_n.view(-1, *[1] * (self.x.ndim - 1))


Chain = Callable[[Tensor, Tensor, Tensor], Tensor]


def linf_chain(inputs: Inputs) -> Chain:
    """The textbook step as six PyTorch ops, the shortest form that needs nothing from an earlier step."""
    eps = inputs.eps_broadcast

    def step(x_adv: Tensor, grad: Tensor, x: Tensor) -> Tensor:
        moved = torch.add(x_adv, grad.sign(), alpha=-STEP)
        return moved.clamp(x - eps, x + eps).clamp(0.0, 1.0)

    return step


def l2_chain(inputs: Inputs) -> Chain:
    eps = inputs.eps_broadcast

    def norm(t: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(t, dim=tuple(range(1, t.ndim)), keepdim=True)
        return length

    def step(x_adv: Tensor, grad: Tensor, x: Tensor) -> Tensor:
        offset = x_adv - STEP * grad / (norm(grad) + 1e-12) - x
        length = norm(offset)
        return (x + offset * (eps / length).clamp(max=1.0)).clamp(0.0, 1.0)

    return step


Step = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]


def step_of(chain: Chain, *, model_input: bool, in_place: bool, compiled: bool) -> Step:
    """A chain of PyTorch ops that returns a new tensor, or copies it into x_adv as its last op."""
    per_channel = (1, -1, 1, 1)

    def step(x_adv: Tensor, grad: Tensor, x: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor | None]:
        moved = chain(x_adv, grad, x)
        if in_place:
            moved = x_adv.copy_(moved)
        return moved, (moved - mean.view(per_channel)) / std.view(per_channel) if model_input else None

    return torch.compile(step, dynamic=False) if compiled else step


def chain_entrant(inputs: Inputs, step: Step) -> Entrant:
    state = inputs.start.clone()

    def run() -> None:
        step(state, inputs.grad, inputs.x, inputs.mean, inputs.std)

    def outcome() -> dict[str, Tensor]:
        return results(*step(inputs.start.clone(), inputs.grad, inputs.x, inputs.mean, inputs.std))

    return Entrant(run, outcome)


def results(x_adv: Tensor, model_input: Tensor | None) -> dict[str, Tensor]:
    return {"x_adv": x_adv} if model_input is None else {"x_adv": x_adv, "model_input": model_input}


def out_entrant(inputs: Inputs) -> Entrant:
    """The six ops with preallocated results: what a careful user writes."""
    eps = inputs.eps_broadcast
    sign, lower, upper = (torch.empty_like(inputs.x) for _ in range(3))

    def step(x_adv: Tensor) -> Tensor:
        # torch.sign(out=) keeps its input's dtype, and a bfloat16 sign is exact.
        direction = torch.sign(inputs.grad, out=sign if inputs.grad.dtype == sign.dtype else None)
        torch.add(x_adv, direction, alpha=-STEP, out=x_adv)
        torch.sub(inputs.x, eps, out=lower)
        torch.add(inputs.x, eps, out=upper)
        torch.clamp(x_adv, lower, upper, out=x_adv)
        return torch.clamp(x_adv, 0.0, 1.0, out=x_adv)

    return in_place_entrant(inputs, step)


def bounds_entrant(inputs: Inputs) -> Entrant:
    """Three ops on bounds that were computed before the loop: less work in a step, for two more tensors."""
    eps = inputs.eps_broadcast
    lower, upper = (inputs.x - eps).clamp_(0.0, 1.0), (inputs.x + eps).clamp_(0.0, 1.0)

    def step(x_adv: Tensor) -> Tensor:
        return x_adv.add_(inputs.grad.sign(), alpha=-STEP).clamp_(lower, upper)

    return in_place_entrant(inputs, step)


def in_place_entrant(inputs: Inputs, step: Callable[[Tensor], Tensor]) -> Entrant:
    state = inputs.start.clone()
    return Entrant(lambda: step(state), lambda: results(step(inputs.start.clone()), None))


def op_entrant(inputs: Inputs, setup: Setup, backend: str = "auto") -> Entrant:
    """The public op, as a training loop calls it."""
    model_input = torch.empty_like(inputs.x) if setup.model_input else None
    mean, std = (inputs.mean, inputs.std) if setup.model_input else (None, None)

    def step(x_adv: Tensor) -> Tensor:
        return ops.pgd_step_(
            x_adv, inputs.grad, inputs.x, inputs.eps, STEP, norm=setup.norm,
            model_input=model_input, mean=mean, std=std, backend=backend,
        )  # fmt: skip

    state = inputs.start.clone()
    return Entrant(lambda: step(state), lambda: results(step(inputs.start.clone()), model_input))


def kernel_entrant(inputs: Inputs, setup: Setup) -> Entrant:
    """The kernel below the dispatcher, as the attack's own loop calls it."""
    kernel = backends.kernel("pgd_step", backends.choose("pgd_step", inputs.x.device, inputs.x.dtype))
    model_input = torch.empty_like(inputs.x) if setup.model_input else None
    mean, std = (inputs.mean, inputs.std) if setup.model_input else (None, None)

    def step(x_adv: Tensor) -> Tensor:
        kernel(
            x_adv, inputs.grad, inputs.x, inputs.eps_n, EPS, None, STEP, True, setup.norm, 0.0, 1.0,
            model_input, mean, std, None,
        )  # fmt: skip
        return x_adv

    state = inputs.start.clone()
    return Entrant(lambda: step(state), lambda: results(step(inputs.start.clone()), model_input))


def copy_entrant(inputs: Inputs, setup: Setup) -> Entrant:
    """PyTorch's copy between two buffers that stay, reading and writing as many bytes as the step must."""
    source = torch.ones(inputs.x.numel() * setup.bytes_per_element // 8, device=inputs.x.device)
    destination = torch.zeros_like(source)
    return Entrant(lambda: destination.copy_(source))


def build(setup: Setup, targets: tuple[Target, ...] = ()) -> Callable[[Settings], Case]:
    def case(settings: Settings) -> Case:
        inputs = Inputs(setup)
        chain = linf_chain(inputs) if setup.norm == "linf" else l2_chain(inputs)

        def chained(name: str, role: Role, *, in_place: bool = False, compiled: bool = False) -> Contestant:
            return Contestant(
                name, role,
                lambda: chain_entrant(
                    inputs, step_of(chain, model_input=setup.model_input, in_place=in_place, compiled=compiled)
                ),
            )  # fmt: skip

        contestants = [
            Contestant(FAIRTAT, "fairtat", lambda: op_entrant(inputs, setup)),
            Contestant(KERNEL, "fairtat", lambda: kernel_entrant(inputs, setup)),
            chained(EAGER, "eager"),
        ]
        if setup.norm == "linf" and not setup.model_input:
            contestants += [
                Contestant(EAGER_OUT, "eager", lambda: out_entrant(inputs)),
                Contestant(EAGER_BOUNDS, "eager", lambda: bounds_entrant(inputs)),
            ]
        contestants += [
            chained(COMPILED, "compile", compiled=True),
            chained(COMPILED_IN_PLACE, "compile", in_place=True, compiled=True),
            Contestant(COPY, "floor", lambda: copy_entrant(inputs, setup)),
        ]
        return Case(
            contestants=tuple(contestants),
            baseline=FAIRTAT,
            verify=verifier(inputs, setup),
            rule=rule(setup),
            bytes_moved=inputs.x.numel() * setup.bytes_per_element,
            targets=targets,
        )

    return case


def on_gpu(setup: Setup, *, cold: bool, targets: tuple[Target, ...] = ()) -> Callable[[Settings], Case]:
    """The kernels of every backend in a CUDA graph; ``cold``: no input is in the L2 cache when its turn comes."""

    def case(settings: Settings) -> Case:
        device = settings.device
        size = dataclasses.replace(setup, shape=(2, *setup.shape[1:2], 8, 8)) if settings.rehearsal else setup
        bytes_moved = math.prod(size.shape) * size.bytes_per_element
        sets = gpu.rotation(lambda seed: Inputs(size, device, seed), bytes_moved, settings=settings, cold=cold)
        chain = linf_chain(sets[0]) if size.norm == "linf" else l2_chain(sets[0])

        def turns(make: Callable[[Inputs], Entrant]) -> list[Entrant]:
            return [make(inputs) for inputs in sets]

        def compiled(in_place: bool) -> Entrant:
            step = step_of(chain, model_input=size.model_input, in_place=in_place, compiled=True)
            return gpu.in_graph(turns(lambda inputs: chain_entrant(inputs, step)), device, calls)

        calls = gpu.calls_for(bytes_moved)
        return Case(
            contestants=(
                *gpu.kernel_contestants(
                    settings, lambda backend: turns(lambda inputs: op_entrant(inputs, size, backend)), calls
                ),
                Contestant(COMPILED, "compile", lambda: compiled(in_place=False)),
                Contestant(COMPILED_IN_PLACE, "compile", lambda: compiled(in_place=True)),
                Contestant(COPY, "floor", lambda: gpu.in_graph(turns(lambda i: copy_entrant(i, size)), device, calls)),
            ),
            baseline=gpu.REFERENCE,
            verify=verifier(sets[0], size),
            rule=rule(size),
            bytes_moved=bytes_moved,
            targets=targets,
        )

    return case


def verifier(inputs: Inputs, setup: Setup) -> Verify:
    model_input = torch.empty_like(inputs.x) if setup.model_input else None
    mean, std = (inputs.mean, inputs.std) if setup.model_input else (None, None)
    expected = ops.pgd_step_(
        inputs.start.clone(), inputs.grad, inputs.x, inputs.eps, STEP, norm=setup.norm,
        model_input=model_input, mean=mean, std=std, backend="reference",
    )  # fmt: skip
    if setup.norm == "linf" and not setup.model_input:
        return equal_to({"x_adv": expected})
    return close_to(results(expected, model_input), {"x_adv": 1e-6 if setup.norm == "l2" else 0.0, "model_input": 2e-6})


def rule(setup: Setup) -> str:
    if setup.norm == "l2":
        return "x_adv within 1e-6 of the reference"
    return "x_adv equal to the reference to the last bit" + (", model_input within 2e-6" if setup.model_input else "")


VS_EAGER = Target(FAIRTAT, (EAGER,), "faster", 6.0)
VS_COMPILE = Target(FAIRTAT, (COMPILED, COMPILED_IN_PLACE), "faster", 1.2)
VS_COPY = Target(FAIRTAT, (COPY,), "within", 1.0)
BATCH = (128, 3, 32, 32)
LARGE = (64, 3, 224, 224)

GPU_LARGE = (448, 3, 224, 224)  # 257 MiB a tensor in float32
OF_COPY = 0.85  # the share of the copy's bandwidth that a kernel is to reach
GPU_LARGE_GOALS = tuple(
    goal
    for name in (gpu.CUDA, gpu.TRITON)
    for goal in (
        Target(name, (COPY,), "within", round(1 / OF_COPY, 3)),
        Target(name, (COMPILED, COMPILED_IN_PLACE), "faster", 1.0),
    )
)
GPU_BATCH_GOALS = tuple(Target(name, (), "seconds", 3e-6) for name in (gpu.CUDA, gpu.TRITON))

BENCHMARK = Benchmark(
    name="pgd_step",
    question="How fast is one projected step on x_adv, in place?",
    settings={"eps": "8/255", "step_size": "2/255"},
    cases=(
        CaseSpec("(1, 3, 8, 8)", build(Setup((1, 3, 8, 8))), quick=True),
        CaseSpec("(128, 3, 32, 32)", build(Setup(BATCH), (VS_EAGER, VS_COMPILE)), headline=True),
        CaseSpec("(512, 3, 32, 32)", build(Setup((512, 3, 32, 32)), (VS_EAGER, VS_COMPILE)), headline=True),
        CaseSpec("(64, 3, 224, 224)", build(Setup(LARGE), (VS_COMPILE, VS_COPY)), headline=True),
        CaseSpec("(128, 3, 32, 32), bfloat16 gradient", build(Setup(BATCH, grad_dtype=torch.bfloat16))),
        CaseSpec("(128, 3, 32, 32), channels_last", build(Setup(BATCH, channels_last=True))),
        CaseSpec("(128, 3, 32, 32), eps per sample", build(Setup(BATCH, eps_per_sample=True))),
        CaseSpec("(128, 3, 32, 32), model input", build(Setup(BATCH, model_input=True))),
        CaseSpec("(128, 3, 32, 32), L2", build(Setup(BATCH, norm="l2"))),
        CaseSpec(
            "(448, 3, 224, 224), 257 MiB tensors",
            on_gpu(Setup(GPU_LARGE), cold=False, targets=GPU_LARGE_GOALS),
            headline=True,
            quick=True,
            device="cuda",
        ),
        CaseSpec(
            "(128, 3, 32, 32), cold L2",
            on_gpu(Setup(BATCH), cold=True, targets=GPU_BATCH_GOALS),
            headline=True,
            quick=True,
            device="cuda",
        ),
        CaseSpec("(128, 3, 32, 32), warm L2", on_gpu(Setup(BATCH), cold=False, targets=GPU_BATCH_GOALS), device="cuda"),
        CaseSpec(
            "(128, 3, 32, 32), bfloat16 gradient, model input, channels_last, cold L2",
            on_gpu(Setup(BATCH, grad_dtype=torch.bfloat16, channels_last=True, model_input=True), cold=True),
            quick=True,
            device="cuda",
        ),
        CaseSpec("(128, 3, 32, 32), L2 norm, cold L2", on_gpu(Setup(BATCH, norm="l2"), cold=True), device="cuda"),
    ),
)


def test_pgd_step(spec: CaseSpec, compare: Callable[[CaseSpec], None]) -> None:
    compare(spec)
