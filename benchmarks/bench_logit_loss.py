"""logit_loss: loss, gradient to the logits and prediction in one pass, beside autograd and torch.compile.

The floor is a copy of the logits: they are read once and a gradient of their size is written.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from harness import Benchmark, Case, CaseSpec, Contestant, Entrant, Settings, Verify, close_to, gpu
from torch import Tensor

from fairtat import backends, ops

FAIRTAT = "fairtat"

Results = tuple[Tensor, Tensor, Tensor, Tensor]  # loss (N,), dlogits (N, C), pred (N,), reached (N,)


def named(results: Results) -> dict[str, Tensor]:
    return dict(zip(("loss", "dlogits", "pred", "reached"), results, strict=True))


def cross_entropy_autograd(logits: Tensor, target: Tensor) -> Results:
    """What an attack loop does: the loss graph, its backward to the logits, argmax and comparison."""
    leaf = logits.detach().requires_grad_()
    loss = F.cross_entropy(leaf, target, reduction="none")
    (grad,) = torch.autograd.grad(loss.sum(), leaf)
    pred = logits.argmax(1)
    return loss.detach(), grad, pred, pred == target


def softmax_minus_onehot(logits: Tensor, target: Tensor) -> Results:
    """The gradient written by hand, without autograd."""
    log_p = F.log_softmax(logits.float(), dim=1)
    column = target[:, None]
    loss = -log_p.gather(1, column)[:, 0]
    grad = log_p.exp().scatter_add(1, column, torch.full_like(loss[:, None], -1.0))
    pred = logits.argmax(1)
    return loss, grad.to(logits.dtype), pred, pred == target


def entrant(function: Callable[[Tensor, Tensor], Results], logits: Tensor, target: Tensor) -> Entrant:
    return Entrant(lambda: function(logits, target), lambda: named(function(logits, target)))


def op(logits: Tensor, target: Tensor, backend: str = "auto") -> Entrant:
    def run() -> ops.LogitLoss:
        return ops.logit_loss(logits, target, backend=backend)

    return Entrant(run, lambda: run()._asdict())


def kernel(logits: Tensor, target: Tensor) -> Entrant:
    raw = backends.kernel("logit_loss", backends.choose("logit_loss", logits.device, logits.dtype))
    return entrant(lambda z, t: raw(z, t, "ce", None, None), logits, target)


def inputs(n: int, classes: int, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator(device).manual_seed(seed)
    logits = (torch.randn(n, classes, generator=generator, device=device) * 3.0).to(dtype)
    return logits, torch.randint(classes, (n,), generator=generator, device=device)


def tolerance_of(dtype: torch.dtype) -> float:
    # bfloat16 rounds by up to 2**-8, and cross_entropy does so for the log-probability, its sign and the loss.
    return 3 * 2.0**-8 if dtype == torch.bfloat16 else 1e-5


def close_to_float64(logits: Tensor, target: Tensor) -> Verify:
    expected = ops.logit_loss(logits.double(), target, backend="reference")._asdict()
    tolerance = tolerance_of(logits.dtype)
    return close_to(expected, {"loss": tolerance, "dlogits": tolerance})


def rule(dtype: torch.dtype) -> str:
    return f"loss and gradient within {tolerance_of(dtype):.1g} of float64, pred and reached equal"


def build(n: int, classes: int, dtype: torch.dtype = torch.float32) -> Callable[[Settings], Case]:
    def case(settings: Settings) -> Case:
        logits, target = inputs(n, classes, dtype)
        copied = torch.empty_like(logits)
        return Case(
            contestants=(
                Contestant(FAIRTAT, "fairtat", lambda: op(logits, target)),
                Contestant("fairtat kernel", "fairtat", lambda: kernel(logits, target)),
                Contestant(
                    "cross_entropy + autograd", "eager", lambda: entrant(cross_entropy_autograd, logits, target)
                ),
                Contestant("softmax - onehot", "eager", lambda: entrant(softmax_minus_onehot, logits, target)),
                Contestant(
                    "torch.compile, softmax - onehot",
                    "compile",
                    lambda: entrant(torch.compile(softmax_minus_onehot, dynamic=False), logits, target),
                ),
                Contestant("copy of as many bytes", "floor", lambda: Entrant(lambda: copied.copy_(logits))),
            ),
            baseline=FAIRTAT,
            verify=close_to_float64(logits, target),
            rule=rule(dtype),
            bytes_moved=2 * logits.numel() * dtype.itemsize,
        )

    return case


def on_gpu(n: int, classes: int, dtype: torch.dtype = torch.float32) -> Callable[[Settings], Case]:
    def case(settings: Settings) -> Case:
        device = settings.device
        rows = 8 if settings.rehearsal else n
        bytes_moved = 2 * rows * classes * dtype.itemsize
        # An attack's logits have just been written: a batch of a few classes is in the L2 cache, and stays there.
        sets = gpu.rotation(
            lambda seed: inputs(rows, classes, dtype, device, seed),
            bytes_moved,
            settings=settings,
            cold=bytes_moved >= 8 << 20,
        )

        def turns(make: Callable[[Tensor, Tensor], Entrant]) -> list[Entrant]:
            return [make(*pair) for pair in sets]

        def captured(make: Callable[[Tensor, Tensor], Entrant]) -> Entrant:
            return gpu.in_graph(turns(make), device)

        def copy(logits: Tensor, target: Tensor) -> Entrant:
            copied = torch.empty_like(logits)
            return Entrant(lambda: copied.copy_(logits))

        fused = torch.compile(softmax_minus_onehot, dynamic=False)
        return Case(
            contestants=(
                *gpu.kernel_contestants(settings, lambda backend: turns(lambda z, t: op(z, t, backend))),
                Contestant("softmax - onehot", "eager", lambda: captured(partial(entrant, softmax_minus_onehot))),
                Contestant("torch.compile, softmax - onehot", "compile", lambda: captured(partial(entrant, fused))),
                Contestant("copy of as many bytes", "floor", lambda: captured(copy)),
            ),
            baseline=gpu.REFERENCE,
            verify=close_to_float64(*sets[0]),
            rule=rule(dtype),
            bytes_moved=bytes_moved,
        )

    return case


BENCHMARK = Benchmark(
    name="logit_loss",
    question="How fast are an attack's loss, its gradient to the logits and the prediction?",
    cases=(
        CaseSpec("N=128, C=10", build(128, 10), headline=True, quick=True),
        CaseSpec("N=4096, C=10", build(4096, 10)),
        CaseSpec("N=128, C=100", build(128, 100)),
        CaseSpec("N=4096, C=100", build(4096, 100)),
        CaseSpec("N=128, C=1000", build(128, 1000)),
        CaseSpec("N=4096, C=1000", build(4096, 1000), headline=True),
        CaseSpec("N=128, C=10, bfloat16", build(128, 10, torch.bfloat16), quick=True),
        CaseSpec("N=4096, C=10, bfloat16", build(4096, 10, torch.bfloat16)),
        CaseSpec("N=4096, C=1000, bfloat16", build(4096, 1000, torch.bfloat16)),
        CaseSpec("N=128, C=10", on_gpu(128, 10), headline=True, quick=True, device="cuda"),
        CaseSpec("N=4096, C=1000", on_gpu(4096, 1000), headline=True, device="cuda"),
        CaseSpec("N=512, C=10, bfloat16", on_gpu(512, 10, torch.bfloat16), quick=True, device="cuda"),
    ),
)


def test_logit_loss(spec: CaseSpec, compare: Callable[[CaseSpec], None]) -> None:
    compare(spec)
