"""logit_loss: loss, gradient to the logits and prediction in one pass, beside autograd and torch.compile.

The floor is a copy of the logits: they are read once and a gradient of their size is written.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from harness.case import Benchmark, Case, Contestant, Entrant, Settings, Verify
from harness.equality import close_to
from harness.op import BASELINE, floor, op_contestants
from torch import Tensor

from fairtat import ops

Results = tuple[Tensor, Tensor, Tensor, Tensor]  # loss (N,), dlogits (N, C), pred (N,), reached (N,)
Batch = tuple[Tensor, Tensor]  # logits (N, C), target (N,)


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


def entrant(function: Callable[[Tensor, Tensor], Results], batch: Batch) -> Entrant:
    names = ("loss", "dlogits", "pred", "reached")
    return Entrant(lambda: function(*batch), lambda: dict(zip(names, function(*batch), strict=True)))


def op(batch: Batch, backend: str) -> Entrant:
    return entrant(partial(ops.logit_loss, backend=backend), batch)


def compiled(batch: Batch) -> Entrant:
    return entrant(torch.compile(softmax_minus_onehot, dynamic=False), batch)


def inputs(settings: Settings, seed: int, n: int, classes: int, dtype: torch.dtype) -> Batch:
    n, device = 8 if settings.rehearsal else n, settings.place
    generator = torch.Generator(device).manual_seed(seed)
    logits = (torch.randn(n, classes, generator=generator, device=device) * 3.0).to(dtype)
    return logits, torch.randint(classes, (n,), generator=generator, device=device)


def tolerance_of(batch: Batch) -> float:
    # bfloat16 rounds by up to 2**-8, and cross_entropy does so for the log-probability, its sign and the loss.
    return 3 * 2.0**-8 if batch[0].dtype == torch.bfloat16 else 1e-5


def close_to_float64(batch: Batch) -> Verify:
    logits, target = batch
    expected = ops.logit_loss(logits.double(), target, backend="reference")._asdict()
    return close_to(expected, dict.fromkeys(("loss", "dlogits"), tolerance_of(batch)))


def case(n: int, classes: int, dtype: torch.dtype = torch.float32, **about: Any) -> Case[Batch]:
    label = f"N={n}, C={classes}" + (", bfloat16" if dtype == torch.bfloat16 else "")
    return Case(label, partial(inputs, n=n, classes=classes, dtype=dtype), **about)


BENCHMARK = Benchmark(
    name="logit_loss",
    question="How fast are an attack's loss, its gradient to the logits and the prediction?",
    contestants=(
        *op_contestants(op),
        Contestant("cross_entropy + autograd", "eager", partial(entrant, cross_entropy_autograd), on=("cpu",)),
        Contestant("softmax - onehot", "eager", partial(entrant, softmax_minus_onehot), graph=True),
        Contestant("torch.compile, softmax - onehot", "compile", compiled, graph=True),
        floor(lambda batch: torch.empty_like(batch[0])),
    ),
    baseline=BASELINE,
    verify=close_to_float64,
    rule=lambda batch: f"loss and gradient within {tolerance_of(batch):.1g} of float64, pred and reached equal",
    bytes_moved=lambda batch: 2 * batch[0].numel() * batch[0].itemsize,
    cases=(
        case(128, 10, headline=True, quick=True),
        case(4096, 100),
        case(4096, 1000, headline=True),
        case(128, 10, torch.bfloat16, quick=True),
        case(4096, 1000, torch.bfloat16),
        # An attack's logits have just been written: a batch of a few classes is in the L2 cache, and stays there.
        case(128, 10, headline=True, quick=True, device="cuda"),
        case(4096, 1000, headline=True, device="cuda"),
        case(512, 10, torch.bfloat16, quick=True, device="cuda"),
    ),
)


def test_logit_loss(case: Case[Batch], compare: Callable[[Case[Batch]], None]) -> None:
    compare(case)
