"""The steps of projected gradient descent: loss, projected step, early stopping, and which restart is kept."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor

from fairtat import backends
from fairtat.attacks.batch import Batch
from fairtat.attacks.logit_gradient import differentiated, logit_gradient
from fairtat.attacks.options import PGDOptions
from fairtat.checks import in_memory
from fairtat.engines.model.network import Network
from fairtat.engines.samples import Samples, Score, Span, copy_rows, empty_rows, gather
from fairtat.engines.steps import Steps
from fairtat.ops.pgd_step import kept_elements, signed_steps


@dataclass(kw_only=True)
class PGDSamples(Samples):
    """What the kernels need of each sample. What a batch has under the same name comes from there."""

    x: Tensor  # (N, ...)
    goal: Tensor  # (N,)
    targeted: Tensor | None  # (N,) bool, where each sample has its own direction
    y: Tensor | None  # (N,)
    clean_logits: Tensor | None  # (N, C)
    eps_n: Tensor | None  # (N,)
    step_n: Tensor | None  # (N,); with `targeted`, negative for a sample that moves away
    sizes: Tensor | None = None  # (N, steps): what step_n is at each step, with step_schedule
    # What steps count, if the options want it: see `PGDSteps`.
    made: Tensor | None = None  # (N,) int64: steps made
    velocity: Tensor | None = None  # (N, ...)
    zero_grad: Tensor | None = None  # (N,) int64
    taken: Tensor | None = None  # (N,) int64: steps made before the sample stopped
    extra: Tensor | None = None  # (N,) int64: steps that may still be made at the goal
    # The step with everything bound but the gradient, and whose step it is.
    plan: tuple[PGDSteps, Callable[[Tensor], None]] | None = field(default=None, repr=False)

    def keep(self, index: Tensor) -> None:
        super().keep(index)
        self.plan = None


_FROM_BATCH = tuple(f.name for f in fields(PGDSamples) if f.name in {f.name for f in fields(Batch)})


class PGDSteps(Steps[PGDSamples]):
    """PGD on one batch."""

    def __init__(self, network: Network, batch: Batch, options: PGDOptions, seed: int) -> None:
        self.network = network
        self.x, self.mean, self.std = batch.x, batch.mean, batch.std
        self.number = options.steps
        self.stops_early = options.early_stop
        self.scored = options.return_info or options.restarts > 1
        # Elsewhere a sample that has stopped stays, unmoved: batch statistics must not change.
        self.shrinks = self.stops_early and options.bn_mode == "eval"
        self.signs_only = options.norm == "linf" and not options.momentum
        self._batch = batch
        self._options = options
        self._kinds = options.kinds
        self._kept = kept_elements(options.density, batch.x.shape[1:].numel()) if options.norm == "l1" else 0
        self.draws, self.watch = options.eot, options.watch
        if callable(options.loss):
            self.eager_only = "a loss that is a function needs autograd"
        elif self.draws > 1:
            self.eager_only = "eot takes several passes of the model for a step"
        elif self.watch is not None:
            self.eager_only = "its steps are watched"
        self._seed = seed
        x, backend = batch.x, options.backend
        # A float64 model under float32 images hands float64 gradients to the step: a matter for the reference.
        widest = torch.float64 if network.input_dtype == torch.float64 else x.dtype
        self._kernels = (
            backends.choose("pgd_step", x.device, widest, backend, form=options.norm),
            backends.choose("pgd_init", x.device, x.dtype, backend),
        )
        self._init_kernel: Callable[..., Any] = backends.kernel("pgd_init", self._kernels[1])
        self._step_kernel: Callable[..., Any] = backends.kernel("pgd_step", self._kernels[0])
        self._plan_step = backends.planner("pgd_step", self._kernels[0])
        self._double_logits = network.precision == torch.float64  # as is expected
        dtype = torch.float64 if self._double_logits else torch.float32
        self._loss_kernel: Callable[..., Any] = backends.kernel(
            "logit_loss", backends.choose("logit_loss", x.device, dtype, backend)
        )
        self._least_classes = batch.least_classes(*self._kinds)
        # Whether what the model is given is another tensor than x_adv.
        self._separate_input = batch.mean is not None or network.input_dtype != x.dtype
        # The tensors that steps count in, and what each starts at.
        self._starts: dict[str, float] = {}
        if batch.schedule is not None:
            self._starts["made"] = 0
        if options.momentum:
            self._starts["velocity"] = 0.0
        if self.scored:  # only where it is read
            self._starts["zero_grad"] = 0
        if self.stops_early:
            self._starts |= {"moving": True, "taken": 0, "extra": options.extra_steps}

    def begin(self, spans: Sequence[Span], x_adv: Tensor | None = None, *, expand: bool = False) -> PGDSamples:
        b = self._batch
        given = gather({name: getattr(b, name) for name in _FROM_BATCH}, spans)
        x = given["x"]
        if expand:
            for name, number in (("eps_n", b.eps), ("step_n", b.step)):
                if given[name] is None:
                    given[name] = x.new_full((len(x),), number)
        if given["targeted"] is not None:
            given["step_n"] = signed_steps(given["step_n"], b.step, given["targeted"], x)
        if b.schedule is not None:
            first = x.new_full((len(x),), b.step) if given["step_n"] is None else given["step_n"]
            given |= {"sizes": first[:, None] * b.schedule, "step_n": torch.empty_like(first)}
        samples = PGDSamples(
            spans=spans,
            in_place=x_adv is not None,
            x_adv=empty_rows(x, len(x)) if x_adv is None else x_adv,
            **given,
            **self._own(x, given["goal"]),
        )
        self.restart(samples)
        return samples

    def room(self, size: int) -> PGDSamples:
        b, x = self._batch, empty_rows(self.x, size).zero_()
        given: dict[str, Any] = {name: getattr(b, name) for name in _FROM_BATCH}
        given = {name: t if t is None else empty_rows(t, size).zero_() for name, t in given.items()}
        given |= {"x": x, "eps_n": x.new_zeros(size), "step_n": x.new_zeros(size)}
        if self._batch.schedule is not None:
            given["sizes"] = x.new_zeros((size, self.number))
        own = self._own(x, given["goal"])
        for t in own.values():
            t.zero_()
        return PGDSamples(spans=(), x_adv=torch.zeros_like(x), **given, **own)

    def _own(self, x: Tensor, goal: Tensor) -> dict[str, Any]:
        """Uninitialized tensors for what is not given by the batch."""
        own = {
            name: torch.empty_like(x if name == "velocity" else goal, dtype=torch.bool if start is True else None)
            for name, start in self._starts.items()
        }
        if self._separate_input:
            own["separate_input"] = empty_rows(x, len(x), self.network.input_dtype)
        return own

    def fill(self, samples: PGDSamples, spans: Sequence[Span]) -> None:
        b = self._batch
        numbers = {"eps_n": b.eps, "step_n": b.step}
        for name in _FROM_BATCH:
            room, given = getattr(samples, name), getattr(b, name)
            if given is not None:
                copy_rows(room, given, spans)
            elif name in numbers:
                room.fill_(numbers[name])
        if samples.targeted is not None and samples.step_n is not None:
            samples.step_n.copy_(signed_steps(samples.step_n, b.step, samples.targeted, samples.x))
        if samples.sizes is not None and samples.step_n is not None and b.schedule is not None:
            torch.mul(samples.step_n[:, None], b.schedule, out=samples.sizes)
        self.restart(samples)

    def restart(self, samples: PGDSamples) -> None:
        for name, start in self._starts.items():
            getattr(samples, name).fill_(start)
        b, o = self._batch, self._options
        # One radius for all stays a number: in L2, a tensor of it is rounded in another order.
        eps_n = None if b.eps_n is None else samples.eps_n
        if b.start is not None:
            copy_rows(samples.x_adv, b.start, samples.spans)
        else:
            offset = 0
            init_norm = "linf" if o.norm == "l1" else o.norm  # which in l1 is not read: all start at x
            for span in samples.spans:
                part = slice(offset, offset + span.size)
                self._init_kernel(
                    samples.x_adv[part], samples.x[part], None if eps_n is None else eps_n[part], b.eps,
                    self._sample_ids(span.rows), self._seed, span.restart, o.init, init_norm, *o.bounds,
                )  # fmt: skip
                offset = part.stop
        if b.start is not None or self._separate_input:
            # A step of size 0 only projects, and writes the model input by the arithmetic of later steps.
            self._step(samples, samples.x, eps_n, None, 0.0, None, None)

    def _sample_ids(self, rows: slice | Tensor) -> Tensor | None:
        if self._batch.sample_ids is not None:
            return self._batch.sample_ids[rows]
        if isinstance(rows, Tensor):
            return rows
        return None if rows.start == 0 else torch.arange(rows.start, rows.stop, device=self.x.device)

    def score(self, logits: Tensor, samples: PGDSamples) -> Score:
        z = logits.detach()
        if type(z) is not Tensor or z.is_neg() or not z.data_ptr():
            z = in_memory("the model's logits", z)
        loss, dlogits, pred, hit = self._loss(_precise(z), samples)
        return Score(logits, loss, dlogits, pred, hit == self._towards(samples.targeted))

    def _loss(self, z: Tensor, samples: PGDSamples) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(loss (N,), dlogits (N, C), pred (N,), whether pred is the goal (N,))."""
        if self.classes != z.shape[1]:
            self.classes = z.shape[1]
            self.check_classes(self.classes)
        if callable(self._options.loss):
            loss, dlogits = differentiated(self._options.loss, z, samples.goal)
            pred = z.argmax(1)
            return loss, dlogits, pred, pred == samples.goal
        double = z.dtype == torch.float64
        if double != self._double_logits:
            self._double_logits = double
            chosen = backends.choose("logit_loss", z.device, z.dtype, self._options.backend)
            self._loss_kernel = backends.kernel("logit_loss", chosen)
        kind, kind_away = self._kinds
        result: tuple[Tensor, Tensor, Tensor, Tensor] = self._loss_kernel(
            z.contiguous(), samples.goal, kind, samples.y, samples.clean_logits, kind_away,
            None if kind_away is None else samples.targeted,
        )  # fmt: skip
        return result

    def _towards(self, targeted: Tensor | None) -> bool | Tensor:
        """Whether samples move towards their goal: a bool for all, or (N,)."""
        towards = self._options.targeted
        if towards is None:
            assert targeted is not None
            return targeted
        return towards

    def logit_gradient(self, logits: Tensor, samples: PGDSamples) -> Tensor:
        kind, kind_away = self._kinds
        assert kind is not None
        return logit_gradient(
            _precise(logits.detach()), samples.goal, kind, samples.y, samples.clean_logits, kind_away, samples.targeted
        )

    def check_classes(self, classes: int) -> None:
        clean_logits = self._batch.clean_logits
        if classes < self._least_classes or (clean_logits is not None and clean_logits.shape[1] != classes):
            self._batch.check_classes(classes, self._options)

    def reached(self, logits: Tensor, samples: PGDSamples) -> Tensor:
        return (logits.detach().argmax(1) == samples.goal) == self._towards(samples.targeted)

    def stop(self, samples: PGDSamples, reached: Tensor) -> None:
        """A sample at its goal uses up an extra step, or stops."""
        assert samples.moving is not None
        assert samples.extra is not None
        assert samples.taken is not None
        samples.moving &= ~(reached & (samples.extra <= 0))
        samples.extra -= reached.long()
        samples.taken += samples.moving

    def step(self, samples: PGDSamples, grad: Tensor, moving: Tensor | None) -> None:
        if samples.sizes is not None and samples.made is not None and samples.step_n is not None:
            samples.step_n.copy_(samples.sizes.gather(1, samples.made[:, None])[:, 0])
            samples.made.add_(1).remainder_(self.number)  # an engine that tries its steps out makes more of them
        if moving is None:
            if samples.plan is None or samples.plan[0] is not self:
                arguments = self._arguments(
                    samples, ..., samples.eps_n, samples.step_n, self._batch.step, samples.zero_grad, samples.velocity
                )
                samples.plan = self, self._plan_step(*arguments)
            samples.plan[1](grad)
            return
        zero_before = None if samples.zero_grad is None else samples.zero_grad.clone()
        step_n = samples.x.new_full((len(samples.x),), self._batch.step) if samples.step_n is None else samples.step_n
        steps = torch.where(moving, step_n, 0.0)
        self._step(samples, grad, samples.eps_n, steps, 0.0, samples.zero_grad, samples.velocity)
        if zero_before is not None and samples.zero_grad is not None:
            samples.zero_grad.copy_(torch.where(moving, samples.zero_grad, zero_before))

    def _step(self, samples: PGDSamples, *arguments: Any) -> None:
        self._step_kernel(*self._arguments(samples, *arguments))

    def _arguments(
        self,
        samples: PGDSamples,
        grad: Tensor | EllipsisType,
        eps_n: Tensor | None,
        step_n: Tensor | None,
        step: float,
        zero_grad: Tensor | None,
        velocity: Tensor | None,
    ) -> tuple[Any, ...]:
        o = self._options
        return (
            samples.x_adv, grad, samples.x, eps_n, self._batch.eps, step_n, step, o.targeted is not False, o.norm,
            *o.bounds, samples.separate_input, self.mean, self.std, zero_grad,
            velocity, o.momentum, self._kept,
        )  # fmt: skip

    def report(self, samples: PGDSamples, score: Score) -> dict[str, Tensor]:
        if samples.zero_grad is None:
            return {}
        report = {
            "logits": score.logits.detach(),
            "pred": score.pred,
            "reached": score.reached,
            "loss": score.loss,
            "zero_grad": samples.zero_grad,
            "steps": torch.full_like(score.pred, self.number) if samples.taken is None else samples.taken,
        }
        if samples.targeted is not None:
            report["targeted"] = samples.targeted
        return report

    def better(self, new: Mapping[str, Tensor], old: Mapping[str, Tensor]) -> Tensor:
        """One that reached its goal, then the better loss, then the earlier.

        With early_stop the first restart that reached its goal stays: those after it need not have been run.
        """
        towards = self._towards(new.get("targeted"))
        less, more = new["loss"] < old["loss"], new["loss"] > old["loss"]
        closer = torch.where(towards, less, more) if isinstance(towards, Tensor) else less if towards else more
        closer |= old["loss"].isnan() & ~new["loss"].isnan()
        if self._options.early_stop:
            closer &= ~old["reached"]
        return (new["reached"] & ~old["reached"]) | ((new["reached"] == old["reached"]) & closer)

    def rebound(
        self, network: Network, mean: Tensor | None, std: Tensor | None, *, traceable: bool = False
    ) -> PGDSteps:
        other = copy.copy(self)
        other.network, other.mean, other.std = network, mean, std
        if traceable:
            other._step_kernel = backends.kernel("pgd_step", "reference")
            other._plan_step = backends.planner("pgd_step", "reference")
        return other

    def nothing(self) -> dict[str, Tensor]:
        """The result for no images; how many classes the empty logits have, only the model knows."""
        with torch.no_grad():
            logits = self.network(self.x.to(self.network.input_dtype))
        none = self._batch.goal
        loss = self.x.new_empty(0, dtype=torch.float64 if logits.dtype == torch.float64 else torch.float32)
        return {
            "x_adv": torch.empty_like(self.x),
            "logits": logits,
            "pred": none.clone(),
            "reached": none.bool(),
            "loss": loss,
            "zero_grad": none.clone(),
            "steps": none.clone(),
        }

    def settings(self) -> Hashable:
        o, b = self._options, self._batch
        layouts = tuple(
            None if t is None else (t.dtype, t.shape[1:], t.stride()[1:]) for t in (b.x, b.y, b.clean_logits)
        )
        options = (o.targeted, o.norm, self._kinds, o.steps, o.amp, o.bn_mode, o.early_stop, *map(float, o.bounds))
        options += (float(o.momentum), b.schedule is None, self._kept)
        return options, self.scored, self.mean is None, layouts

    @property
    def kernels(self) -> Hashable:
        return self._kernels


def _precise(z: Tensor) -> Tensor:
    """Logits in no float16: a confident sample's gradient is below what that can hold."""
    return z.float() if z.dtype == torch.float16 else z
