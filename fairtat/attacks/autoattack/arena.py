"""One call of an attack: the model, frozen, and the batch that was checked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fairtat import engines
from fairtat.attacks.autoattack.straight_through import straight_through
from fairtat.attacks.batch import make_batch
from fairtat.attacks.entry import check_call, check_may_stop_early
from fairtat.attacks.options import PerChannel, PGDOptions
from fairtat.checks import check_choice
from fairtat.engines.model.network import InputWritten, Network
from fairtat.engines.model.random_numbers import own_random_numbers
from fairtat.engines.model.state import Model, frozen
from fairtat.engines.operations import OperationCount, countable
from fairtat.engines.patient import settled
from fairtat.engines.steps import Steps
from fairtat.ops import logit_loss, pgd_init
from fairtat.ops.pgd_init import NORMS

GRADIENTS = ("autograd", "ste")


@dataclass(frozen=True, eq=False)
class Arena:
    """What the attacks of one call share."""

    network: Network  # as the steps call it: in low precision, with straight-through gradients
    exact: Network  # the model as it is, which decides
    x: Tensor  # (N, ...)
    y: Tensor  # (N,)
    target: Tensor | None  # (N,)
    eps: Tensor  # (N,)
    ids: Tensor  # (N,)
    mean: Tensor | None
    std: Tensor | None
    lo: float
    hi: float
    norm: str
    seed: int
    amp: torch.dtype | None
    engine: str  # "auto": left to a count of operations, for each attack
    engine_check: str
    chunk_size: int
    logits: Tensor = field(repr=False)  # (N, C) of the images themselves
    operations: float = 0.0  # of a pass forward, per image; where the engine is left to them
    requested: bool = True  # the engine, by name

    @property
    def classes(self) -> int:
        return self.logits.shape[1]

    @property
    def goal(self) -> Tensor:
        """The class to move towards, else the label to move away from."""
        return self.y if self.target is None else self.target

    def reached(self, logits: Tensor, rows: Tensor | slice) -> Tensor:
        """(n,) bool: these logits are at the attack's goal."""
        pred = logits.argmax(1)
        return pred != self.y[rows] if self.target is None else pred == self.target[rows]

    def margin(self, logits: Tensor, rows: Tensor) -> Tensor:
        """(n,) how far these logits are beyond the boundary to the goal, below 0 before it."""
        loss = logit_loss(logits, self.goal[rows], kind="margin").loss
        return loss if self.target is None else -loss

    def judge(self, x: Tensor) -> Tensor:
        """Logits (n, C) of the model as it is: plain passes, in the dtype of its own."""
        with torch.no_grad():
            return torch.cat([_forward(self.exact, part, self.mean, self.std) for part in x.split(self.chunk_size)])

    def run(self, steps: Steps[Any]) -> dict[str, Tensor]:
        """Some steps on the engine that was asked for."""
        return engines.run(steps, self.engine, check=self.engine_check, requested=self.requested)

    def noise(self, x: Tensor, ids: Tensor, stream: int, init: str) -> Tensor:
        """Random numbers for images like x from (seed, id, stream): "uniform" in [-1, 1), or "normal"."""
        none = torch.zeros_like(x)
        if init == "uniform":
            return pgd_init(none, 1.0, seed=self.seed, sample_ids=ids, stream=stream, bounds=(-torch.inf, torch.inf))
        return pgd_init(
            none, 1e30, seed=self.seed, sample_ids=ids, stream=stream, init="normal", norm="l2",
            bounds=(-torch.inf, torch.inf),
        )  # fmt: skip


def _forward(network: Network, x: Tensor, mean: Tensor | None, std: Tensor | None) -> Tensor:
    """Logits of images, which a model that writes to its input leaves as they are."""
    given = x.clone()
    if mean is not None and std is not None:
        shape = (1, -1, *[1] * (x.ndim - 2))
        given = (given - mean.view(shape)) / std.view(shape)
    given = given.to(network.input_dtype)
    try:
        return network(given)
    except InputWritten:  # from now on the model is given copies
        return _forward(network, x, mean, std)


@contextmanager
def arena(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    target: Tensor | None,
    sample_ids: Tensor | None,
    eps: float | Tensor,
    norm: str,
    bounds: tuple[float, float],
    normalize: tuple[PerChannel, PerChannel] | None,
    amp: torch.dtype | None,
    gradient: str,
    seed: int,
    engine: str,
    engine_check: str,
    chunk_size: int | None,
    check: bool,
) -> Iterator[Arena]:
    """Check all arguments, freeze the model, and look at the images as they are.

    Raises:
        ValueError, TypeError, RuntimeError: as :func:`fairtat.fast_pgd`.
    """
    check_call(model)
    check_may_stop_early(model)
    check_choice("gradient", gradient, GRADIENTS)
    check_choice("norm", norm, NORMS)
    options = PGDOptions.named(
        {
            "eps": eps, "norm": norm, "bounds": bounds, "normalize": normalize, "amp": amp, "seed": seed,
            "engine": engine, "engine_check": engine_check, "chunk_size": chunk_size, "check": check,
        },
        targeted=target is not None,
    )  # fmt: skip
    batch = make_batch(
        x, y if target is None else target, options, y=None if target is None else y, sample_ids=sample_ids
    )
    images = batch.x
    eps_n = images.new_full((len(images),), batch.eps) if batch.eps_n is None else batch.eps_n
    ids = torch.arange(len(images), device=images.device) if batch.sample_ids is None else batch.sample_ids
    size = chunk_size or max(1, len(images))
    with (
        frozen(model, "eval") as state,
        own_random_numbers(state.model, "eval", tuple(state.settings), images, seed),
        torch.enable_grad(),
    ):
        exact = Network(state, images, amp=None, normalized=normalize is not None)
        network = exact if amp is None else Network(state, images, amp=amp, normalized=normalize is not None)
        if gradient == "ste":
            network = network.calling(straight_through(network.model))
        if gradient == "ste":
            engine = "eager"
        elif engine == "auto" and not countable(model, images.device):
            engine = settled(engine, images.device)
        count = OperationCount() if engine == "auto" and images.device.type == "cpu" else None
        first, *others = images.split(size)
        with torch.no_grad():
            with count or nullcontext():
                looks = [_forward(exact, first, batch.mean, batch.std)]
            logits = torch.cat([*looks, *(_forward(exact, part, batch.mean, batch.std) for part in others)])
        batch.check_classes(logits.shape[1], options)
        yield Arena(
            network=network,
            exact=exact,
            x=images,
            y=y.detach().long(),
            target=None if target is None else batch.goal,
            eps=eps_n,
            ids=ids,
            mean=batch.mean,
            std=batch.std,
            lo=float(bounds[0]),
            hi=float(bounds[1]),
            norm=norm,
            seed=seed,
            amp=amp,
            engine=engine,
            engine_check=engine_check,
            chunk_size=size,
            logits=logits,
            operations=0.0 if count is None else count.total / max(1, len(first)),
        )
