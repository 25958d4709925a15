"""The kinds of model that people attack, small."""

from __future__ import annotations

import warnings
from collections import namedtuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

FLOAT64 = torch.float64


SIZE = (3, 6, 6)


N = 6


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


class Kind(namedtuple("Kind", ["make", "compiled", "graph"], defaults=(None, None))):
    """How it is made; why the compiled engine and the graph engine cannot serve it, if so."""

    @property
    def compiled_graph(self):
        return self.compiled or self.graph


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
