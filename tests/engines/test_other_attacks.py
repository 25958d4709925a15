"""The engines serve attacks that they know nothing about: here one with momentum (MI-FGSM, arXiv:1710.06081).

Its state, the momentum, is a per-sample tensor of its own; its loss is the margin, its step plain PyTorch.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from fairtat import engines
from fairtat.engines.model.network import Network
from fairtat.engines.model.state import frozen
from fairtat.engines.samples import Samples, Score, copy_rows, empty_rows, gather
from fairtat.engines.steps import Steps

EPS, STEP, DECAY, STEPS = 0.1, 0.03, 0.9, 6
DTYPE = torch.float64  # in which engines that sum in another order agree


@dataclass(kw_only=True)
class MomentumSamples(Samples):
    x: Tensor
    y: Tensor
    momentum: Tensor
    step_size: Tensor | None = None


class Momentum(Steps[MomentumSamples]):
    number, stops_early, scored, shrinks, signs_only = STEPS, False, True, False, False
    mean = std = None
    kernels = None

    def __init__(self, network, x, y):
        self.network, self.x, self.y = network, x, y

    def begin(self, spans, x_adv=None, *, expand=False):
        given = gather({"x": self.x, "y": self.y}, spans)
        x = given["x"]
        given["step_size"] = x.new_full((len(x),), STEP) if expand else None
        into = empty_rows(x, len(x)) if x_adv is None else x_adv
        samples = MomentumSamples(
            spans=spans, in_place=x_adv is not None, x_adv=into, momentum=torch.empty_like(x), **given
        )
        self.restart(samples)
        return samples

    def room(self, size):
        x = empty_rows(self.x, size).zero_()
        y, step_size = self.y.new_zeros(size), x.new_zeros(size)
        return MomentumSamples(spans=(), x_adv=x.clone(), x=x, y=y, momentum=x.clone(), step_size=step_size)

    def fill(self, samples, spans):
        copy_rows(samples.x, self.x, spans)
        copy_rows(samples.y, self.y, spans)
        samples.step_size.fill_(STEP)
        self.restart(samples)

    def restart(self, samples):
        samples.x_adv.copy_(samples.x)
        samples.momentum.zero_()

    def score(self, logits, samples):
        z = logits.detach()
        self.classes = z.shape[1]
        pred = z.argmax(1)
        return Score(logits, margin(z, samples.y), self.logit_gradient(logits, samples), pred, pred != samples.y)

    def logit_gradient(self, logits, samples):
        z = logits.detach()
        own = torch.nn.functional.one_hot(samples.y, z.shape[1])
        other = torch.nn.functional.one_hot(z.masked_fill(own.bool(), -torch.inf).argmax(1), z.shape[1])
        return (other - own).to(z.dtype)

    def check_classes(self, classes):
        assert classes == 5

    def stop(self, samples, score):
        raise AssertionError("no sample stops early")

    def step(self, samples, grad, moving):
        assert moving is None
        with torch.no_grad():
            size = STEP if samples.step_size is None else samples.step_size.view(-1, 1, 1, 1)
            samples.momentum.mul_(DECAY).add_(grad / grad.abs().sum((1, 2, 3), keepdim=True))
            moved = samples.x_adv + size * samples.momentum.sign()
            samples.x_adv.copy_(moved.clamp(samples.x - EPS, samples.x + EPS).clamp(0, 1))

    def report(self, samples, score):
        return {"reached": score.reached, "loss": score.loss, "momentum": samples.momentum}

    def better(self, new, old):
        return new["loss"] > old["loss"]

    def rebound(self, network, mean, std, *, traceable=False):
        other = copy.copy(self)
        other.network = network
        return other

    def settings(self):
        return "momentum", self.x.shape[1:], self.x.stride()[1:]


def margin(z, y):
    own = z.gather(1, y[:, None])[:, 0]
    return z.scatter(1, y[:, None], -torch.inf).amax(1) - own


def textbook(model, x, y):
    x_adv, momentum = x.clone(), torch.zeros_like(x)
    for _ in range(STEPS):
        x_adv.requires_grad_()
        (grad,) = torch.autograd.grad(margin(model(x_adv), y).sum(), x_adv)
        momentum = DECAY * momentum + grad / grad.abs().sum((1, 2, 3), keepdim=True)
        x_adv = x_adv.detach() + STEP * momentum.sign()
        x_adv = x_adv.clamp(x - EPS, x + EPS).clamp(0, 1)
    return x_adv, momentum


def attack(model, x, y, **options):
    with frozen(model, "eval") as state, torch.enable_grad():
        network = Network(state, x, amp=None, normalized=False)
        return engines.run(Momentum(network, x, y), **options)


@pytest.mark.parametrize("chunk_size", [None, 3])
@pytest.mark.parametrize("engine", ["eager", "compiled", "graph", "compiled_graph"])
def test_an_attack_with_momentum_on_every_engine(h, compiles, stub, engine, chunk_size):
    model, (x, y, _) = h.cnn(DTYPE).eval(), h.images(7, DTYPE)
    expected, momentum = textbook(model, x, y)
    for _ in range(2):  # the second time with what the first one built
        found = attack(model, x, y, engine=engine, chunk_size=chunk_size)
        torch.testing.assert_close(found["x_adv"], expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(found["momentum"], momentum, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found["loss"], margin(model(expected), y).detach(), rtol=1e-9, atol=1e-12)
    # The last chunk of one is too small for a program of three.
    sizes = [7] if chunk_size is None else [3]
    assert compiles == (sizes if "compiled" in engine else [])
    assert stub.captures == {"graph": 2, "compiled_graph": 3}.get(engine, 0)
