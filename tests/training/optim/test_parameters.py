"""Optimizers against their equations in float64; groups, frozen layers and BatchNorm in a training run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fairtat.data import load_splits
from fairtat.errors import UserError
from fairtat.models import build
from fairtat.training import TrainConfig, Trainer
from fairtat.training.config import from_dict
from fairtat.training.optim.parameters import freeze, frozen_norms, make_optimizer


def optim(**settings: Any) -> Any:
    return from_dict({"optim": settings}).optim


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, affine=False), nn.Flatten(), nn.Linear(108, 2))


def by_hand(name: str, settings: dict[str, Any], start: torch.Tensor, gradients: list[torch.Tensor]) -> torch.Tensor:
    w, lr, decay = start.double(), settings["lr"], settings["weight_decay"]
    m, u = torch.zeros_like(w), torch.zeros_like(w)
    for t, gradient in enumerate(gradients, start=1):
        g = gradient.double()
        w = w * (1 - lr * decay)
        if name == "lion":
            b1, b2 = settings.get("betas", (0.9, 0.99))
            w = w - lr * torch.sign(b1 * m + (1 - b1) * g)
            m = b2 * m + (1 - b2) * g
        else:
            b1, b2 = settings.get("betas", (0.9, 0.999))
            m, u = b1 * m + (1 - b1) * g, b2 * u + (1 - b2) * g * g
            w = w - lr * (m / (1 - b1**t)) / ((u / (1 - b2**t)).sqrt() + 1e-8)
    return w


@pytest.mark.parametrize("name", ["adamw", "lion"])
@pytest.mark.parametrize("betas", [None, [0.8, 0.95]])
def test_by_the_equation(name: str, betas: list[float] | None) -> None:
    settings: dict[str, Any] = {"lr": 0.05, "weight_decay": 0.3} | ({} if betas is None else {"betas": betas})
    torch.manual_seed(1)
    layer = nn.Linear(7, 3, bias=False)
    start, gradients = layer.weight.detach().clone(), [torch.randn(3, 7) for _ in range(4)]
    optimizer = make_optimizer(optim(name=name, **settings), layer)
    for gradient in gradients:
        layer.weight.grad = gradient.clone()
        optimizer.step()
    expected = by_hand(name, settings, start, gradients)
    torch.testing.assert_close(layer.weight.detach().double(), expected, rtol=1e-5, atol=1e-6)


def settings_of(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, tuple[float, float]]:
    """Scale of the learning rate and weight decay by the parameter's name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["scale"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_groups_and_decay_by_name() -> None:
    model = network()
    groups = [{"match": "3.bias", "lr": 4, "weight_decay": 0.2}, {"match": ["3", "nothing*else", "0.w*"], "lr": 0.5}]
    with pytest.raises(UserError, match=r"optim.groups: 'nothing\*else' matches no parameter of the model"):
        make_optimizer(optim(groups=groups), model)
    groups[1]["match"] = ["3", "0.w*"]
    made = make_optimizer(optim(groups=groups, decay="matrices", weight_decay=0.1), model)
    assert settings_of(made, model) == {
        "0.weight": (0.5, 0.1), "0.bias": (1.0, 0.0), "3.weight": (0.5, 0.1), "3.bias": (4.0, 0.2),
    }  # fmt: skip


def test_what_cannot_be_frozen_or_grouped() -> None:
    with pytest.raises(UserError, match=r"optim.freeze is .*, which leaves no parameter to train"):
        freeze(optim(freeze=["*"]), network())
    with pytest.raises(UserError, match=r"optim.thaw: 'head' matches no parameter of the model; valid: 0, 3"):
        freeze(optim(freeze=["*"], thaw=["head"]), network())
    model, frozen = network(), optim(freeze=["0"], groups=[{"match": "0.*", "lr": 0.1}])
    freeze(frozen, model)
    with pytest.raises(UserError, match=r"optim.groups: 0.\* matches parameters that optim.freeze leaves out alone"):
        make_optimizer(frozen, model)


def test_layers_without_parameters_are_frozen_by_name() -> None:
    model = network()
    assert frozen_norms(optim(freeze=["*"], thaw=["3"]), model) == [model[1]]
    assert frozen_norms(optim(freeze=["0"]), model) == []


@pytest.mark.parametrize("bn_mode", ["eval", "train"])
def test_a_linear_probe_moves_the_classifier_alone(tiny: Callable[..., TrainConfig], bn_mode: str) -> None:
    config = tiny(
        model={"name": "digits_cnn", "options": {"width": 4}},
        attack={"bn_mode": bn_mode},
        optim={"freeze": ["*"], "thaw": ["classifier"], "groups": [{"match": "classifier.bias", "lr": 1e-12}]},
    )
    splits = load_splits("digits", val=0.05, test=0.6)
    model = build("digits_cnn", 10, 1, (8, 8), width=4)
    before = copy.deepcopy(model.state_dict())
    trainer = Trainer(config, splits, model)
    trainer.run_epoch()
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert "classifier.weight" in moved
    assert moved <= {"classifier.weight", "classifier.bias"}  # so no running statistics
    bias = model.state_dict()["classifier.bias"] - before["classifier.bias"]
    assert float(bias.abs().max()) < 1e-9
