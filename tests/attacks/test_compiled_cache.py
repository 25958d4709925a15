"""Which program serves a batch, what counts as another model, and when all of it goes."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from fairtat.attacks.compiled_cache import MOST_FAMILIES, MOST_SIZES, Anatomy, Family, Record, record_of


def served(sizes):
    """For each batch size in turn: which size of program serves it, all that were asked for being built."""
    family, answers = Family(), []
    for n in sizes:
        size = family.size_for(n)
        answers.append(size)
        if size == n:
            family.add(n, object())
    return answers


@pytest.mark.parametrize(
    ("sizes", "answers"),
    [
        ([128, 128, 100, 128, 128, 100], [128, 128, 128, 128, 128, 128]),  # the last batch of an epoch is padded
        ([128, 128, 40, 128], [128, 128, None, 128]),  # or too small to be
        ([128, 40, 40, 40], [128, None, 40, 40]),  # here to stay
        ([128, 100, 100], [128, 128, 100]),
        ([2, 128, 128], [2, 128, 128]),  # a larger one always is
        ([64, 128, 50, 40], [64, 128, 64, 64]),  # the nearest
        ([64], [64]),
    ],
)
def test_a_smaller_batch_does_not_compile_unless_it_stays(sizes, answers):
    assert served(sizes) == answers


def test_programs_and_families_are_bounded():
    family = Family()
    for n in range(10):
        family.add(n, object())
    assert list(family.programs) == list(range(10 - MOST_SIZES, 10))
    record = Record()
    first = record.family("first", "model")
    for settings in range(MOST_FAMILIES - 1):
        record.family(settings, "model")
    assert record.family("first", "model") is first
    record.family("one more", "model")
    assert len(record.families) == MOST_FAMILIES
    assert "first" in record.families
    assert 0 not in record.families


def test_another_model_starts_anew_unless_it_was_found_unfit():
    record = Record()
    fit, unfit = record.family("a", "model"), record.family("b", "model")
    unfit.unfit = "its forward counts its calls"
    assert record.family("a", "another") is not fit
    assert record.family("b", "another") is unfit


def test_a_record_goes_with_its_model(h):
    model = h.cnn()
    record = weakref.ref(record_of(model))
    assert record_of(model) is record()
    del model
    gc.collect()
    assert record() is None


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.scale = 2.0
        self.sizes = (1, [2])
        self.activation = torch.relu

    def forward(self, x):
        return self.activation(self.layer(x.flatten(1))) * self.scale


def weights(m):
    with torch.no_grad():
        m.layer.weight.mul_(2)


CHANGES = {
    "weights": (weights, False),
    "gradients": (lambda m: m(torch.rand(2, 4)).sum().backward(), False),
    "other weights of that shape": (lambda m: setattr(m.layer, "weight", nn.Parameter(torch.rand(3, 4))), False),
    "a number": (lambda m: setattr(m, "scale", 3.0), True),
    "its type": (lambda m: setattr(m, "scale", 2), True),
    "a function": (lambda m: setattr(m, "activation", torch.tanh), True),
    "a shape": (lambda m: setattr(m, "layer", nn.Linear(4, 5)), True),
    "a dtype": (lambda m: m.double(), True),
    "a layer": (lambda m: setattr(m, "layer", nn.Sequential(nn.Linear(4, 3))), True),
    "the bias": (lambda m: setattr(m.layer, "bias", None), True),
    "a mode": (lambda m: m.eval(), True),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_makes_it_another_model(what):
    change, another = CHANGES[what]
    model = Scaled()
    before = Anatomy.of(model).signature()
    assert hash(Anatomy.of(model).signature()) == hash(before)
    change(model)
    assert (Anatomy.of(model).signature() != before) == another


def test_anatomy_finds_each_tensor_once(h):
    model = nn.Sequential(h.cnn(), nn.Linear(4, 4), nn.Linear(4, 4))
    model[2].weight = model[1].weight
    model.add_module("again", model[0])
    anatomy = Anatomy.of(model)
    for found, named in (
        (anatomy.modules, model.named_modules()),
        (anatomy.parameters, model.named_parameters()),
        (anatomy.buffers, model.named_buffers()),
    ):
        assert {id(v) for v in found.values()} == {id(v) for _, v in named}
        assert len(found) == len({id(v) for v in found.values()})
