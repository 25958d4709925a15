"""A whole targeted PGD-10: fairtat beside the bare model, other libraries and the published loop.

The floor is the bare model: K x (forward + gradient to the input) with frozen parameters and a fixed gradient at
the logits. Every attack starts at the clean image, with the same radius, step and steps; its strength and the share
of pixels that differ from the textbook loop stand beside its time. Peers that are not installed are left out: pip
install --no-deps -r benchmarks/peers.txt
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import peers
import torch
import torch.nn.functional as F
from harness import Benchmark, Case, CaseSpec, Contestant, Entrant, Mismatch, Outcome, Settings, Target, Verify
from peers import Problem
from torch import Tensor, nn

import fairtat
from fairtat import models

CLASSES, STEPS = 10, 10
EPS, STEP_SIZE = 8 / 255, 2 / 255
FIT_STEPS = 20
CONTRAST, NOISE = 0.2, 0.1  # of the images' class patterns: low enough that 8/255 can turn some of them

BARE, FAIRTAT, TEXTBOOK, PUBLISHED = "bare model", "fairtat", "textbook loop", "published loop"
RANDOM_START, ADV_LIB = "fairtat, random start", "adv-lib"

# What two correct attacks may differ by: a gradient near 0 changes its sign with the order of a sum.
MOST_PIXELS = 0.02
MOST_LOSS = 0.02  # relative
MOST_SUCCESS = 0.005  # or one sample


class Workload:
    """A model that has learned a little, so that an attack has something to do, and a batch for it."""

    def __init__(
        self, name: str, shape: tuple[int, int, int, int], *, rate: float, train: bool, device: str = "cpu"
    ) -> None:
        torch.manual_seed(0)
        self.train = train
        n, channels, height, width = shape
        self.model = self.build(name, channels, (height, width)).to(device)
        prototypes = torch.rand(CLASSES, channels, height, width)
        y = torch.randint(CLASSES, (n,))
        x = (0.5 + CONTRAST * (prototypes[y] - 0.5) + NOISE * torch.randn(shape)).clamp_(0.0, 1.0)
        target = (y + torch.randint(1, CLASSES, (n,))) % CLASSES
        self.x, self.y, self.target = x.to(device), y.to(device), target.to(device)
        self._fit(rate)
        self.judge = copy.deepcopy(self.model).eval().requires_grad_(False)
        with torch.no_grad():
            self.logits = self.judge(self.x)

    def build(self, name: str, channels: int, size: tuple[int, int]) -> nn.Module:
        return models.build(name, CLASSES, channels, size)

    def _fit(self, rate: float) -> None:
        optimizer = torch.optim.Adam(self.model.parameters(), lr=rate)
        self.model.train()
        for _ in range(FIT_STEPS):
            optimizer.zero_grad()
            F.cross_entropy(self.model(self.x), self.y).backward()
            optimizer.step()
        optimizer.zero_grad()

    def own_model(self) -> nn.Module:
        return copy.deepcopy(self.model).train(self.train)

    def problem(self) -> Problem:
        return Problem(self.own_model(), self.x, self.target, CLASSES, EPS, STEP_SIZE, STEPS)

    def strength(self, x_adv: Tensor) -> tuple[float, float]:
        """Mean loss towards the target, and the share of samples that reached it."""
        with torch.no_grad():
            logits = self.judge(x_adv)
        loss = F.cross_entropy(logits, self.target)
        return float(loss), float((logits.argmax(1) == self.target).float().mean())


def bare(work: Workload) -> Entrant:
    """The floor: K forwards and K backwards to the input, parameters frozen, and nothing in between."""
    model = work.own_model().requires_grad_(False)
    dlogits = torch.softmax(work.logits, 1) - F.one_hot(work.target, CLASSES)

    def run() -> None:
        for _ in range(STEPS):
            leaf = work.x.detach().requires_grad_()
            torch.autograd.grad(model(leaf), leaf, dlogits)

    return Entrant(run)


def ours(work: Workload, init: str) -> Entrant:
    model = work.own_model()

    def run() -> Tensor:
        return fairtat.fast_targeted_pgd(
            model, work.x, work.target, eps=EPS, step_size=STEP_SIZE, steps=STEPS, init=init, seed=0,
            bn_mode="train" if work.train else "eval",
        )  # fmt: skip

    return Entrant(run, lambda: {"x_adv": run()})


def theirs(work: Workload, make: Callable[[Problem], peers.Attack]) -> Entrant:
    attack = make(work.problem())
    return Entrant(attack, lambda: {"x_adv": attack()})


def as_strong_as(work: Workload, expected: Tensor) -> Verify:
    """Inside the ball, and the same attack as ``expected``: loss, success and all but a few pixels agree."""
    loss, success = work.strength(expected)
    clean_loss, _ = work.strength(work.x)
    if not loss < 0.95 * clean_loss:
        raise SystemExit(f"this model tells no attacks apart: target loss {clean_loss:.3f} before, {loss:.3f} after")

    def verify(contestant: str, outcome: Outcome) -> dict[str, float]:
        x_adv = outcome["x_adv"]
        if float((x_adv - work.x).abs().max()) > EPS + 1e-6 or float(x_adv.min()) < 0.0 or float(x_adv.max()) > 1.0:
            raise Mismatch("x_adv leaves the ball or the bounds")
        its_loss, its_success = work.strength(x_adv)
        pixels = float(((x_adv - expected).abs() > STEP_SIZE / 2).float().mean())
        facts = {"target_loss": its_loss, "success": its_success, "differing_pixels": pixels}
        one_sample = 1.0 / len(expected)
        if contestant == ADV_LIB:  # its images are other ones by design: only success compares, and roughly
            if its_success < success - 0.1 - one_sample:
                raise Mismatch(f"success is {its_success:.3f}, expected about {success:.3f}")
            return facts
        if abs(its_loss - loss) > (0.1 if contestant == RANDOM_START else MOST_LOSS) * loss:
            raise Mismatch(f"mean target loss is {its_loss:.4f}, expected {loss:.4f}")
        if contestant == RANDOM_START:
            return facts
        if abs(its_success - success) > max(MOST_SUCCESS, one_sample) + 1e-6:
            raise Mismatch(f"success is {its_success:.3f}, expected {success:.3f}")
        if pixels > MOST_PIXELS:
            raise Mismatch(f"{pixels:.1%} of the pixels differ by more than half a step")
        return facts

    return verify


def build(
    name: str, shape: tuple[int, int, int, int], *, rate: float = 5e-3, limit: float | None = None, train: bool = False
) -> Callable[[Settings], Case]:
    def case(settings: Settings) -> Case:
        work = Workload(name, shape, rate=rate, train=train)
        contestants = [
            Contestant(BARE, "floor", lambda: bare(work)),
            Contestant(FAIRTAT, "fairtat", lambda: ours(work, "zero")),
            Contestant(RANDOM_START, "fairtat", lambda: ours(work, "uniform"), "another start, so other pixels"),
            Contestant(TEXTBOOK, "eager", lambda: theirs(work, peers.textbook)),
            Contestant(PUBLISHED, "published", lambda: theirs(work, peers.published)),
        ]
        if not train:  # the libraries' wrappers hold the model in eval mode
            contestants += [
                Contestant("torchattacks", "peer", lambda: theirs(work, peers.torchattacks)),
                Contestant("foolbox", "peer", lambda: theirs(work, peers.foolbox), "and a forward that judges"),
                Contestant("ART", "peer", lambda: theirs(work, peers.art)),
                Contestant(ADV_LIB, "peer", lambda: theirs(work, peers.adv_lib), "returns the last success, not step"),
            ]
        goal = () if limit is None else (Target(FAIRTAT, (BARE,), "within", limit),)
        return Case(
            contestants=tuple(contestants),
            baseline=BARE,
            verify=as_strong_as(work, peers.textbook(work.problem())()),
            rule=(
                f"target loss within {MOST_LOSS:.0%}, success within half a point or one sample, at most "
                f"{MOST_PIXELS:.0%} of pixels off the textbook loop's"
            ),
            targets=goal,
        )

    return case


SETTINGS: dict[str, Any] = {
    "eps": "8/255", "step_size": "2/255", "steps": STEPS, "start": "the clean image", "dtype": "float32",
}  # fmt: skip

BENCHMARK = Benchmark(
    name="attack",
    question="What does a targeted PGD-10 cost beside the model passes that it needs?",
    settings=SETTINGS,
    cases=(
        # A deep network that was fitted too fast is chaotic: one flipped sign turns a sixth of the pixels.
        CaseSpec(
            "PreActResNet-18, 32x3x32x32",
            build("preact_resnet18", (32, 3, 32, 32), rate=5e-4, limit=1.03),
            headline=True,
        ),
        CaseSpec("MNIST CNN, 256x1x28x28", build("mnist_cnn", (256, 1, 28, 28), limit=1.10), headline=True),
        CaseSpec("digits CNN, 128x1x8x8", build("digits_cnn", (128, 1, 8, 8), limit=1.10), headline=True, quick=True),
        CaseSpec("MLP 64-128-10, 128x1x8x8", build("mlp", (128, 1, 8, 8)), headline=True),
        CaseSpec("digits CNN, train-mode BatchNorm", build("digits_cnn", (128, 1, 8, 8), train=True), quick=True),
    ),
)


def test_attack(spec: CaseSpec, compare: Callable[[CaseSpec], None]) -> None:
    compare(spec)
