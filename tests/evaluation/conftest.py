"""A small network and its data, and evaluations made by hand from labels and predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from attack_fixtures import compiles, fallbacks_are_errors
from torch import Tensor, nn

from fairtat.evaluation import AttackSettings, ClassFigures, Condition, Evaluation, Predictions, Samples

__all__ = ["compiles", "counted", "data", "fallbacks_are_errors", "halves", "make_evaluation", "net"]
CLASSES = 4


class Net(nn.Module):
    """A small random network with BatchNorm, so that a wrong mode shows."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


@pytest.fixture
def net() -> Net:
    torch.manual_seed(3)
    model = Net()
    x = torch.rand(64, 1, 5, 5)
    model(x)  # running statistics other than 0 and 1
    model.eval()
    with torch.no_grad():
        model.layers[-1].bias -= model(x).mean(0)  # every class gets predicted
    return model


@pytest.fixture
def data(net: Net) -> tuple[Tensor, Tensor]:
    """Images, and labels of which the network gets about two thirds right."""
    generator = torch.Generator().manual_seed(4)
    x = torch.rand(53, 1, 5, 5, generator=generator)
    with torch.no_grad():
        predicted = net(x).argmax(1)
    wrong = torch.rand(53, generator=generator) < 0.33
    return x, torch.where(wrong, (predicted + 1) % CLASSES, predicted)


class Halves(nn.Module):
    """Two classes: the logit of class 1 is w.x + b, of class 0 it is 0."""

    def __init__(self, weight: Tensor, bias: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), bias

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1) @ self.weight + self.bias
        return torch.stack((torch.zeros_like(score), score), 1)


@pytest.fixture
def halves() -> type[Halves]:
    return Halves


class Counted(nn.Module):
    """Another module, and how many images it has been shown."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside, self.images = inside, 0

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        logits: Tensor = self.inside(x)
        return logits


@pytest.fixture
def counted(net: Net) -> Counted:
    return Counted(net)


def confusion(label: Sequence[int], pred: Sequence[int], classes: int) -> torch.Tensor:
    matrix = torch.zeros(classes, classes, dtype=torch.int64)
    for true, predicted in zip(label, pred, strict=True):
        matrix[true, predicted] += 1
    return matrix


def predictions(label: Sequence[int], pred: Sequence[int]) -> Predictions:
    margin = [1.0 if true == predicted else -1.0 for true, predicted in zip(label, pred, strict=True)]
    return Predictions(np.array(pred, np.int32), np.array(margin, np.float32), np.ones(len(label), bool))


@pytest.fixture
def make_evaluation() -> Callable[..., Evaluation]:
    def make(
        label: Sequence[int],
        clean: Sequence[int],
        robust: Sequence[int],
        names: Sequence[str] = ("cat", "dog", "ship"),
        **changes: Any,
    ) -> Evaluation:
        attack = AttackSettings(**{"attack": "pgd", "eps": 8 / 255, "step_size": 2 / 255, **changes})
        predicted = {"clean": clean, attack.name: robust}
        outcomes = {name: predictions(label, pred) for name, pred in predicted.items()}
        return Evaluation(
            class_names=tuple(names),
            conditions=tuple(
                Condition(
                    name=name,
                    kind="clean" if name == "clean" else "attack",
                    settings=None if name == "clean" else attack,
                    figures=ClassFigures(confusion(label, pred, len(names))),
                    attacked=0 if name == "clean" else len(label),
                )
                for name, pred in predicted.items()
            ),
            primary=attack.name,
            samples=Samples.of(np.arange(100, 100 + len(label)), np.array(label), outcomes, attack.name),
            source={"data": "hand-made"},
        )

    return make
