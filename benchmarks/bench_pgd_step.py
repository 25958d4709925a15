"""pgd_step_: how fast is one projected step in place, beside PyTorch's op chain, torch.compile and a plain copy?

The floor is a PyTorch copy that reads and writes as many bytes as the step must: 16 per element in float32. GB/s counts
those bytes for everybody, so a contestant that moves more shows less. On a GPU each contestant is a CUDA graph of many
steps, cold ones over inputs that rotate through memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from harness import Benchmark, Case, CaseSpec, Entrant, Settings, Target, Verify, close_to, equal_to, gpu
from harness.op_case import COPY, FAIRTAT, Rival, op_case
from torch import Tensor

from fairtat import backends, ops

EPS, STEP = 8 / 255, 2 / 255
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
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
        # As the op takes it, and as a chain of PyTorch ops does.
        self.eps: float | Tensor = EPS if self.eps_n is None else self.eps_n
        self.eps_wide: float | Tensor = EPS if self.eps_n is None else self.eps_n.view(-1, *[1] * (self.x.ndim - 1))
        self.mean, self.std = torch.tensor(MEAN, device=device), torch.tensor(STD, device=device)


def linf_chain(x_adv: Tensor, grad: Tensor, x: Tensor, eps: float | Tensor) -> Tensor:
    """The textbook step as six PyTorch ops, the shortest form that needs nothing from an earlier step."""
    return torch.add(x_adv, grad.sign(), alpha=-STEP).clamp(x - eps, x + eps).clamp(0.0, 1.0)


def l2_chain(x_adv: Tensor, grad: Tensor, x: Tensor, eps: float | Tensor) -> Tensor:
    norm = partial(torch.linalg.vector_norm, dim=tuple(range(1, x.ndim)), keepdim=True)
    offset: Tensor = x_adv - STEP * grad / (norm(grad) + 1e-12) - x
    scale: Tensor = (eps / norm(offset)).clamp(max=1.0)
    return (x + offset * scale).clamp(0.0, 1.0)


Step = Callable[[Tensor, Inputs], tuple[Tensor, Tensor | None]]


def chain_step(setup: Setup, *, in_place: bool = False, compiled: bool = False) -> Step:
    """The op chain, which returns a new tensor or copies it into x_adv as its last op."""
    chain = linf_chain if setup.norm == "linf" else l2_chain
    per_channel = (1, -1, 1, 1)

    def step(
        x_adv: Tensor, grad: Tensor, x: Tensor, eps: float | Tensor, mean: Tensor, std: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        moved = chain(x_adv, grad, x, eps)
        if in_place:
            moved = x_adv.copy_(moved)
        return moved, (moved - mean.view(per_channel)) / std.view(per_channel) if setup.model_input else None

    # One compiled function for all inputs of a rotation.
    function = torch.compile(step, dynamic=False) if compiled else step
    return lambda x_adv, i: function(x_adv, i.grad, i.x, i.eps_wide, i.mean, i.std)


def entrant(step: Step, inputs: Inputs) -> Entrant:
    state = inputs.start.clone()

    def outcome() -> dict[str, Tensor]:
        x_adv, model_input = step(inputs.start.clone(), inputs)
        return results(x_adv, model_input)

    return Entrant(lambda: step(state, inputs), outcome)


def results(x_adv: Tensor, model_input: Tensor | None) -> dict[str, Tensor]:
    return {"x_adv": x_adv} if model_input is None else {"x_adv": x_adv, "model_input": model_input}


def out_entrant(inputs: Inputs) -> Entrant:
    """The six ops with preallocated results: what a careful user writes."""
    sign, lower, upper = (torch.empty_like(inputs.x) for _ in range(3))

    def step(x_adv: Tensor, i: Inputs) -> tuple[Tensor, None]:
        # torch.sign(out=) keeps its input's dtype, and a bfloat16 sign is exact.
        direction = torch.sign(i.grad, out=sign if i.grad.dtype == sign.dtype else None)
        torch.add(x_adv, direction, alpha=-STEP, out=x_adv)
        torch.sub(i.x, i.eps_wide, out=lower)
        torch.add(i.x, i.eps_wide, out=upper)
        torch.clamp(x_adv, lower, upper, out=x_adv)
        return torch.clamp(x_adv, 0.0, 1.0, out=x_adv), None

    return entrant(step, inputs)


def bounds_entrant(inputs: Inputs) -> Entrant:
    """Three ops on bounds that were computed before the loop: less work in a step, for two more tensors."""
    lower, upper = ((inputs.x + sign * inputs.eps_wide).clamp_(0.0, 1.0) for sign in (-1, 1))
    return entrant(lambda x_adv, i: (x_adv.add_(i.grad.sign(), alpha=-STEP).clamp_(lower, upper), None), inputs)


def normalization(setup: Setup, i: Inputs) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """A tensor for the model input, mean and std; three times None without one."""
    return (torch.empty_like(i.x), i.mean, i.std) if setup.model_input else (None, None, None)


def op(setup: Setup, inputs: Inputs, backend: str) -> Entrant:
    """The public op, as a training loop calls it."""
    out, mean, std = normalization(setup, inputs)

    def step(x_adv: Tensor, i: Inputs) -> tuple[Tensor, Tensor | None]:
        ops.pgd_step_(
            x_adv, i.grad, i.x, i.eps, STEP, norm=setup.norm, model_input=out, mean=mean, std=std, backend=backend
        )  # fmt: skip
        return x_adv, out

    return entrant(step, inputs)


def kernel(setup: Setup, inputs: Inputs) -> Entrant:
    """The kernel with all but the gradient bound, as the attack's own loop calls it."""
    backend = backends.choose("pgd_step", inputs.x.device, inputs.x.dtype)
    out, mean, std = normalization(setup, inputs)
    bound: dict[int, Callable[[Tensor], None]] = {}  # by the tensor that moves: one for the timing, one per check

    def step(x_adv: Tensor, i: Inputs) -> tuple[Tensor, Tensor | None]:
        if id(x_adv) not in bound:
            bound[id(x_adv)] = backends.plan(
                "pgd_step", backend, x_adv, ..., i.x, i.eps_n, EPS, None, STEP, True, setup.norm, 0.0, 1.0,
                out, mean, std, None,
            )  # fmt: skip
        bound[id(x_adv)](i.grad)
        return x_adv, out

    return entrant(step, inputs)


def copy_entrant(setup: Setup, inputs: Inputs) -> Entrant:
    """PyTorch's copy between two buffers that stay, reading and writing as many bytes as the step must."""
    source = torch.ones(inputs.x.numel() * setup.bytes_per_element // 8, device=inputs.x.device)
    destination = torch.zeros_like(source)
    return Entrant(lambda: destination.copy_(source))


def verifier(setup: Setup, inputs: Inputs) -> Verify:
    outcome = op(setup, inputs, "reference").outcome
    assert outcome is not None
    expected = outcome()
    if setup.norm == "linf" and not setup.model_input:
        return equal_to(expected)
    return close_to(expected, {"x_adv": 1e-6 if setup.norm == "l2" else 0.0, "model_input": 2e-6})


def rule(setup: Setup) -> str:
    if setup.norm == "l2":
        return "x_adv within 1e-6 of the reference"
    return "x_adv equal to the reference to the last bit" + (", model_input within 2e-6" if setup.model_input else "")


def build(setup: Setup, targets: tuple[Target, ...] = (), *, cold: bool = False) -> Callable[[Settings], Case]:
    def case(settings: Settings) -> Case:
        rehearsed = dataclasses.replace(setup, shape=(2, *setup.shape[1:2], 8, 8))
        s = rehearsed if settings.rehearsal else setup
        rivals = [Rival(EAGER, "eager", partial(entrant, chain_step(s)), on=("cpu",))]
        if s.norm == "linf" and not s.model_input:
            rivals += [
                Rival(EAGER_OUT, "eager", out_entrant, on=("cpu",)),
                Rival(EAGER_BOUNDS, "eager", bounds_entrant, on=("cpu",)),
            ]
        rivals += [
            Rival(COMPILED, "compile", partial(entrant, chain_step(s, compiled=True))),
            Rival(COMPILED_IN_PLACE, "compile", partial(entrant, chain_step(s, in_place=True, compiled=True))),
            Rival(COPY, "floor", partial(copy_entrant, s)),
        ]
        return op_case(
            settings, partial(Inputs, s), op=partial(op, s), kernel=partial(kernel, s), rivals=rivals,
            verify=partial(verifier, s), rule=rule(s), bytes_moved=lambda i: i.x.numel() * s.bytes_per_element,
            cold=cold, targets=targets,
        )  # fmt: skip

    return case


VS_EAGER = Target(FAIRTAT, (EAGER,), "faster", 6.0)
VS_COMPILE = Target(FAIRTAT, (COMPILED, COMPILED_IN_PLACE), "faster", 1.2)
VS_COPY = Target(FAIRTAT, (COPY,), "within", 1.0)
BATCH, LARGE = (128, 3, 32, 32), (64, 3, 224, 224)
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
MIXED = Setup(BATCH, grad_dtype=torch.bfloat16, channels_last=True, model_input=True)
ON_GPU = partial(CaseSpec, device="cuda")

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
        ON_GPU("(448, 3, 224, 224), 257 MiB tensors", build(Setup(GPU_LARGE), GPU_LARGE_GOALS), True, True),
        ON_GPU("(128, 3, 32, 32), cold L2", build(Setup(BATCH), GPU_BATCH_GOALS, cold=True), True, True),
        ON_GPU("(128, 3, 32, 32), warm L2", build(Setup(BATCH), GPU_BATCH_GOALS)),
        ON_GPU(
            "(128, 3, 32, 32), bfloat16 gradient, model input, channels_last, cold L2",
            build(MIXED, cold=True), quick=True,
        ),
        ON_GPU("(128, 3, 32, 32), L2 norm, cold L2", build(Setup(BATCH, norm="l2"), cold=True)),
    ),
)  # fmt: skip


def test_pgd_step(spec: CaseSpec, compare: Callable[[CaseSpec], None]) -> None:
    compare(spec)
