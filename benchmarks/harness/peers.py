"""Targeted PGD of other libraries and of the published code, each as ``attack() -> x_adv`` from the clean image.

Every peer takes the same start (no random start), radius, step and number of steps. foolbox judges the
result by one more forward; adv-lib returns the last success, not the last step.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from unittest.mock import MagicMock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Attack = Callable[[], Tensor]
Norm = Literal["linf", "l2"]


@dataclass(frozen=True)
class Problem:
    """What every attack is given. Each gets a model of its own, for some leave theirs changed."""

    model: nn.Module
    x: Tensor  # (N, C, H, W) in [0, 1]
    target: Tensor  # (N,)
    classes: int
    eps: float
    step_size: float
    steps: int
    norm: Norm = "linf"


def textbook(p: Problem) -> Attack:
    """The loop of fast_targeted_pgd's docstring, in the form of TRADES' and DAFA's code."""
    lower, upper = (p.x - p.eps).clamp(0.0, 1.0), (p.x + p.eps).clamp(0.0, 1.0)

    def attack() -> Tensor:
        x_adv = p.x.clone()
        for _ in range(p.steps):
            x_adv.requires_grad_()
            loss = F.cross_entropy(p.model(x_adv), p.target, reduction="sum")
            (grad,) = torch.autograd.grad(loss, x_adv)
            if p.norm == "linf":
                x_adv = (x_adv.detach() - p.step_size * grad.sign()).clamp(lower, upper)
                continue
            offset = x_adv.detach() - p.step_size * grad / (lengths(grad) + 1e-12) - p.x
            x_adv = (p.x + offset * (p.eps / (lengths(offset) + 1e-12)).clamp(max=1.0)).clamp(0.0, 1.0)
        return x_adv

    return attack


def lengths(t: Tensor) -> Tensor:
    """(N, 1, 1, 1)"""
    found: Tensor = torch.linalg.vector_norm(t, dim=(1, 2, 3), keepdim=True)
    return found


def published(p: Problem) -> Attack:
    """In the style of the FAIR-TAT and CFA code, from the clean image: the random start is left out."""
    eps_of = torch.full((len(p.x),), p.eps, device=p.x.device)
    return lambda: published_pgd(p.model, p.x, p.target, eps_of, p.step_size, p.steps, torch.zeros_like(p.x))


def published_pgd(
    model: nn.Module, x: Tensor, target: Tensor, eps_of: Tensor, step_size: float, steps: int, start: Tensor
) -> Tensor:
    """Radii (N,) filled in sample by sample, then a loop over delta.

    Mean cross-entropy, ``backward()`` with the parameters' gradients, two clamps a step.
    """
    radius = torch.ones_like(x)
    for i in range(len(x)):
        radius[i] *= eps_of[i]
    delta = torch.clamp(x + start * radius, 0.0, 1.0).sub_(x).requires_grad_()
    for _ in range(steps):
        F.cross_entropy(model(x + delta), target).backward()
        assert delta.grad is not None
        moved = torch.clamp(delta - step_size * torch.sign(delta.grad.detach()), min=-radius, max=radius)
        delta.data = torch.clamp(moved, 0 - x, 1 - x)
        delta.grad.zero_()
    return (x + delta).detach()


def torchattacks(p: Problem) -> Attack:
    library = _quietly("torchattacks")
    kind = library.PGD if p.norm == "linf" else library.PGDL2
    attack = kind(p.model, eps=p.eps, alpha=p.step_size, steps=p.steps, random_start=False)
    attack.set_mode_targeted_by_label(quiet=True)
    return lambda: attack(p.x, p.target)


def foolbox(p: Problem) -> Attack:
    library = _quietly("foolbox")
    model = library.PyTorchModel(p.model, bounds=(0, 1), device="cpu")
    kind = library.attacks.LinfPGD if p.norm == "linf" else library.attacks.L2PGD
    attack = kind(abs_stepsize=p.step_size, steps=p.steps, random_start=False)
    criterion = library.criteria.TargetedMisclassification(p.target)

    def run() -> Tensor:
        _, clipped, _ = attack(model, p.x, criterion, epsilons=p.eps)
        return clipped  # type: ignore[no-any-return]

    return run


def art(p: Problem) -> Attack:
    pytorch = _quietly("art.estimators.classification")
    evasion = _quietly("art.attacks.evasion")
    classifier = pytorch.PyTorchClassifier(
        model=p.model, loss=nn.CrossEntropyLoss(), input_shape=tuple(p.x.shape[1:]), nb_classes=p.classes,
        clip_values=(0.0, 1.0), device_type="cpu",
    )  # fmt: skip
    attack = evasion.ProjectedGradientDescentPyTorch(
        classifier, norm="inf" if p.norm == "linf" else 2, eps=p.eps, eps_step=p.step_size, max_iter=p.steps,
        targeted=True, num_random_init=0, batch_size=len(p.x), verbose=False,
    )  # fmt: skip
    images, target = p.x.numpy(), p.target.numpy()
    return lambda: torch.from_numpy(attack.generate(images, target))


def cleverhans(p: Problem) -> Attack:
    library = _quietly("cleverhans.torch.attacks.projected_gradient_descent")

    def attack() -> Tensor:
        return library.projected_gradient_descent(  # type: ignore[no-any-return]
            p.model, p.x, p.eps, p.step_size, p.steps, float("inf") if p.norm == "linf" else 2, clip_min=0.0,
            clip_max=1.0, y=p.target, targeted=True, rand_init=False,
        ).detach()  # fmt: skip

    return attack


def adv_lib(p: Problem) -> Attack:
    stand_ins = [name for name in ("torchvision", "visdom") if name not in sys.modules]  # for parts not used here
    sys.modules.update({name: MagicMock() for name in stand_ins})
    try:
        library = _quietly("adv_lib.attacks")
    finally:
        for name in stand_ins:
            del sys.modules[name]

    def attack() -> Tensor:
        return library.pgd_linf(  # type: ignore[no-any-return]
            p.model, p.x, p.target, p.eps, targeted=True, steps=p.steps, random_init=False,
            absolute_step_size=p.step_size,
        )  # fmt: skip

    return attack


def _quietly(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations of the libraries' own dependencies
        return importlib.import_module(name)
