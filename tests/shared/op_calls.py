"""Calls of every op's kernel and of its public function, for the tests that hold all ops to one rule.

Threads, instruction sets, the emulated CUDA kernels, the interpreted and the compiled Triton kernels, torch.library: a
new op is in all of these tests once it has its calls here. What is special about an op is for its own tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fairtat import ops
from fairtat.backends import kernel, native_info
from fairtat.ops import target_table
from fairtat.reference.class_stats import HEADER, LOSS, LOSS_SCALE

Calls = dict[str, tuple[Any, ...]]  # name -> the kernel's arguments
LOW_PRECISION = (torch.float32, torch.bfloat16, torch.float16)
_CORE = native_info()
# The reference, and the compiled core on each instruction set that this processor has.
BACKENDS = ("reference", *(f"cpu-{isa}" for isa in (_CORE or {"isas": ()})["isas"]))
# By name alone.
NAMES = ("reference",) if _CORE is None else ("reference", "cpu")
NORMS = ("linf", "l2")
# Calls whose name starts so are equal to the last bit on every backend; the others up to RTOL and ATOL.
EXACT = ("pgd_init uniform linf", "pgd_init zero", "pgd_step linf", "sample_targets", "class_stats")
RTOL, ATOL = 1e-5, 1e-6
RTOL_LOW_PRECISION = 1e-2  # where a result in 16 bits is rounded


def numbers(seed: int, *shape: int) -> Tensor:
    """In [0, 1)."""
    return torch.rand(shape or (9, 3, 47, 31), generator=torch.Generator().manual_seed(seed))


def pgd_init() -> Calls:
    x = numbers(0).contiguous(memory_format=torch.channels_last)
    eps, ids = torch.linspace(0, 1, 9), torch.arange(9) - 4
    calls: Calls = {
        f"pgd_init {init} {norm}": (torch.empty_like(x), x, eps, 0.0, ids, -7, 3, init, norm, 0.0, 1.0)
        for init in ("uniform", "normal", "zero")
        for norm in NORMS
    }
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    for dtype, norm in zip(LOW_PRECISION, ("linf", "linf", "l2"), strict=True):
        calls[f"pgd_init uniform {norm} of bytes {dtype}"] = (
            torch.empty_like(x), (x * 255).byte(), eps, 0.0, ids, -7, 3, "uniform", norm, 0.0, 1.0,
            torch.empty_like(x), torch.empty_like(x, dtype=dtype), mean, std,
        )  # fmt: skip
    return calls


def pgd_step() -> Calls:
    calls: Calls = {}
    for norm in NORMS:
        for dtype in LOW_PRECISION:
            grad = (numbers(1) - 0.5).to(dtype)
            grad[4] = 0.0
            calls[f"pgd_step {norm} {dtype}"] = (
                numbers(0), grad, numbers(2), torch.linspace(0, 1, 9), 0.0, torch.linspace(1, 0, 9), 0.0, True, norm,
                0.0, 1.0, torch.empty_like(grad, dtype=torch.bfloat16), torch.tensor([0.1, 0.2, 0.3]),
                torch.tensor([0.5, 0.6, 0.7]), torch.zeros(9, dtype=torch.int64),
            )  # fmt: skip
            plain = calls[f"pgd_step {norm} {dtype}"]
            calls[f"pgd_step {norm} {dtype} momentum"] = (*plain, numbers(7) - 0.5, 0.9)
    return calls


def logit_loss() -> Calls:
    calls: Calls = {}
    index, clean = torch.arange(401) % 101, numbers(4, 401, 101) * 9
    for kind in ("ce", "margin", "dlr", "kl"):
        for dtype in LOW_PRECISION:
            z = ((numbers(3, 401, 101) - 0.5) * 40).to(dtype)
            y = (index + 1) % 101 if kind == "dlr" else None
            calls[f"logit_loss {kind} {dtype}"] = (z, index, kind, y, clean if kind == "kl" else None)
    targeted = numbers(8, 401) < 0.5
    for kind, away in (("ce", "kl"), ("dlr", "dlr"), ("margin", "ce")):
        for classes in (10, 101):
            z, label = (numbers(3, 401, classes) - 0.5) * 40, torch.arange(401) % classes
            y, given = (label + 1) % classes if kind == "dlr" else None, numbers(4, 401, classes) * 9
            calls[f"logit_loss {kind} {away} of {classes}"] = (
                z, label, kind, y, given if away == "kl" else None, away, targeted,
            )  # fmt: skip
    return calls


def sample_targets() -> Calls:
    label, ids = torch.arange(50), torch.arange(50) - 25
    tables = {"one row": target_table(numbers(5, 50)), "by label": target_table(numbers(5, 50, 50))}
    return {f"sample_targets {name}": (label, table, ids, 11, 2) for name, table in tables.items()}


def class_stats() -> Calls:
    buffer, index = torch.zeros(HEADER + 10, 10, dtype=torch.int64), torch.arange(1000)
    pred, label, loss, target = index * 7 % 10, index % 10, numbers(6, 1000) * 9, index * 3 % 10
    return {
        "class_stats": (buffer, pred, label, None, None),
        "class_stats of losses and targets": (buffer, pred, label, loss, target),
    }


def logit_stats() -> Calls:
    calls: Calls = {}
    index = torch.arange(401)
    for dtype, classes in zip(LOW_PRECISION, (10, 101, 300), strict=True):
        buffer = torch.zeros(HEADER + classes, classes, dtype=torch.int64)
        z = ((numbers(7, 401, classes) - 0.5) * 40).to(dtype)
        z[3, 0] = float("inf")
        target = index * 3 % classes if classes != 300 else None
        calls[f"logit_stats {dtype}"] = (buffer, z, index * 7 % classes, target)
    return calls


CALLS: dict[str, Callable[[], Calls]] = {
    f.__name__: f for f in (pgd_init, pgd_step, logit_loss, sample_targets, class_stats, logit_stats)
}


def run(op: str, backend: str, arguments: tuple[Any, ...], device: str = "cpu") -> tuple[Tensor, ...]:
    """What a call returns, and its tensors as it leaves them; those given stay as they are."""
    given = [a.to(device, copy=True) if isinstance(a, Tensor) else a for a in arguments]
    return tuple(t.cpu() for t in tensors_of(kernel(op, backend)(*given), *given))


def tensors_of(answer: Any, *given: Any) -> tuple[Tensor, ...]:
    answers = answer if isinstance(answer, tuple) else (answer,)
    return tuple(value for value in (*answers, *given) if isinstance(value, Tensor))


def check(name: str, found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Two backends' answers to one call agree."""
    if name.startswith("logit_stats"):
        check_counts(found[0], expected[0])
        found, expected = found[1:], expected[1:]  # what was only read
    for ours, theirs in zip(found, expected, strict=True):
        exact = name.startswith(EXACT) or not ours.is_floating_point()
        rounded = name.startswith(("pgd_step", "pgd_init", "logit_loss")) and ours.dtype in (
            torch.bfloat16,
            torch.float16,
        )
        rtol = 0.0 if exact else RTOL_LOW_PRECISION if rounded else RTOL
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=0.0 if exact else ATOL, equal_nan=True, msg=name)


def check_counts(ours: Tensor, theirs: Tensor) -> None:
    """Buffers filled from logits by two backends: equal counts, and sums of losses that may differ by rounding."""
    rows = [i for i in range(len(ours)) if i not in (LOSS, LOSS + 1)]
    assert torch.equal(ours[rows], theirs[rows])
    sums = [
        (b[LOSS : LOSS + 2].view(-1, 2).double() @ torch.tensor([1.0, 1 / LOSS_SCALE]).double()) for b in (ours, theirs)
    ]
    atol = ATOL * int(ours[LOSS + 4 :].sum())  # for each sample
    torch.testing.assert_close(*sums, rtol=RTOL, atol=atol)


@dataclass
class Stats:
    """What the ops that count write to, as `ClassStats` has it."""

    buffer: Tensor


def empty_stats(classes: int) -> Stats:
    return Stats(torch.zeros(HEADER + classes, classes, dtype=torch.int64))


def images(n: int = 4) -> Tensor:
    return torch.rand(n, 3, 5, 7, generator=torch.Generator().manual_seed(n))


def logits(n: int = 4) -> Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(n))


def index(n: int = 4, shift: int = 0) -> Tensor:
    return (torch.arange(n) + shift) % 6


def buffer() -> Tensor:
    return empty_stats(6).buffer


def table() -> Tensor:
    return target_table(torch.arange(1.0, 7.0))


def every_op(backend: str) -> dict[str, tuple[Callable[..., Any], Callable[[int], tuple[Tensor, ...]]]]:
    """Each public function once, as a function of tensors alone, and its tensors for a batch of n."""

    def start(x: Tensor, eps: Tensor) -> Tensor:
        return ops.pgd_init(x, eps, seed=3, backend=backend)

    def step(x_adv: Tensor, grad: Tensor, x: Tensor, model_input: Tensor, count: Tensor) -> tuple[Tensor, ...]:
        mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
        ops.pgd_step_(
            x_adv, grad, x, 0.1, 0.02, model_input=model_input, mean=mean, std=std, zero_grad=count, backend=backend
        )
        return x_adv + 0.0, model_input, count

    def loss(z: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        return tuple(ops.logit_loss(z, target, kind="margin", backend=backend))

    def targets(label: Tensor, ids: Tensor) -> Tensor:
        return ops.sample_targets(label, TABLE, seed=1, sample_ids=ids, backend=backend)

    def count(statistics: Tensor, pred: Tensor, label: Tensor, losses: Tensor) -> Tensor:
        return ops.class_stats_(Stats(statistics), pred, label, loss=losses, target=label, backend=backend).buffer

    def count_logits(statistics: Tensor, z: Tensor, label: Tensor) -> Tensor:
        return ops.logit_stats_(Stats(statistics), z, label, label, backend=backend).buffer

    return {
        "pgd_init": (start, lambda n: (images(n), torch.linspace(0, 0.2, n))),
        "pgd_step_": (
            step,
            lambda n: (
                images(n), images(n) - 0.5, images(n), torch.empty(n, 3, 5, 7, dtype=torch.bfloat16),
                torch.zeros(n, dtype=torch.int64),
            ),
        ),
        "logit_loss": (loss, lambda n: (logits(n), index(n))),
        "sample_targets": (targets, lambda n: (index(n), torch.arange(n) - 2)),
        "logit_stats_": (count_logits, lambda n: (buffer(), logits(n), index(n, 1))),
        "class_stats_": (count, lambda n: (buffer(), index(n), index(n, 1), torch.linspace(-1, 2, n))),
    }  # fmt: skip


TABLE = table()
OP_NAMES = list(every_op("auto"))


def assert_equal(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
