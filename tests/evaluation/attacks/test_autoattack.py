from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairtat.errors import UserError
from fairtat.evaluation import evaluate
from fairtat.evaluation.attacks.autoattack import library_attack
from fairtat.evaluation.attacks.names import Defaults, parse_attack

pyautoattack = pytest.importorskip("pyautoattack")

Data = tuple[Tensor, Tensor]
Halves = Callable[[Tensor, float], nn.Module]


@pytest.mark.parametrize(
    ("name", "norm", "eps"), [("apgd-ce-20", "linf", 0.07), ("apgd-ce-20", "l2", 0.2), ("fab-t-10", "linf", 0.07)]
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


def test_the_suite_is_that_of_the_library_itself(net: nn.Module, data: Data) -> None:
    x, y = data
    judge = pyautoattack.AutoAttack(
        net, norm="Linf", eps=0.03, version="custom", attacks=["apgd-ce", "apgd-t", "square"], seed=3
    )
    judge.apgd.n_restarts, judge.apgd_targeted.n_target_classes, judge.square.n_queries = 1, 3, 100
    x_adv, _ = judge.run_standard_evaluation(x.clone(), y.clone(), batch_size=64)
    with torch.no_grad():
        expected = (net(x_adv).argmax(1) == y).tolist()
    evaluation = evaluate(
        net, x, y, attacks=["apgd-ce+apgd-t+square-100"], eps=0.03, seed=3, batch_size=64, check_sanity=False
    )
    assert evaluation.samples is not None
    assert evaluation.samples.correct("robust").tolist() == expected
    assert 0 < sum(expected) < int(evaluation.clean.average * len(y))


@pytest.mark.parametrize("name", ["apgd-ce-4", "apgd-dlr-4", "apgd-t-4", "fab-t-4", "square-20"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_examples_stay_in_the_ball_and_everything_is_left_as_it_was(
    net: nn.Module, data: Data, name: str, norm: str
) -> None:
    x, y = data
    settings = parse_attack(name, Defaults(0.2, norm))
    net.train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state, x_before = torch.get_rng_state(), x.clone()
    x_adv = library_attack(net, net, x, y, settings, 4)
    delta = (x_adv - x).flatten(1)
    size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert 0 < float(size.max()) <= 0.2 * (1 + 1e-4)
    assert 0 <= float(x_adv.min()) <= float(x_adv.max()) <= 1
    assert torch.equal(x, x_before)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert net.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())


def test_normalisation_is_inside_the_attacked_model(net: nn.Module, data: Data) -> None:
    class Shift(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - 0.25) / 0.5  # powers of two: no rounding between the two ways

    options: dict[str, Any] = {"attacks": ["apgd-ce-5"], "eps": 0.05, "check_sanity": False}
    inside = evaluate(nn.Sequential(Shift(), net), *data, **options)
    outside = evaluate(net, *data, normalize=((0.25,), (0.5,)), **options)
    assert inside.samples is not None
    assert outside.samples is not None
    assert inside.samples.pred.tolist() == outside.samples.pred.tolist()


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


def test_without_the_library_the_extra_is_named(net: nn.Module, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyautoattack"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(UserError, match=r"attack 'square' needs pyautoattack: pip install 'fairtat\[eval\]'"):
        evaluate(net, *data, attacks=["square"], eps=0.1)
