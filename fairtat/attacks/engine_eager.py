"""The eager engine: plain PyTorch passes of the model, and one fused kernel on either side of them.

K steps cost K forwards and K backwards to the input. The gradient starts from the logits, so there is no
autograd graph of the loss, and with frozen parameters none of a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fairtat import backends
from fairtat.attacks.batch import Batch
from fairtat.attacks.engine_check import Probe, probe
from fairtat.attacks.network import Network
from fairtat.attacks.options import AttackOptions
from fairtat.attacks.passes import Attack, Pass, Span, empty_rows, laid_out_like, take
from fairtat.attacks.result import AttackResult
from fairtat.checks import in_memory

# Small gradients would vanish below float16's 6e-8. A power of two rounds nothing; signs do not feel it, and
# L2, which divides by the gradient's size, takes it out again.
FLOAT16_SCALE = 2.0**10


def run(network: Network, batch: Batch, options: AttackOptions, seed: int) -> Tensor | AttackResult:
    """Attack a batch; see :func:`fairtat.fast_targeted_pgd`."""
    attack = Attack(network, batch, options, seed)
    return attack.run(Eager(attack).descend)


class Score(NamedTuple):
    """One forward pass and what the loss kernel says of it."""

    logits: Tensor
    loss: Tensor
    dlogits: Tensor
    pred: Tensor
    reached: Tensor  # untargeted: fooled


class Eager:
    """Steps and reports by plain PyTorch passes; other engines step and report through it too."""

    def __init__(self, attack: Attack) -> None:
        self.attack = attack
        self.network = attack.network
        self.batch = attack.batch
        self.options = attack.options
        self.classes = 0  # of the model, once it has been called
        self._loss_kernel: Callable[..., Any] | None = None

    def descend(self, spans: Sequence[Span], room: Tensor | None) -> AttackResult | None:
        """Attack the samples of these spans."""
        work = self.attack.begin(spans, room)
        return self.shrinking(work) if self.attack.shrinks else self.staying(work)

    def staying(self, work: Pass) -> AttackResult | None:
        """Run all steps on all samples, in place; one that has stopped stays unmoved."""
        for _ in range(self.options.steps):
            self.advance(work)
        return self.finish(work)

    def shrinking(self, work: Pass) -> AttackResult | None:
        """The same where a sample that has stopped leaves the batch."""
        outcome = Outcome(work.x_adv, self.attack.scored)
        for _ in range(self.options.steps):
            leaf, score = self._look(work)
            assert work.moving is not None
            # The one synchronisation of a step: the host has to know the size of the next pass.
            left: Tensor | None = work.moving.nonzero()[:, 0]
            if left is not None and len(left) == len(work.moving):
                left = None
            elif left is not None:
                outcome.record(work, (~work.moving).nonzero()[:, 0], score)
                if len(left) == 0:
                    return outcome.result
            grad = self._gradient(score, leaf)
            del leaf, score  # so that the graph is gone before the next one grows
            if left is not None:
                grad = take(grad, left)
                work.keep(left)
            self.attack.step(work, grad)
        return self.finish(work, outcome)

    def advance(self, work: Pass) -> tuple[Score, Tensor]:
        """Make one step, in place, and return what it went by: score and gradient.

        Who has stopped stays unmoved: nothing asks the device, and ranks keep in step.
        """
        leaf, score = self._look(work)
        grad = self._gradient(score, leaf)
        score = score._replace(logits=score.logits.detach())
        del leaf
        if work.moving is None:
            self.attack.step(work, grad)
            return score, grad
        zero_before = None if work.zero_grad is None else work.zero_grad.clone()
        step_n = work.x.new_full((len(work.x),), self.batch.step) if work.step_n is None else work.step_n
        self.attack.step_by(work, grad, torch.where(work.moving, step_n, 0.0))
        if zero_before is not None and work.zero_grad is not None:
            work.zero_grad.copy_(torch.where(work.moving, work.zero_grad, zero_before))
        return score, grad

    def finish(self, work: Pass, outcome: Outcome | None = None) -> AttackResult | None:
        """Judge what is left of a pass, where that is asked for, and put its samples in their places."""
        outcome = outcome or Outcome(work.x_adv, self.attack.scored)
        if self.attack.scored:
            outcome.record(work, None, self.judge(work), self.options.steps)
        elif work.row is not None:
            outcome.record(work, None, None)
        return outcome.result

    def judge(self, work: Pass) -> Score:
        """The score of the samples where they are, without a gradient."""
        with torch.no_grad(), self.network.state.statistics_held():
            return self._score(self.network(work.model_input), work)

    def probe(self, work: Pass, nudge: float = 0.0) -> Probe:
        """The pass of a step that is not made; ``nudge`` moves the input by that share of each pixel, up and down."""
        leaf = work.model_input.detach()
        if nudge:
            signs = torch.ones_like(leaf)
            signs[..., ::2] = -1
            leaf = leaf * (1 + nudge * signs)
        leaf.requires_grad_()
        with self.network.state.statistics_held():
            score = self._score(self.network(leaf), work)
        return probe(score.logits, self._gradient(score, leaf))

    def _look(self, work: Pass) -> tuple[Tensor, Score]:
        """(what the gradient is taken to, the score) of the samples where they are."""
        leaf = work.model_input.detach().requires_grad_()
        score = self._score(self.network(leaf), work)
        if work.moving is not None:
            work.note(score.reached)
        return leaf, score

    def _gradient(self, score: Score, leaf: Tensor) -> Tensor:
        grad = input_gradient(
            score.logits, score.dlogits, leaf, self.network.float16, self.options.norm, self.batch.std
        )
        return in_memory("the gradient of the model's input", grad)

    def _score(self, logits: Tensor, work: Pass) -> Score:
        z = in_memory("the model's logits", logits.detach())
        if z.dtype == torch.float16:
            z = z.float()  # a confident sample's gradient is below what float16 can hold
        if self._loss_kernel is None:
            self.batch.check_classes(z, self.options)
            self.classes = z.shape[1]
            chosen = backends.choose("logit_loss", z.device, z.dtype, self.options.backend)
            self._loss_kernel = backends.kernel("logit_loss", chosen)
        loss, dlogits, pred, reached = self._loss_kernel(
            z.contiguous(), work.goal, self.options.loss, work.y, work.clean_logits
        )
        return Score(logits, loss, dlogits, pred, reached if self.options.targeted else ~reached)


def input_gradient(
    logits: Tensor,  # (N, C) with a graph to leaf
    dlogits: Tensor,  # (N, C)
    leaf: Tensor,  # (N, ...)
    float16: bool,
    norm: str,
    std: Tensor | None,  # (C,) of the image, where leaf is normalised
) -> Tensor:
    """d loss / d x_adv, up to a positive factor where only the sign counts, laid out like ``leaf``."""
    if not logits.requires_grad:
        raise RuntimeError(
            "the model's output has no gradient with respect to its input: its forward must not run under "
            "torch.no_grad() or detach what it returns"
        )
    scaled = float16 or logits.dtype == torch.float16
    if scaled:
        dlogits = (dlogits * FLOAT16_SCALE).to(logits.dtype)
    (grad,) = torch.autograd.grad(logits, leaf, dlogits)
    if norm == "l2":
        if scaled:
            grad = grad.float() / FLOAT16_SCALE
        if std is not None:
            grad = grad / std.view(-1, *[1] * (grad.ndim - 2))
    return laid_out_like(grad, leaf)


class Outcome:
    """The outcome of a pass, gathered when samples leave it and at its end."""

    def __init__(self, x_adv: Tensor, scored: bool) -> None:
        self.result: AttackResult | None = None
        self._x_adv = x_adv
        self._scored = scored

    def record(self, work: Pass, index: Tensor | None, score: Score | None, steps: int = 0) -> None:
        """Note these samples of ``work`` (None: all that are left) as they are now; ``steps``: where it counts none."""
        rows = index if work.row is None else work.row if index is None else work.row[index]
        if work.row is not None:
            assert rows is not None
            self._x_adv.index_copy_(0, rows, work.x_adv if index is None else take(work.x_adv, index))
        if not self._scored:
            return
        assert score is not None
        assert work.zero_grad is not None
        now = AttackResult(
            x_adv=self._x_adv,
            logits=score.logits.detach(),
            pred=score.pred,
            reached=score.reached,
            loss=score.loss,
            zero_grad=work.zero_grad,
            steps=torch.full_like(score.pred, steps) if work.taken is None else work.taken,
        )
        if rows is None:
            self.result = now
            return
        columns = [f.name for f in fields(now) if f.name != "x_adv"]
        if self.result is None:
            n = len(self._x_adv)
            room = {name: empty_rows(getattr(now, name), n) for name in columns}
            self.result = AttackResult(x_adv=self._x_adv, **room)
        for name in columns:
            value = getattr(now, name)
            getattr(self.result, name).index_copy_(0, rows, value if index is None else value[index])
