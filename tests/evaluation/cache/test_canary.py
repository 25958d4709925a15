"""A kept answer is used only where the model computes what it computed then."""

from __future__ import annotations

import os
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairtat.evaluation import Evaluation, evaluate

CLASSES = 3
Change = Callable[["Model"], object]


class Gain:
    def __init__(self) -> None:
        self.value = 1.0


class Model(nn.Module):
    """A linear classifier whose logits depend on state of every kind."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(20, CLASSES, generator=generator))
        self.register_buffer("scale", torch.ones(CLASSES), persistent=False)
        self.shift = torch.zeros(CLASSES)
        self.gain = 1.0
        self.activation = "tanh"
        self.settings = {"powers": [1.0]}
        self.tuning = Gain()
        self.options = types.SimpleNamespace(bias=0.0)
        self.squash: Callable[[Tensor], Tensor] = lambda x: x

    def forward(self, x: Tensor) -> Tensor:
        if "STALE_DETACHED" in os.environ:  # the same logits, another gradient
            x = x.detach() + 0 * x
        if "STALE_SATURATED" in os.environ:  # the same logits on the images themselves
            x = x.clamp(0.05, 0.95)
        z = self.squash(x.flatten(1) @ self.weight) * self.scale + self.shift + self.options.bias
        z = z * z.new_tensor([1.0, self.gain, float(os.environ.get("STALE_GAIN", 1))]) * self.tuning.value
        if self.activation == "cos":
            z = z.cos()
        return self.tail(z.sign() * z.abs() ** self.settings["powers"][0])

    def tail(self, z: Tensor) -> Tensor:
        return z


CHANGES: dict[str, Change] = {
    "non-persistent buffer": lambda m: m.scale.__setitem__(0, 4.0),  # type: ignore[operator]
    "plain tensor": lambda m: m.shift.__setitem__(1, 2.0),
    "float": lambda m: setattr(m, "gain", -1.0),
    "str": lambda m: setattr(m, "activation", "cos"),
    "list in a dict": lambda m: m.settings["powers"].__setitem__(0, 3.0),
    "object": lambda m: setattr(m.tuning, "value", -1.0),
    "namespace": lambda m: setattr(m.options, "bias", torch.tensor([5.0, 0, 0])),
    "function": lambda m: setattr(m, "squash", lambda x: -x),
    "forward hook": lambda m: m.register_forward_hook(lambda module, args, output: -output),
    "forward pre-hook": lambda m: m.register_forward_pre_hook(lambda module, args: (1 - args[0],)),
    "forward of the object": lambda m: setattr(m, "forward", lambda x: -Model.forward(m, x)),
    "forward of the class": lambda m: setattr(m, "__class__", Flipped),
    "another method of the class": lambda m: setattr(m, "__class__", OtherTail),
}


class Flipped(Model):
    def forward(self, x: Tensor) -> Tensor:
        return -super().forward(x)


class OtherTail(Model):
    def tail(self, z: Tensor) -> Tensor:
        return z.flip(1)


# A class of the same name and place, as after an edit of its file.
for _class in (Flipped, OtherTail):
    _class.__name__, _class.__qualname__ = Model.__name__, Model.__qualname__

QUESTIONS: dict[str, Any] = {"attacks": ["pgd-3", "fgsm+cw-2"], "eps": 0.1, "batch_size": 16, "check_sanity": False}


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., Evaluation]:
    generator = torch.Generator().manual_seed(1)
    x = 0.3 + 0.4 * torch.rand(40, 1, 4, 5, generator=generator)
    with torch.no_grad():
        y = Model()(x).argmax(1)

    def call(model: nn.Module, cache: str | None = "parts", **changes: Any) -> Evaluation:
        kept = None if cache is None else tmp_path / cache
        return evaluate(model, x, y, cache=kept, **{**QUESTIONS, **changes})

    return call


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_model_that_was_changed_in_any_way_is_asked_again(ask: Callable[..., Evaluation], change: Change) -> None:
    model = Model()
    before = ask(model).to_dict()
    change(model)
    truth = ask(model, cache=None).to_dict()
    after = ask(model)
    assert {**after.to_dict(), "source": {}} == truth
    assert truth["conditions"] != before["conditions"]
    assert not after.reused


@pytest.mark.parametrize("variable", ["STALE_GAIN", "STALE_DETACHED", "STALE_SATURATED"])
def test_what_only_the_models_answers_show_is_seen(
    ask: Callable[..., Evaluation], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    # Nothing in the model tells of the environment: other logits, another gradient, other logits in the ball only.
    changes = {"eps": 0.4}
    model = Model()
    ask(model, **changes)
    monkeypatch.setenv(variable, "-2")
    truth = ask(model, cache=None, **changes)
    after = ask(model, **changes)
    assert after.condition("pgd-3").to_dict(after.class_names) == truth.condition("pgd-3").to_dict(truth.class_names)
    assert "pgd-3" not in after.reused


def test_what_was_reused_and_what_was_worked_out_is_told(ask: Callable[..., Evaluation]) -> None:
    model = Model()
    first = ask(model, attacks=["pgd-3"], check_sanity=True)
    assert (first.reused, first.worked_out) == ((), ("clean", "pgd-3", "sanity checks"))
    second = ask(model, attacks=["pgd-3", "cw-2"], check_sanity=True)
    assert (second.reused, second.worked_out) == (("clean", "pgd-3", "sanity checks"), ("cw-2",))
    assert ask(model, fresh=True).reused == ()
