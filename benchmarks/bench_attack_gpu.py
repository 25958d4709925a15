"""A whole targeted PGD-10 on a GPU, by precision: fairtat beside the bare model in a CUDA graph, and beside peers.

The floor is the bare model: K x (forward + gradient to the input) with frozen parameters as one CUDA graph at the
same precision. fp32 is without TF32; tf32 is what PyTorch does for convolutions by default. 'won' and 'lost' count
samples whose outcome differs from the textbook loop's in float32.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import bench_attack
import peers
import torch
import torch.nn.functional as F
from bench_attack import CLASSES, EPS, STEP_SIZE, STEPS, Workload
from harness import Benchmark, Case, CaseSpec, Contestant, Entrant, Mismatch, Outcome, Settings, Target, Verify, gpu
from torch import Tensor, nn

import fairtat
from fairtat import models
from fairtat.attacks import EngineFallback

MOST_LOSS = 0.05  # relative, of the mean target loss, whatever the precision
MOST_SUCCESS = 0.005
SIGMAS = 3.0
IMAGE_BATCHES = 4  # that an attack may need beside the bare model's pass


@dataclass(frozen=True)
class Precision:
    """How a model's passes are computed."""

    name: str
    amp: torch.dtype | None = None
    channels_last: bool = False
    tf32: bool = False

    def autocast(self, device: str) -> AbstractContextManager[object]:
        return nullcontext() if self.amp is None else torch.autocast(device, dtype=self.amp)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Sets what PyTorch keeps globally, and puts it back."""
        before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.tf32
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


FP32 = Precision("fp32")
TF32 = Precision("tf32", tf32=True)  # what PyTorch does for convolutions unless it is told otherwise
BF16 = Precision("bf16", torch.bfloat16)
BF16_LAST = Precision("bf16 channels_last", torch.bfloat16, channels_last=True)


def bare_name(p: Precision) -> str:
    return f"bare model, {p.name}"


def graph_name(p: Precision) -> str:
    return f"fairtat graph, {p.name}"


def eager_name(p: Precision) -> str:
    return f"fairtat eager, {p.name}"


def peer_name(p: Precision) -> str:
    return f"torchattacks, {p.name}"


def published_name(p: Precision) -> str:
    return f"published loop, {p.name}"


class GpuWorkload(Workload):
    """A workload that knows a vision transformer, and hands out models and images as a precision wants them."""

    def __init__(self, name: str, shape: tuple[int, int, int, int], settings: Settings) -> None:
        self.device = settings.device
        if settings.rehearsal:
            name, shape = "digits_cnn", (16, shape[1], 8, 8)
        super().__init__(name, shape, rate=5e-3 if settings.rehearsal else 5e-4, train=False, device=self.device)

    def build(self, name: str, channels: int, size: tuple[int, int]) -> nn.Module:
        return vision_transformer(size) if name == "vit" else super().build(name, channels, size)

    def model_for(self, p: Precision) -> nn.Module:
        model = self.own_model()
        return model.to(memory_format=torch.channels_last) if p.channels_last else model  # type: ignore[call-overload]

    def images_for(self, p: Precision) -> Tensor:
        return self.x.contiguous(memory_format=torch.channels_last) if p.channels_last else self.x

    def reached(self, x_adv: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.judge(x_adv)
        return logits.argmax(1) == self.target


def vision_transformer(size: tuple[int, int]) -> nn.Module:
    """A small ViT on patches of 4 x 4: timm's, or torchvision's where timm is not installed."""
    if importlib.util.find_spec("timm") is not None:
        return models.build("timm:vit_small_patch16_224", CLASSES, 3, size, patch_size=4)
    from torchvision.models import VisionTransformer

    model: nn.Module = VisionTransformer(
        image_size=size[0], patch_size=4, num_layers=12, num_heads=6, hidden_dim=384, mlp_dim=1536, num_classes=CLASSES
    )
    return model


def bare_pass(work: GpuWorkload, p: Precision) -> Callable[[], object]:
    """One forward and one backward to the input, parameters frozen, the gradient at the logits given."""
    model, x = work.model_for(p).requires_grad_(False), work.images_for(p)
    dlogits = torch.softmax(work.logits, 1) - F.one_hot(work.target, CLASSES)

    def run() -> object:
        leaf = x.detach().requires_grad_()
        with p.autocast(work.device):
            logits = model(leaf)
        return torch.autograd.grad(logits, leaf, dlogits.to(logits.dtype))

    return run


def bare(work: GpuWorkload, p: Precision) -> Entrant:
    """The floor: K of these passes as one CUDA graph."""
    once = bare_pass(work, p)

    def run() -> None:
        for _ in range(STEPS):
            once()

    with p():
        return Entrant(gpu.captured(run, work.device))


def attack_of(work: GpuWorkload, p: Precision, engine: str) -> Callable[[], Tensor]:
    model, x = work.model_for(p), work.images_for(p)
    attack = fairtat.TargetedPGD(
        model, eps=EPS, step_size=STEP_SIZE, steps=STEPS, init="zero", seed=0, amp=p.amp, check=False,
        engine=engine if work.device == "cuda" else "eager",
    )  # fmt: skip

    def run() -> Tensor:
        with p():
            return attack(x, work.target, return_info=False)

    return run


@contextmanager
def no_fallback() -> Iterator[None]:
    """An engine that gives way to another would be timed under a wrong name."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", EngineFallback)
        yield


def ours(work: GpuWorkload, p: Precision, engine: str) -> Entrant:
    run = attack_of(work, p, engine)

    def outcome() -> Outcome:
        with no_fallback():
            return {"x_adv": run()}

    return Entrant(run, outcome)


def theirs(work: GpuWorkload, p: Precision, make: Callable[[peers.Problem], peers.Attack]) -> Entrant:
    attack = make(peers.Problem(work.model_for(p), work.images_for(p), work.target, CLASSES, EPS, STEP_SIZE, STEPS))

    def run() -> Tensor:
        with p(), p.autocast(work.device):
            return attack()

    return Entrant(run, lambda: {"x_adv": run()})


def as_strong_as(work: GpuWorkload, expected: Tensor) -> Verify:
    """In the ball, with the textbook loop's loss, and as many samples won as lost against it.

    Rounding moves single samples of a deep network either way. What tells a weaker attack is that the moves are
    one-sided: the difference of both counts beyond half a point and three of its standard deviations.
    """
    loss, _ = work.strength(expected)
    clean_loss, _ = work.strength(work.x)
    if not loss < 0.95 * clean_loss:
        raise RuntimeError(f"this model tells no attacks apart: target loss {clean_loss:.3f} before, {loss:.3f} after")
    hit = work.reached(expected)

    def verify(contestant: str, outcome: Outcome) -> dict[str, float]:
        x_adv = outcome["x_adv"].float()
        if float((x_adv - work.x).abs().max()) > EPS + 1e-6 or float(x_adv.min()) < 0.0 or float(x_adv.max()) > 1.0:
            raise Mismatch("x_adv leaves the ball or the bounds")
        its_loss, its_success = work.strength(x_adv)
        if abs(its_loss - loss) > MOST_LOSS * loss:
            raise Mismatch(f"mean target loss is {its_loss:.4f}, expected {loss:.4f}")
        its_hit = work.reached(x_adv)
        won, lost = int((its_hit & ~hit).sum()), int((hit & ~its_hit).sum())
        allowed = max(MOST_SUCCESS * len(hit), 1.0, SIGMAS * (won + lost) ** 0.5)
        if abs(won - lost) > allowed:
            raise Mismatch(f"{won} samples won and {lost} lost of {len(hit)}: not the same strength")
        return {"target_loss": its_loss, "success": its_success, "won": won, "lost": lost}

    return verify


def memory(work: GpuWorkload, precisions: tuple[Precision, ...]) -> Callable[[Mapping[str, Entrant]], dict[str, Any]]:
    """Peak memory of an attack from its capture on, beside a bare pass and four batches of images."""

    def observe(entrants: Mapping[str, Entrant]) -> dict[str, Any]:
        return {f"memory, {p.name}": facts for p in precisions if (facts := _peaks(work, p)) is not None}

    return observe


def _peaks(work: GpuWorkload, p: Precision) -> dict[str, Any] | None:
    attack, once = attack_of(work, p, "graph"), bare_pass(work, p)
    with p():
        attack_bytes, pass_bytes = gpu.peak_bytes(attack, work.device), gpu.peak_bytes(once, work.device)
    if attack_bytes is None or pass_bytes is None:
        return None
    allowed = pass_bytes + IMAGE_BATCHES * work.x.numel() * work.x.element_size()
    return {
        "attack_mib": round(attack_bytes / 2**20, 1),
        "bare_pass_mib": round(pass_bytes / 2**20, 1),
        "allowed_mib": round(allowed / 2**20, 1),
        "met": attack_bytes <= allowed,
    }


def build(name: str, shape: tuple[int, int, int, int], *, whole: bool) -> Callable[[Settings], Case]:
    """``whole``: every precision; else the fastest one and what it is compared with."""
    ours_in = (FP32, BF16, BF16_LAST) if whole else (BF16_LAST,)
    peers_in = (FP32, TF32, BF16, BF16_LAST) if whole else (FP32, BF16_LAST)
    published_in = (FP32, TF32) if whole else (TF32,)

    def case(settings: Settings) -> Case:
        if settings.device == "cuda":
            torch.backends.cudnn.benchmark = True  # for everybody
        work = GpuWorkload(name, shape, settings)
        installed = importlib.util.find_spec("torchattacks") is not None
        peer = peers.torchattacks if installed else peers.torchattacks_loop
        note = "" if installed else "re-created"
        with FP32():
            expected = peers.textbook(work.problem())()
            verify = as_strong_as(work, expected)

        def in_each(precisions: tuple[Precision, ...], make: Callable[[Precision], Contestant]) -> list[Contestant]:
            return [make(p) for p in precisions]

        return Case(
            contestants=(
                *in_each(ours_in, lambda p: Contestant(bare_name(p), "floor", lambda: bare(work, p), "a CUDA graph")),
                *in_each(ours_in, lambda p: Contestant(graph_name(p), "fairtat", lambda: ours(work, p, "graph"))),
                *in_each(ours_in[-1:], lambda p: Contestant(eager_name(p), "fairtat", lambda: ours(work, p, "eager"))),
                *in_each(peers_in, lambda p: Contestant(peer_name(p), "peer", lambda: theirs(work, p, peer), note)),
                *in_each(
                    published_in,
                    lambda p: Contestant(published_name(p), "published", lambda: theirs(work, p, peers.published)),
                ),
            ),
            baseline=bare_name(BF16_LAST),
            verify=_in_fp32(verify),
            rule=f"in the ball, target loss within {MOST_LOSS:.0%} of the textbook loop's, as many samples won as lost",
            targets=tuple(goals(ours_in, whole)),
            observe=memory(work, ours_in[-1:]),
        )

    return case


def _in_fp32(verify: Verify) -> Verify:
    """The judge is one and the same, whatever precision was set last."""

    def judged(contestant: str, outcome: Outcome) -> dict[str, float]:
        with FP32():
            return verify(contestant, outcome)

    return judged


def goals(precisions: tuple[Precision, ...], whole: bool) -> Iterator[Target]:
    for p in precisions:
        yield Target(graph_name(p), (bare_name(p),), "within", 1.03)
        yield Target(graph_name(p), (peer_name(p),), "faster", 1.5)
    yield Target(graph_name(BF16_LAST), (peer_name(FP32),), "faster", 4.0)
    yield Target(graph_name(BF16_LAST), (published_name(FP32 if whole else TF32),), "faster", 5.0)


def spec(label: str, name: str, batch: int, *, whole: bool = False, quick: bool = False) -> CaseSpec:
    case = build(name, (batch, 3, 32, 32), whole=whole)
    return CaseSpec(f"{label}, {batch}x3x32x32", case, headline=True, quick=quick, device="cuda")


BENCHMARK = Benchmark(
    name="attack_gpu",
    question="What does a targeted PGD-10 cost on a GPU beside the model passes that it needs?",
    settings=bench_attack.SETTINGS | {"dtype": "by contestant"},
    cases=(
        spec("PreActResNet-18", "preact_resnet18", 128, whole=True, quick=True),
        spec("PreActResNet-18", "preact_resnet18", 512, whole=True),
        spec("WRN-28-10", "wrn28_10", 128, quick=True),
        spec("ViT-S/4", "vit", 128),
    ),
)


def test_attack_gpu(spec: CaseSpec, compare: Callable[[CaseSpec], None]) -> None:
    compare(spec)
