"""The kinds of model that people attack, on every engine and in both norms, against the textbook attack in float64."""

from __future__ import annotations

import functools
import warnings
from collections import namedtuple

import pytest
import torch
import torch.nn.functional as F
from attack_fixtures import pairwise
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import fairtat
from fairtat import fast_pgd, fast_targeted_pgd, ops
from fairtat.attacks import EngineFallback

FLOAT64 = torch.float64
SIZE = (3, 6, 6)
N = 6
LINF = {"norm": "linf", "eps": 0.1, "step_size": 0.03, "steps": 4, "seed": 0}
L2 = {**LINF, "norm": "l2", "eps": 0.8, "step_size": 0.3}
RADII = {"linf": LINF, "l2": L2}
ENGINES = ["eager", "compiled", "graph"]


class Head(nn.Module):
    """What comes before a linear classifier, made from parts."""

    def __init__(self, *layers, classes=5, features=108):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.classify = nn.Linear(features, classes)

    def body(self, x):
        return x

    def forward(self, x):
        return self.classify(torch.tanh(self.body(x)).flatten(1))


class Checkpointing(Head):
    def body(self, x):
        return checkpoint(self.layers[0], x, use_reentrant=False)


class Lstm(Head):
    def body(self, x):
        return self.layers[0](x.flatten(2).transpose(1, 2))[0][:, -1]


class Attention(Head):
    def body(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        return self.layers[0](tokens, tokens, tokens, need_weights=False)[0]


class Fourier(Head):
    def body(self, x):
        return torch.fft.rfft2(x).abs()


class StraightThrough(Head):
    def body(self, x):
        return x + (torch.round(4 * x) / 4 - x).detach()


class Bicubic(Head):
    def body(self, x):
        return F.interpolate(x, size=(9, 9), mode="bicubic", align_corners=False)


class Noise(Head):
    def body(self, x):
        return x + 0.1 * torch.randn_like(x)


class CountsInABuffer(Head):
    def __init__(self, *layers, **options):
        super().__init__(*layers, **options)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def body(self, x):
        self.calls += 1
        return x


class Branches(Head):
    def body(self, x):
        return 2 * x if x.sum() > 1e6 else torch.sin(3 * x)


class TopK(Head):
    def body(self, x):
        return x.flatten(1).topk(20).values


class AlwaysDropsOut(Head):
    def body(self, x):
        return F.dropout(x, 0.3, training=True)


class ChannelsLast(Head):
    """Images are (N, H, W, C)."""

    def body(self, x):
        return self.layers[0](x.permute(0, 3, 1, 2))


class InPlace(Head):
    def body(self, x):
        return x.sub_(0.4).div_(0.25)


class InPlaceUnseen(Head):
    """As code from before PyTorch 0.4 does it: autograd neither objects nor counts."""

    def body(self, x):
        x.data.sub_(0.4)
        return 4 * x


class InPlaceAside(Head):
    def body(self, x):
        with torch.no_grad():
            x -= 0.4
        return 4 * x


class Plain(Head):
    def body(self, x):
        return self.layers[0](x)


def conv(*more):
    return nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), *more)


def exported():
    return torch.export.export(Plain(conv()).double().eval(), (torch.rand(N, *SIZE, dtype=FLOAT64),)).module()


def traced():
    return torch.jit.trace(Plain(conv()).double().eval(), torch.rand(N, *SIZE, dtype=FLOAT64))


SCRIPT = "is TorchScript, which runs in an interpreter of its own"
UNTRACED = "cannot be traced and compiled"
FINISHED = ("exported", "traced", "scripted and frozen")  # in a dtype and a mode, for good

# How it is made; why the compiled engine and the graph engine cannot serve it, if so.
Kind = namedtuple("Kind", ["make", "compiled", "graph"], defaults=(None, None))
EXACT = {
    "checkpointing": Kind(lambda: Checkpointing(conv()), compiled=UNTRACED),  # as it runs forward once more, backwards
    "lstm": Kind(lambda: Lstm(nn.LSTM(3, 8, batch_first=True), features=8), compiled=UNTRACED),
    "attention": Kind(lambda: Attention(nn.MultiheadAttention(3, 1, batch_first=True))),
    "fft": Kind(lambda: Fourier(features=72)),
    "straight-through": Kind(StraightThrough),
    "bicubic": Kind(lambda: Bicubic(features=243)),
    "counters in buffers": Kind(CountsInABuffer),
    "branches": Kind(Branches, compiled=UNTRACED),
    "top-k": Kind(lambda: TopK(features=20)),
    "spectral norm": Kind(lambda: Plain(parametrizations.spectral_norm(nn.Conv2d(3, 3, 3, padding=1)))),
    "weight norm": Kind(lambda: Plain(parametrizations.weight_norm(nn.Conv2d(3, 3, 3, padding=1)))),
    "dropout": Kind(lambda: Plain(conv(nn.Dropout(0.5)))),
    "exported": Kind(exported, compiled="hooks", graph="hooks"),  # which check what it is given
    "parallel": Kind(lambda: nn.DataParallel(Plain(conv()))),
    "5,000 classes": Kind(lambda: Head(classes=5000)),
    "nhwc": Kind(lambda: ChannelsLast(conv())),
    "group norm": Kind(lambda: Plain(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)), features=64)),
    "instance norm": Kind(lambda: Plain(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.InstanceNorm2d(3)))),
    "traced": Kind(traced, compiled=SCRIPT, graph=SCRIPT),
    "scripted": Kind(lambda: torch.jit.script(Plain(conv())), compiled=SCRIPT, graph=SCRIPT),
    "scripted and frozen": Kind(
        lambda: torch.jit.freeze(torch.jit.script(Plain(conv()).double().eval())), compiled=SCRIPT, graph=SCRIPT
    ),
    "scripted in part": Kind(
        lambda: nn.Sequential(torch.jit.script(conv()), nn.Flatten(), nn.Linear(108, 5)), compiled=SCRIPT, graph=SCRIPT
    ),
    "in place": Kind(InPlace),
    "in place, aside": Kind(InPlaceAside),
    "in place, unseen": Kind(InPlaceUnseen),
}


DRAWING = {
    "noise": Kind(Noise, graph="draws random numbers"),
    "dropout that stays on": Kind(AlwaysDropsOut, graph="draws random numbers"),
}


def model_of(kind):
    """A model of a kind, the same each time but for what engines keep with it."""
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.manual_seed(0)
        made = {**EXACT, **DRAWING}[kind].make()
        return made if kind in FINISHED else made.double().eval()


def scene(kind):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(N, *SIZE, generator=generator, dtype=FLOAT64)
    y = torch.randint(5, (N,), generator=generator)
    return x.permute(0, 2, 3, 1).contiguous() if kind == "nhwc" else x, y, (y + 1) % 5


def tensors(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if name != "calls"}


@functools.cache
def expected(h, kind, norm):
    """The textbook attack, which hands out copies."""
    (x, _, target), model = scene(kind), model_of(kind)
    options = {key: value for key, value in RADII[norm].items() if key != "seed"}
    start = ops.pgd_init(x, options["eps"], seed=0, norm=norm)
    return h.textbook_pgd(lambda images: model(images.clone()), start, x, target, **options)


@pytest.fixture
def stand_ins(compiles, recorded):
    """Programs run as they were traced and graphs as they were recorded, which takes neither a compiler nor a GPU."""


def attacked(kind, engine, model, x, target, **options):
    """Two attacks in a row; at most the first one says that the engine cannot serve this kind, where it cannot."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = [fast_targeted_pgd(model, x, target, engine=engine, **options) for _ in range(2)]
    told = [str(w.message) for w in caught if issubclass(w.category, EngineFallback)]
    reason = getattr({**EXACT, **DRAWING}[kind], engine, None)
    assert len(told) == (reason is not None)
    assert reason is None or reason in told[0]
    return results


@pytest.mark.parametrize(("kind", "engine", "norm"), pairwise(list(EXACT), ENGINES, ["linf", "l2"]))
def test_every_kind_on_every_engine(h, stand_ins, kind, norm, engine):
    model, (x, _, target) = model_of(kind), scene(kind)
    before, given = tensors(model), x.clone()
    for x_adv in attacked(kind, engine, model, x, target, backend="reference", **RADII[norm]):
        torch.testing.assert_close(x_adv, expected(h, kind, norm), rtol=0, atol=1e-9)
    assert torch.equal(x, given)
    assert h.same(tensors(model), before)


@pytest.mark.parametrize("engine_check", ["first", "off"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", DRAWING)
def test_what_draws_random_numbers_is_repeatable_and_attacked(h, stand_ins, company, kind, engine, engine_check):
    model, (x, _, target), state = model_of(kind), scene(kind), torch.get_rng_state()
    options = {"backend": "reference", "engine_check": engine_check, **LINF}
    first, second = attacked(kind, engine, model, x, target, **options)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert (first - x).abs().max() <= 0.1 + 1e-12

    def loss(images):
        torch.manual_seed(0)
        return F.cross_entropy(model(images.repeat(200, 1, 1, 1)), target.repeat(200)).item()

    start = ops.pgd_init(x, 0.1, seed=0)
    gained = loss(start) - loss(first)
    still = copy_without_draws(model)
    best = h.textbook_pgd(still, start, x, target, eps=0.1, step_size=0.03, steps=4)
    assert gained > 0.5 * (loss(start) - loss(best)) > 0


def copy_without_draws(model):
    still = Head().double()
    still.load_state_dict(model.state_dict())
    return still


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_weights_in_bfloat16(h, stand_ins, norm, engine):
    (x, _, target), options = scene("dropout"), RADII[norm]
    model = model_of("dropout").bfloat16()
    x = x.float()
    x_adv = fast_targeted_pgd(model, x, target, engine=engine, backend="reference", **options)
    assert x_adv.dtype == torch.float32
    exact = model_of("dropout")
    exact.load_state_dict(model.state_dict())
    plain = {key: value for key, value in options.items() if key != "seed"}
    start = ops.pgd_init(x, options["eps"], seed=0, norm=norm).double()
    best = h.textbook_pgd(exact, start, x.double(), target, **plain)

    def loss(images):
        return F.cross_entropy(exact(images.double()), target).item()

    assert loss(start) - loss(x_adv) > 0.8 * (loss(start) - loss(best)) > 0


@pytest.mark.parametrize("engine", ENGINES)
def test_what_returns_a_tuple_is_told_what_to_do(stand_ins, engine):
    class Tuple(Head):
        def forward(self, x):
            return super().forward(x), x

    x, _, target = scene("tuple")
    with pytest.raises(TypeError, match=r"got tuple; fairtat\.logits\.select\(model, index or key\) picks them"):
        fast_targeted_pgd(Tuple().double(), x, target, engine=engine, **LINF)


@pytest.mark.parametrize("engine", ENGINES)
def test_one_logit_has_no_other_class(stand_ins, engine):
    model, (x, y, _) = Head(classes=1).double(), scene("one logit")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"must be below the model's 1 classes"):
            fast_pgd(model, x, y.clamp(min=1), engine=engine, **LINF)
    with pytest.raises(ValueError, match="needs at least 2 classes, the model has 1"):
        fast_pgd(model, x, y * 0, engine=engine, loss="margin", **LINF)
    result = fast_pgd(model, x, y * 0, engine=engine, backend="reference", return_info=True, **LINF)
    assert result.loss.tolist() == [0] * N  # the one class is certain
    assert result.zero_grad.tolist() == [4] * N


# What is given


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["in place", "in place, aside", "in place, unseen"])
@pytest.mark.parametrize(
    "options",
    [
        {"return_info": True},
        {"restarts": 2, "chunk_size": 5},
        {"early_stop": True, "return_info": True},
        {"init": "zero", "steps": 0, "return_info": True},
        {"normalize": ((0.5,) * 3, (0.5,) * 3)},
    ],
    ids=str,
)
def test_a_model_may_write_to_what_it_is_given(stand_ins, kind, engine, options):
    class Copies(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x.clone())

    model, (x, _, target) = model_of(kind), scene(kind)
    given = x.clone()
    options = {**LINF, **options, "backend": "reference"}
    wanted = fast_targeted_pgd(Copies(model), x, target, engine="eager", **options)
    for _ in range(2):
        result = fast_targeted_pgd(model, x, target, engine=engine, **options)
        pairs = (
            [(result, wanted)]
            if isinstance(result, torch.Tensor)
            else zip(vars(result).values(), vars(wanted).values(), strict=True)
        )
        for ours, theirs in pairs:
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
    assert torch.equal(x, given)


def test_a_function_may_too():
    model, (x, _, target) = model_of("in place"), scene("in place")
    x_adv = fast_targeted_pgd(lambda images: model(images), x, target, **LINF)
    assert torch.equal(x_adv, fast_targeted_pgd(lambda images: model(images.clone()), x, target, **LINF))


def test_other_models_are_given_the_images_themselves():
    seen = []

    class Looking(Head):
        def body(self, x):
            seen.append(x.data_ptr())
            return x

    x, _, target = scene("plain")
    model = Looking().double()
    for _ in range(2):
        seen.clear()
        x_adv = fast_targeted_pgd(model, x, target, engine="eager", return_info=True, **LINF).x_adv
        assert set(seen) == {x_adv.data_ptr()}


@pytest.mark.parametrize("kind", ["traced", "scripted", "scripted and frozen", "in place"])
def test_they_are_evaluated(kind):
    torch.manual_seed(0)
    plain = InPlace() if kind == "in place" else Plain(conv()).eval()
    x = torch.rand(40, *SIZE)
    y = plain(x.clone()).argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = {
            "in place": lambda: plain,
            "traced": lambda: torch.jit.trace(plain, x),
            "scripted": lambda: torch.jit.script(plain),
            "scripted and frozen": lambda: torch.jit.freeze(torch.jit.script(plain)),
        }[kind]()
    settings = {
        "attacks": ["pgd-2", "square-10"],
        "eps": 0.02 if kind == "in place" else 0.3,
        "batch_size": 15,
        "check_sanity": True,
    }
    result = fairtat.evaluate(model, x, y, **settings)
    expected = fairtat.evaluate(lambda images: plain(images.clone()), x, y, **settings)
    averages = [condition.figures.average for condition in result.conditions]
    assert averages == [condition.figures.average for condition in expected.conditions]
    assert averages[0] == 1
    assert 0 < averages[1] < 1  # PGD finds some


@pytest.mark.parametrize("bn_mode", ["train", "train_frozen_stats"])
@pytest.mark.parametrize("kind", ["traced", "scripted", "scripted and frozen"])
def test_of_torchscript_batch_statistics_are_refused(kind, bn_mode):
    model, (x, _, target) = model_of(kind), scene(kind)
    with pytest.raises(ValueError, match=f"bn_mode='{bn_mode}' cannot reach BatchNorm inside TorchScript"):
        fast_targeted_pgd(model, x, target, bn_mode=bn_mode, **LINF)


# Inductor


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["attention", "fft", "bicubic", "top-k", "in place"])
def test_inductor_serves_what_is_unusual(h, kind):
    model, (x, _, target) = model_of(kind), scene(kind)
    for x_adv in attacked(kind, "compiled", model, x, target, **L2):
        torch.testing.assert_close(x_adv, expected(h, kind, "l2"), rtol=0, atol=1e-9)
