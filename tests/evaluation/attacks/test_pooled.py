from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairtat.attacks.autoattack import APGD, FAB, Square, autoattack
from fairtat.evaluation import evaluate

Data = tuple[Tensor, Tensor]
Halves = Callable[[Tensor, float], nn.Module]


@pytest.mark.parametrize(
    ("name", "norm", "eps"),
    [
        ("apgd-ce-20", "linf", 0.07),
        ("apgd-ce-20", "l2", 0.2),
        ("fab-t-10", "linf", 0.07),
        ("mt-20", "linf", 0.07),
        ("deepfool", "l2", 0.2),
        ("cw-l2-150", "l2", 0.2),
    ],
)
def test_a_linear_model_falls_as_the_closed_form_says(halves: Halves, name: str, norm: str, eps: float) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(12, generator=generator)
    x = 0.25 + 0.5 * torch.rand(200, 1, 3, 4, generator=generator)  # the ball stays inside [0, 1]
    score = x.flatten(1) @ weight
    bias = -float(score.median())
    label = (score + bias + 0.5 * torch.randn(200, generator=generator) > 0).long()
    margin = (2 * label - 1) * (score + bias)
    reach = eps * (weight.abs().sum() if norm == "linf" else weight.norm())
    evaluation = evaluate(halves(weight, bias), x, label, attacks=[name], eps=eps, norm=norm, check_sanity=False)
    assert evaluation.samples is not None
    right = torch.from_numpy(evaluation.samples.correct("robust"))
    # One in a hundred may lie within an attack's last, unfinished step of the edge.
    assert (right == (margin > reach)).double().mean() >= 0.99
    assert not (right & (margin < 0.9 * reach)).any()
    assert right[margin > reach].all()
    assert 0 < right.sum() < (margin > 0).sum()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_suite_is_that_of_the_attack_itself(net: nn.Module, data: Data, norm: str) -> None:
    x, y = data
    eps = {"linf": 0.03, "l2": 0.1}[norm]
    stages = [
        ("apgd-ce", APGD("ce", n_iter=20)),
        ("apgd-dlr", APGD("dlr", n_iter=10, n_restarts=2)),
        ("apgd-t", APGD("dlr-targeted", n_iter=10)),
        ("fab", FAB(n_iter=5)),
        ("fab-t", FAB(targeted=True, n_iter=5)),
        ("square", Square(n_queries=100)),
    ]
    _, flags = autoattack(net, x, y, eps=eps, norm=norm, version="custom", attacks=stages, seed=3)
    name = "apgd-ce-20+apgd-dlr-10x2+apgd-t-10+fab-5+fab-t-5+square-100"
    for batch_size in (64, 9):
        evaluation = evaluate(
            net, x, y, attacks=[name], eps=eps, norm=norm, seed=3, batch_size=batch_size, check_sanity=False
        )
        assert evaluation.samples is not None
        assert evaluation.samples.correct("robust").tolist() == flags.robust.tolist()
        assert 0 < int(flags.robust.sum()) < int(evaluation.clean.average * len(y))


def test_normalisation_is_inside_the_attacked_model(net: nn.Module, data: Data) -> None:
    class Shift(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - 0.25) / 0.5  # powers of two: no rounding between the two ways

    options: dict[str, Any] = {"attacks": ["apgd-ce-5+square-20"], "eps": 0.05, "check_sanity": False}
    inside = evaluate(nn.Sequential(Shift(), net), *data, **options)
    outside = evaluate(net, *data, normalize=((0.25,), (0.5,)), **options)
    assert inside.samples is not None
    assert outside.samples is not None
    assert inside.samples.pred.tolist() == outside.samples.pred.tolist()


def test_images_may_have_other_bounds(net: nn.Module, data: Data) -> None:
    x, y = data

    def stretched(x: Tensor) -> Tensor:
        return net(x / 4)  # type: ignore[no-any-return]

    options: dict[str, Any] = {"attacks": ["apgd-ce-10+square-30"], "check_sanity": False}
    x[0, 0, 0, 0], x[0, 0, 0, 1] = 0, 1
    plain = evaluate(net, x, y, eps=0.03125, **options)
    wide = evaluate(stretched, 4 * x, y, eps=0.125, **options)
    assert plain.samples is not None
    assert wide.samples is not None
    assert plain.samples.pred.tolist() == wide.samples.pred.tolist()


def test_autoattack_starts_from_the_stage_that_was_asked_for_beside_it(counted: Any, data: Data) -> None:
    options: dict[str, Any] = {"eps": 0.03, "check_sanity": False}
    shown = []
    for attacks in (["apgd-ce-30+square-50"], ["apgd-ce-30"], ["apgd-ce-30", "apgd-ce-30+square-50"]):
        counted.images = 0
        both = evaluate(counted, *data, attacks=attacks, **options)
        shown.append(counted.images)
    assert shown[2] == shown[0]
    assert shown[1] < shown[0]
    assert both.condition("apgd-ce-30+square-50").attacked == sum(both.condition("apgd-ce-30").figures.correct)
