"""A fingerprint tells models apart and is the same in every process."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn

from fairtat.evaluation.cache.fingerprint import fingerprint

PROGRAM = """
import functools, torch
from torch import nn
from fairtat.evaluation.cache.fingerprint import fingerprint

SCALES = {"a": (1.0, 2.0), "b": frozenset(("x", "y", "z"))}

def helper(x):
    return x * SCALES["a"][0] if "y" in {"x", "y", "z"} else x

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("hidden", torch.arange(3.0), persistent=False)
        self.tags = {"red", "green", "blue"}
        self.squash = functools.partial(torch.clamp, min=0)
        self.own = helper
        self.me = self.forward
    def forward(self, x):
        return self.linear(helper(x))

torch.manual_seed(0)
net = Net()
net.register_forward_hook(lambda module, args, output: output + 1)
traced = torch.jit.trace(nn.Linear(3, 2), torch.rand(1, 3))
print(*map(fingerprint, (net, torch.compile(net), traced)))
"""


@pytest.mark.slow
def test_it_is_the_same_in_every_process() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    (line,) = found
    assert len(set(line.split())) == 3


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(3, 2).bfloat16(),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)),
        lambda: nn.DataParallel(nn.Linear(3, 2)),
        lambda: torch.jit.script(nn.Linear(3, 2)),
        lambda: nn.LSTM(3, 2),
        lambda: nn.Linear(3, 2, device="meta"),
    ],
)
def test_models_of_every_kind_have_one(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make()
    assert fingerprint(model) == fingerprint(model)
    torch.manual_seed(0)
    assert fingerprint(make().eval()) == fingerprint(model)


def test_the_train_mode_does_not_count_but_a_sign_of_zero_does() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    torch.nn.init.zeros_(model[0].weight)  # type: ignore[arg-type]
    before = fingerprint(model)
    assert fingerprint(copy.deepcopy(model).eval()) == before
    with torch.no_grad():
        model[0].weight.neg_()  # type: ignore[operator, union-attr]
    assert fingerprint(model) != before


def test_a_cycle_among_attributes_ends() -> None:
    class Owner:
        pass

    model, owner = nn.Linear(2, 2), Owner()
    owner.model, owner.list = model, [owner]  # type: ignore[attr-defined]
    object.__setattr__(model, "owner", owner)
    before = fingerprint(model)
    owner.list.append(2)  # type: ignore[attr-defined]
    assert fingerprint(model) != before
