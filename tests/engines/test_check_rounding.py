"""Rounding that switches units, or is most of a gradient, is told from another model; float64 is the oracle."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from torch import nn

from fairtat.attacks.batch import make_batch
from fairtat.attacks.options import PGDOptions
from fairtat.attacks.pgd_steps import PGDSteps
from fairtat.engines.check import FirstPass, Probe, _distance, _of_samples, probe
from fairtat.engines.model.network import Network
from fairtat.engines.model.state import frozen
from fairtat.engines.samples import Span


@contextlib.contextmanager
def first_pass(model, x, target, *, clean_logits=None, **more):
    named = {"eps": 0.3, "init": "zero", "steps": 1, "seed": 0, **more}
    options = PGDOptions.named(named, targeted=clean_logits is None)
    batch = make_batch(x, target, options, clean_logits=clean_logits)
    with frozen(model, "eval") as state:
        steps = PGDSteps(Network(state, batch.x, amp=None, normalized=False), batch, options, 0)
        yield FirstPass(steps, steps.begin([Span(0, slice(0, len(x)), len(x))]), ())


def textbook(model, x, target):
    """The first pass in float64; the gradient to probabilities is that of the divergence from them."""
    leaf = x.detach().double().requires_grad_()
    logits = copy.deepcopy(model).double()(leaf)
    (grad,) = torch.autograd.grad(nn.functional.cross_entropy(logits, target, reduction="sum"), leaf)
    return probe(logits.float(), grad.float())


@pytest.fixture
def kinked():
    """A network with a unit at zero, but for rounding, for each of the first 64 images."""
    torch.manual_seed(0)
    x, target = torch.rand(80, 1, 6, 6), torch.randint(5, (80,))
    first = nn.Linear(36, 64)
    with torch.no_grad():
        first.bias.copy_(-(first.weight.double() * x[:64].flatten(1).double()).sum(1))
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Linear(64, 5)), x, target


def test_units_that_rounding_switches_are_no_other_model(kinked):
    model, x, target = kinked
    with first_pass(*kinked) as first:
        found = textbook(model, x, target)
        apart = _of_samples(found, first._expected)[1]
        assert (apart > 1e-2).sum() > 5  # images whose gradient is another one
        assert (apart < 1e-5).sum() > 5
        assert first.confirms(found) is None
        assert first.confirms(first._expected) is True


@pytest.mark.parametrize("wrong", ["one image", "a weight", "logits", "not finite", "a class less"])
def test_among_units_that_rounding_switches_another_model_is_seen(kinked, wrong):
    model, x, target = kinked
    with first_pass(*kinked) as first:
        logits, gradient = textbook(model, x, target)
        usual = gradient.flatten(1).norm(dim=1)
        right = 70
        if wrong == "one image":
            gradient[right] *= 1 + 2e-3 * usual.square().mean().sqrt() / usual[right]
        elif wrong == "a weight":
            other = copy.deepcopy(model)
            with torch.no_grad():
                other[3].weight[2, 7] += 0.05
            logits, gradient = textbook(other, x, target)
        elif wrong == "logits":
            logits[right] *= 1.01
        elif wrong == "not finite":
            gradient[right, 0, 0, 0] = torch.nan
        else:
            logits = logits[:, :4]
        assert first.confirms(Probe(logits, gradient)) is False


def test_a_divergence_that_is_nearly_none_is_compared_by_its_own_roundings():
    """TRADES' at its start: probabilities less probabilities that are the same to four digits."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 64), nn.Softplus(), nn.Linear(64, 5))
    x, y = torch.rand(64, 1, 6, 6), torch.randint(5, (64,))
    clean = model(x).detach()
    p = clean.double().softmax(1)
    with first_pass(model, x, y, clean_logits=clean, loss="kl", init="normal", eps=3e-4) as first:
        start = first._samples.x_adv
        found = textbook(model, start, p)
        assert _distance(found.gradient, first._expected.gradient) > 3.5e-4
        assert first.confirms(found) is None
        assert first.confirms(textbook(model, start, p.roll(1, 1))) is False
        other = copy.deepcopy(model)
        with torch.no_grad():
            other[3].weight[2, 7] += 0.05
        assert first.confirms(textbook(other, start, p)) is False
