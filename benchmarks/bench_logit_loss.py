"""logit_loss: loss, gradient to the logits and prediction in one pass, beside autograd and torch.compile.

The floor is a copy of the logits: they are read once and a gradient of their size is written.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from harness import Benchmark, Case, CaseSpec, Entrant, Settings, Verify, close_to
from harness.op_case import COPY, Rival, op_case
from torch import Tensor

from fairtat import backends, ops

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


Batch = tuple[Tensor, Tensor]  # logits (N, C), target (N,)


def entrant(function: Callable[[Tensor, Tensor], Results], batch: Batch) -> Entrant:
    return Entrant(lambda: function(*batch), lambda: named(function(*batch)))


def op(batch: Batch, backend: str) -> Entrant:
    return entrant(partial(ops.logit_loss, backend=backend), batch)


def kernel(batch: Batch) -> Entrant:
    raw = backends.kernel("logit_loss", backends.choose("logit_loss", batch[0].device, batch[0].dtype))
    return entrant(lambda z, t: raw(z, t, "ce", None, None), batch)


def copy(batch: Batch) -> Entrant:
    copied = torch.empty_like(batch[0])
    return Entrant(lambda: copied.copy_(batch[0]))


def inputs(n: int, classes: int, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> Batch:
    generator = torch.Generator(device).manual_seed(seed)
    logits = (torch.randn(n, classes, generator=generator, device=device) * 3.0).to(dtype)
    return logits, torch.randint(classes, (n,), generator=generator, device=device)


def tolerance_of(dtype: torch.dtype) -> float:
    # bfloat16 rounds by up to 2**-8, and cross_entropy does so for the log-probability, its sign and the loss.
    return 3 * 2.0**-8 if dtype == torch.bfloat16 else 1e-5


def close_to_float64(batch: Batch) -> Verify:
    logits, target = batch
    expected = ops.logit_loss(logits.double(), target, backend="reference")._asdict()
    tolerance = tolerance_of(logits.dtype)
    return close_to(expected, {"loss": tolerance, "dlogits": tolerance})


def rule(dtype: torch.dtype) -> str:
    return f"loss and gradient within {tolerance_of(dtype):.1g} of float64, pred and reached equal"


def build(n: int, classes: int, dtype: torch.dtype = torch.float32) -> Callable[[Settings], Case]:
    def case(settings: Settings) -> Case:
        rows = 8 if settings.rehearsal else n
        fused = torch.compile(softmax_minus_onehot, dynamic=False)
        # An attack's logits have just been written: a batch of a few classes is in the L2 cache, and stays there.
        return op_case(
            settings, partial(inputs, rows, classes, dtype), op=op, kernel=kernel,
            rivals=(
                Rival("cross_entropy + autograd", "eager", partial(entrant, cross_entropy_autograd), on=("cpu",)),
                Rival("softmax - onehot", "eager", partial(entrant, softmax_minus_onehot)),
                Rival("torch.compile, softmax - onehot", "compile", partial(entrant, fused)),
                Rival(COPY, "floor", copy),
            ),
            verify=close_to_float64, rule=rule(dtype), bytes_moved=lambda _: 2 * rows * classes * dtype.itemsize,
        )  # fmt: skip

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
        CaseSpec("N=128, C=10", build(128, 10), headline=True, quick=True, device="cuda"),
        CaseSpec("N=4096, C=1000", build(4096, 1000), headline=True, device="cuda"),
        CaseSpec("N=512, C=10, bfloat16", build(512, 10, torch.bfloat16), quick=True, device="cuda"),
    ),
)


def test_logit_loss(spec: CaseSpec, compare: Callable[[CaseSpec], None]) -> None:
    compare(spec)
