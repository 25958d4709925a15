"""Ranges: one table of bad values, each answered by its key, the value and what was expected."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import pytest

from fairtat.errors import UserError
from fairtat.fairness import TARGET_RULES
from fairtat.training.config import FairnessConfig, TrainConfig, from_dict, make_fairness


def nested(key: str, value: Any) -> dict[str, Any]:
    section, _, name = key.rpartition(".")
    return {section: {name: value}} if section else {name: value}


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("data.val", 0, "a share above 0 and below 1"),
        ("data.val", 0.9, "a sum below 1"),
        ("attack.eps", -0.1, "a finite number of 0 or more"),
        ("attack.eps", float("nan"), "a finite number of 0 or more"),
        ("attack.eps", float("inf"), "a finite number of 0 or more"),
        ("attack.steps", -1, "0 or more"),
        ("attack.restarts", 0, "1 or more"),
        ("attack.momentum", -1, "a finite number of 0 or more"),
        ("attack.eot", 0, "1 or more"),
        ("optim.lr", 0, "a finite number above 0"),
        ("optim.momentum", 1, "0 or more and below 1"),
        ("optim.milestones", [0.5, 1.5], "shares of the epochs"),
        ("eval.batch_size", 0, "1 or more"),
        ("epochs", 0, "1 or more"),
        ("batch_size", 1, "2 or more"),
        ("threads", 0, "1 or more"),
        ("seed", 2**64, "a whole number in"),
        ("fairness.tau", float("nan"), "tau must be"),
        ("fairness.lam", -1, "lam must be"),
        ("fairness.begin", 0, "begin must be"),
        ("fairness.clamp", [0.2, 0.1], "low <= high"),
        ("fairness.margins", "G-rop", "did you mean 'G-rob'"),
        ("fairness.margins", "T-rob", "targets must be"),
        ("fairness.weights", "bat", "expected even_success, the name of that rule now"),
    ],
)
def test_out_of_range(key: str, value: Any, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        from_dict(nested(key, value))
    message = str(caught.value)
    assert expected in message
    assert key.rpartition(".")[2] in message
    assert "\n" not in message


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(UserError, match=r"optim.nesterov is true; expected optim.momentum above 0"):
        from_dict({"optim": {"nesterov": True, "momentum": 0}})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"objective": {"name": "bat", "faal": 0.5}}, "objective.faal is 0.5; expected null with objective.name bat"),
        ({"objective": {"name": "bat"}, "fairness": {"targets": "cfps"}}, "fairness.targets is cfps; expected none"),
        ({"objective": {"name": "bat"}, "attack": {"restarts": 2}}, "attack.restarts is 2; expected 1"),
        ({"attack": {"noise": 2, "init": "zero"}}, "attack.init is zero; expected auto with attack.noise"),
        ({"attack": {"noise": 2, "restarts": 3}}, "attack.restarts is 3; expected 1 with attack.noise"),
        ({"objective": {"name": "fat"}, "fairness": {"weights": "fair_ard"}}, "whose attacks stop early"),
        ({"fairness": {"weights": "fair_ard", "targets": "random"}}, "fairness.targets is random; expected none"),
        ({"distill": {"weights": "t.pt"}}, "distill.weights is given; expected null with objective.name at"),
        ({"objective": {"name": "trades", "ccr": True}, "fairness": {"lam": [0.5]}}, "objective.ccr_lam is null"),
        ({"optim": {"name": "adamw", "nesterov": True}}, "optim.nesterov is true; expected optim.name sgd, got adamw"),
        ({"optim": {"betas": [0.9, 0.99]}}, r"optim.betas is \[0.9, 0.99\]; expected null with optim.name sgd"),
        ({"optim": {"name": "lion", "betas": [0.9]}}, "expected two numbers of 0 or more and below 1"),
        ({"optim": {"thaw": ["head"]}}, "expected patterns in optim.freeze"),
        ({"optim": {"groups": [{"lr": 2}]}}, "optim.groups: match of group 1 is None; expected names"),
        ({"optim": {"groups": [{"match": "a", "lr": 0}]}}, "optim.groups: lr of group 1 is 0.0; expected a fin"),
        ({"optim": {"groups": [{"match": "a", "lrr": 1}]}}, "optim.groups has the key 'lrr'; did you mean 'lr'"),
        ({"optim": {"schedule": "onecycle", "warmup": 1}}, "optim.warmup is 1.0; expected 0 with optim.schedule one"),
        ({"optim": {"warmup": 30}}, "optim.warmup is 30.0; expected less than epochs, which is 30"),
        ({"attack": {"name": "apgd", "bn_mode": "train"}}, "attack.bn_mode is train; expected eval with attack.name"),
        ({"attack": {"name": "apgd", "noise": 2}}, "attack.noise is 2.0; expected null with attack.name apgd"),
        ({"attack": {"name": "apgd"}, "objective": {"name": "trades"}}, "attack.loss is auto, a divergence for"),
        ({"attack": {"name": "apgd", "loss": "a:b"}}, "attack.loss is a:b; expected auto, ce, margin or dlr with"),
        ({"attack": {"name": "apgd", "momentum": 0.5}}, "attack.momentum is 0.5; expected 0 with attack.name apgd"),
        ({"attack": {"name": "apgd"}, "objective": {"name": "fat"}}, "expected pgd with objective.name fat"),
        ({"attack": {"name": "apgd"}, "objective": {"name": "ham"}}, "expected pgd with objective.name ham"),
        ({"attack": {"steps": 3}, "objective": {"name": "ham"}}, "objective.mining_step is 3; expected less than att"),
        ({"attack": {"restarts": 2}, "objective": {"name": "ham"}}, "attack.restarts is 2; expected 1 with objective"),
        ({"objective": {"equalize": [0.1, -1, 0]}}, "expected three finite numbers of 0 or more"),
        ({"objective": {"name": "trades", "grad_align": 1}}, "objective.grad_align is 1.0; expected 0 with objective"),
        ({"objective": {"grad_align": 1}, "compile": True}, "expected compile false, which has no second derivatives"),
        ({"fairness": {"targeted": "easy"}}, "expected fairness.targets random, cfps or confusion, got none"),
        (
            {"fairness": {"targeted": "easy", "targets": "random", "margins": ["G-rob", "T-rob"]}},
            "expected no fairness.margins relative to targets",
        ),
    ],
)
def test_an_objective_says_what_it_cannot_use(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        from_dict(values)


def test_the_command_line_offers_every_target_rule() -> None:
    offered = get_args(get_type_hints(FairnessConfig)["targets"])
    assert set(offered) == {"none", *TARGET_RULES}


def test_fairness_rules_are_those_of_the_configuration() -> None:
    config = from_dict(
        {
            "attack": {"eps": "1/8"},
            "fairness": {
                "targets": "confusion",
                "margins": ["G-rob", "T-cfps"],
                "lam": 0.3,
                "tau": 4,
                "combine": "min",
                "clamp": ["1/16", 0.5],
                "begin": 3,
            },
        }
    )
    fair = make_fairness(config, 5, seed=9)
    assert (fair.num_classes, fair.eps, fair.seed) == (5, 0.125, 9)
    assert (fair.targets, fair.margins, fair.combine, fair.begin) == ("confusion", ("G-rob", "T-cfps"), "min", 3)
    assert (fair.lam, fair.tau, fair.clamp) == (0.3, 4.0, (0.0625, 0.5))


def test_the_default_is_ordinary_adversarial_training() -> None:
    fair = make_fairness(TrainConfig(), 10)
    assert (fair.targets, fair.margins) == ("none", ("fixed",))
