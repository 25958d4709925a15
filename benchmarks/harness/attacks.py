"""Whole targeted PGD-10s: models to attack, the precisions of their passes, contestants, and the proof of strength."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.backends import cudnn

import fairtat
from fairtat import models
from fairtat.attacks import EngineFallback
from harness import peers
from harness.case import Case, Entrant, Outcome, Settings, Verify, answers
from harness.equality import Mismatch, in_ball
from harness.runner import captured
from harness.torchvision_beside_cpu import make_importable

CLASSES, STEPS = 10, 10
EPS, STEP_SIZE = 8 / 255, 2 / 255
FIT_STEPS = 20
CONTRAST, NOISE = 0.2, 0.1  # of the images' class patterns: low enough that 8/255 can turn some of them
L2_EPS, L2_STEP = 0.5, 0.1
SETTINGS: dict[str, Any] = {"eps": "8/255", "step_size": "2/255", "steps": STEPS, "start": "the clean image"}


@dataclass(frozen=True)
class Precision:
    """How a model's passes are computed."""

    name: str
    amp: torch.dtype | None = None
    channels_last: bool = False
    tf32: bool = False

    def autocast(self, device: str) -> AbstractContextManager[object]:
        return nullcontext() if self.amp is None else torch.autocast(device, dtype=self.amp)

    def model(self, model: nn.Module) -> nn.Module:
        """A copy in this memory format."""
        own = copy.deepcopy(model)
        return own.to(memory_format=torch.channels_last) if self.channels_last else own  # type: ignore[call-overload]

    def images(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Sets what PyTorch keeps globally, and puts it back."""
        before, cudnn.allow_tf32 = cudnn.allow_tf32, self.tf32
        try:
            yield
        finally:
            cudnn.allow_tf32 = before


FP32 = Precision("fp32")
TF32 = Precision("tf32", tf32=True)  # what PyTorch does for convolutions unless it is told otherwise
BF16 = Precision("bf16", torch.bfloat16)
BF16_LAST = Precision("bf16 channels_last", torch.bfloat16, channels_last=True)


class Workload:
    """A model that has learned a little, so that an attack has something to do, and a batch for it.

    A deep network that is fitted at a high ``rate`` is chaotic: one flipped sign turns a sixth of the pixels.
    """

    def __init__(
        self, settings: Settings, name: str, shape: tuple[int, int, int, int], rate: float = 5e-3,
        norm: peers.Norm = "linf", steps: int = STEPS,
    ) -> None:  # fmt: skip
        self.norm, self.steps = norm, steps
        self.eps, self.step_size = (EPS, STEP_SIZE) if norm == "linf" else (L2_EPS, L2_STEP)
        self.device, self.on_gpu = settings.place, settings.device == "cuda"
        if settings.rehearsal:
            name, shape, rate = "digits_cnn", (16, shape[1], 8, 8), 5e-3
        cudnn.benchmark = True  # for every contestant; on a GPU only
        torch.manual_seed(0)
        n, channels, height, width = shape
        options: dict[str, Any] = {}
        if name.startswith("timm:vit"):
            make_importable()
            # Its patches see little but the mean brightness of images that are not centered, and then no attack.
            options = {"patch_size": 4, "mean": [0.5] * channels, "std": [0.1] * channels}
        self.model = models.build(name, CLASSES, channels, (height, width), **options).to(self.device)
        prototypes = torch.rand(CLASSES, *shape[1:])
        y = torch.randint(CLASSES, (n,))
        x = (0.5 + CONTRAST * (prototypes[y] - 0.5) + NOISE * torch.randn(shape)).clamp_(0.0, 1.0)
        target = (y + torch.randint(1, CLASSES, (n,))) % CLASSES
        self.x, self.target = x.to(self.device), target.to(self.device)
        self._fit(y.to(self.device), rate)
        self.model.eval()
        self.judge = copy.deepcopy(self.model).requires_grad_(False)

    def _fit(self, y: Tensor, rate: float) -> None:
        optimizer = torch.optim.Adam(self.model.parameters(), lr=rate)
        self.model.train()
        for _ in range(FIT_STEPS):
            optimizer.zero_grad()
            F.cross_entropy(self.model(self.x), y).backward()
            optimizer.step()
        optimizer.zero_grad()

    def problem(self, p: Precision = FP32) -> peers.Problem:
        return peers.Problem(
            p.model(self.model), p.images(self.x), self.target, CLASSES, self.eps, self.step_size, self.steps, self.norm
        )

    def logits(self, x: Tensor) -> Tensor:
        """(N, C) of the judge, always in float32."""
        with torch.no_grad(), FP32():
            logits: Tensor = self.judge(x)
        return logits

    @cached_property
    def textbook(self) -> Tensor:
        """x_adv of the textbook loop, by which all are judged."""
        with FP32():
            return peers.textbook(self.problem())()

    @cached_property
    def rounding(self) -> float:
        """The share of pixels that float64 puts elsewhere.

        A deep network amplifies rounding from step to step, in any implementation; this is what it amounts to here.
        """
        problem = self.problem()
        exact = dataclasses.replace(problem, model=problem.model.double(), x=problem.x.double())
        return self.differing(peers.textbook(exact)().float(), self.textbook)

    def differing(self, x_adv: Tensor, expected: Tensor) -> float:
        """The share of pixels, in L2 of images, that is more than half a step away."""
        off = (x_adv - expected).abs()
        off = off if self.norm == "linf" else off.flatten(1).norm(dim=1)
        return float((off > self.step_size / 2).float().mean())


def case(
    label: str, name: str, shape: tuple[int, int, int, int], *, rate: float = 5e-3, norm: peers.Norm = "linf",
    steps: int = STEPS, **about: Any,
) -> Case[Workload]:  # fmt: skip
    return Case(
        label, lambda settings, seed: Workload(settings, name, shape, rate, norm, steps), headline=True, **about
    )


def bare(work: Workload, p: Precision = FP32) -> Entrant:
    """The floor: K forwards and K backwards to the input, parameters frozen, and nothing in between.

    On a GPU all of them are one CUDA graph.
    """
    model, x = p.model(work.model).requires_grad_(False), p.images(work.x)
    dlogits = torch.softmax(work.logits(work.x), 1) - F.one_hot(work.target, CLASSES)

    def run() -> None:
        for _ in range(work.steps):
            leaf = x.detach().requires_grad_()
            with p.autocast(work.device):
                logits = model(leaf)
            torch.autograd.grad(logits, leaf, dlogits.to(logits.dtype))

    with p():
        return Entrant(captured(run) if work.device == "cuda" else run)


def attack_with(model: Any, p: Precision, device: str, *, engine: str, **options: Any) -> fairtat.TargetedPGD:
    """fairtat's attack; where there is no GPU, the eager engine stands in for CUDA graphs."""
    options = {"eps": EPS, "step_size": STEP_SIZE, "steps": STEPS, "init": "zero", **options}
    engine = engine if device == "cuda" or "graph" not in engine else "eager"
    return fairtat.TargetedPGD(model, seed=0, amp=p.amp, engine=engine, check=device != "cuda", **options)


@contextmanager
def no_fallback() -> Iterator[None]:
    """An engine that gives way to another would be timed under a wrong name."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", EngineFallback)
        yield


def ours(
    work: Workload, p: Precision = FP32, engine: str = "eager", init: str = "zero", compile_model: bool = False
) -> Entrant:
    own: Any = p.model(work.model)
    model, x = torch.compile(own) if compile_model else own, p.images(work.x)
    about = {"eps": work.eps, "step_size": work.step_size, "steps": work.steps, "norm": work.norm}
    attack = attack_with(model, p, work.device, engine=engine, init=init, **about)

    def run() -> Tensor:
        with p():
            return attack(x, work.target, return_info=False)

    def outcome() -> Outcome:
        with no_fallback():
            return {"x_adv": run()}

    return Entrant(run, outcome)


def theirs(work: Workload, make: Callable[[peers.Problem], peers.Attack], p: Precision = FP32) -> Entrant:
    attack = make(work.problem(p))

    def run() -> Tensor:
        with p(), p.autocast(work.device):
            return attack()

    return answers("x_adv", run)


@dataclass(frozen=True)
class Like:
    """How far a correct attack may be from the textbook loop: a gradient near 0 changes its sign with a sum's order."""

    loss: float = 0.02  # relative, of the mean loss towards the target
    weaker: float = 0.005  # of the samples, lost rather than won; or one sample
    stronger: float = 0.005
    pixels: float = 0.02  # more than half a step away
    roundings: float = 0.0  # or this many times the share that float64 puts elsewhere
    sigmas: float = 0.0  # by which samples won and lost may differ: rounding moves single samples either way


ON_GPU = Like(loss=0.05, pixels=1.0, sigmas=3.0)  # whatever the precision
LOW_PRECISION = Like(loss=0.05, pixels=1.0)  # single samples go other ways, so pixels are reported and not limited


def as_strong_as(work: Workload, likes: Mapping[str, Like], default: Like) -> Verify:
    """In the ball, and the same attack as the textbook loop, by each contestant's rule."""
    expected = work.textbook
    loss, hit = strength(work, expected)
    clean_loss, _ = strength(work, work.x)
    if not loss < 0.95 * clean_loss:
        raise RuntimeError(f"this model tells no attacks apart: target loss {clean_loss:.3f} before, {loss:.3f} after")

    def verify(contestant: str, outcome: Outcome) -> dict[str, float]:
        like, x_adv = likes.get(contestant, default), outcome["x_adv"].float()
        in_ball(x_adv, work.x, work.eps, work.norm)
        its_loss, its_hit = strength(work, x_adv)
        if not abs(its_loss - loss) <= like.loss * loss:
            raise Mismatch(f"mean target loss is {its_loss:.4f}, expected {loss:.4f}")
        won, lost = int((its_hit & ~hit).sum()), int((hit & ~its_hit).sum())
        noise = max(1.0, like.sigmas * (won + lost) ** 0.5)
        if not -max(like.weaker * len(hit), noise) <= won - lost <= max(like.stronger * len(hit), noise):
            raise Mismatch(f"{won} samples won and {lost} lost of {len(hit)}: not the same strength")
        pixels = work.differing(x_adv, expected)
        if pixels > like.pixels and pixels > like.roundings * (work.rounding if like.roundings else 0.0):
            what = "pixels" if work.norm == "linf" else "images"
            raise Mismatch(f"{pixels:.1%} of the {what} differ by more than half a step")
        success = float(its_hit.float().mean())
        return {"target_loss": its_loss, "success": success, "won": won, "lost": lost, "differing_pixels": pixels}

    return verify


def strength(work: Workload, x_adv: Tensor) -> tuple[float, Tensor]:
    """Mean loss towards the target, and (N,) which samples reached it."""
    logits = work.logits(x_adv)
    return float(F.cross_entropy(logits, work.target)), logits.argmax(1) == work.target
