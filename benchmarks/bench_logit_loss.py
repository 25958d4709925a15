"""logit_loss: loss, gradient to the logits and prediction in one pass, beside autograd and torch.compile."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from harness import Benchmark, Case, CaseSpec, Contestant, Entrant, Settings, close_to, main
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


def op(logits: Tensor, target: Tensor) -> Entrant:
    return Entrant(lambda: ops.logit_loss(logits, target), lambda: ops.logit_loss(logits, target)._asdict())


def kernel(logits: Tensor, target: Tensor) -> Entrant:
    raw = backends.kernel("logit_loss", backends.choose("logit_loss", logits.device, logits.dtype))
    return entrant(lambda z, t: raw(z, t, "ce", None, None), logits, target)


def build(n: int, classes: int, dtype: torch.dtype = torch.float32) -> Callable[[Settings], Case]:
    def case(settings: Settings) -> Case:
        generator = torch.Generator().manual_seed(0)
        logits = (torch.randn(n, classes, generator=generator) * 3.0).to(dtype)
        target = torch.randint(classes, (n,), generator=generator)
        expected = ops.logit_loss(logits.double(), target, backend="reference")._asdict()
        # bfloat16 rounds by up to 2**-8, and cross_entropy does so for the log-probability, its sign and the loss.
        tolerance = 3 * 2.0**-8 if dtype == torch.bfloat16 else 1e-5
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
            verify=close_to(expected, {"loss": tolerance, "dlogits": tolerance}),
            rule=f"loss and gradient within {tolerance:.1g} of float64, pred and reached equal",
            bytes_moved=2 * logits.numel() * dtype.itemsize,
        )

    return case


BENCHMARK = Benchmark(
    name="logit_loss",
    question="How fast are an attack's loss, its gradient to the logits and the prediction?",
    reading="The floor is a copy of the logits: they are read once and a gradient of their size is written.",
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
    ),
)

if __name__ == "__main__":
    sys.exit(main(BENCHMARK))
