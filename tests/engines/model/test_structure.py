"""What counts as another model, and what a model may not do while it is traced or captured."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fairtat.engines.model.structure import ModelStructure


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
    before = ModelStructure.of(model).signature()
    assert hash(ModelStructure.of(model).signature()) == hash(before)
    change(model)
    assert (ModelStructure.of(model).signature() != before) == another


def test_anatomy_finds_each_tensor_once(h):
    model = nn.Sequential(h.cnn(), nn.Linear(4, 4), nn.Linear(4, 4))
    model[2].weight = model[1].weight
    model.add_module("again", model[0])
    anatomy = ModelStructure.of(model)
    for found, named in (
        (anatomy.modules, model.named_modules()),
        (anatomy.parameters, model.named_parameters()),
        (anatomy.buffers, model.named_buffers()),
    ):
        assert {id(v) for v in found.values()} == {id(v) for _, v in named}
        assert len(found) == len({id(v) for v in found.values()})


@pytest.mark.parametrize("what", CHANGES)
def test_what_moves_a_model(what):
    model = Scaled()
    model.table = torch.ones(2)
    before = ModelStructure.of(model).signature(addresses=True)
    assert ModelStructure.of(model).signature(addresses=True) == before
    CHANGES[what][0](model)
    moved = CHANGES[what][1] or what == "other weights of that shape"
    assert (ModelStructure.of(model).signature(addresses=True) != before) == moved
    before = ModelStructure.of(model).signature(addresses=True)
    model.table = torch.ones(2)
    assert ModelStructure.of(model).signature(addresses=True) != before


def test_what_a_forward_leaves_behind_is_named_and_undone():
    class Busy(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(2))
            self.calls, self.unused = 0, None

        def forward(self):
            self.calls += 1
            self.seen = self.seen + 1
            self.last = torch.ones(1)
            del self.unused

    model = nn.Sequential(Busy())
    seen = model[0].seen
    with ModelStructure.of(model).restored() as changed:
        model[0]()
    assert sorted(changed) == ["0.calls", "0.last", "0.seen", "0.unused"]
    assert model[0].seen is seen
    assert (model[0].calls, model[0].unused, hasattr(model[0], "last")) == (0, None, False)
    with ModelStructure.of(model).restored() as changed:
        seen.add_(1)  # in place: a graph does that too
    assert changed == []


def test_hooks_are_found():
    model = Scaled()
    assert ModelStructure.of(model).unsupported() is None
    handle = model.layer.register_forward_pre_hook(lambda *_: None)
    assert ModelStructure.of(model).unsupported() == "the hooks of layer would run only once"
    handle.remove()
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert ModelStructure.of(model).unsupported() == "global module hooks would run only once"
    handle.remove()
    assert ModelStructure.of(model).unsupported() is None


def test_whether_a_part_is_compiled():
    model = nn.Sequential(Scaled(), Scaled())
    assert not ModelStructure.of(model).compiled
    assert ModelStructure.of(nn.Sequential(torch.compile(model[0]), model[1])).compiled
    model[1].compile()
    assert ModelStructure.of(model).compiled
