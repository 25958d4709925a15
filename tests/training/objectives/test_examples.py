"""The attack of a training step: whose radius, whose step, whose loss, and a model left as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from fairtat import fast_pgd, fast_targeted_pgd, ops
from fairtat.data import Batch
from fairtat.engines.compiled import program
from fairtat.training import TrainConfig
from fairtat.training.config import from_dict
from fairtat.training.objectives import Objective, make_objective

NAMES = ("at", "trades", "fat", "mart")
STEP = 0.03


def config_of(name: str, **attack: Any) -> TrainConfig:
    return from_dict({"objective": {"name": name}, "attack": {"step_size": STEP, "steps": 3, **attack}})


def objective_of(name: str, **attack: Any) -> Objective:
    return make_objective(config_of(name, **attack))


def ascend(model: nn.Module, batch: Batch, x_adv: Tensor, eps: Tensor, step: Tensor | float, loss: Any) -> Tensor:
    """Three textbook steps up ``loss(logits)``."""
    x, eps = batch.x, eps.view(-1, 1, 1, 1)
    for _ in range(3):
        x_adv = x_adv.detach().requires_grad_()
        (grad,) = torch.autograd.grad(loss(model(x_adv)), x_adv)
        x_adv = (x_adv + step * grad.sign()).detach()
        x_adv = torch.min(torch.max(x_adv, x - eps), x + eps).clamp(0, 1)
    return x_adv


def assert_same_attack(ours: Tensor, theirs: Tensor) -> None:
    # Where a gradient is all but zero its sign is a matter of rounding, and the pixel two steps away.
    different = (ours - theirs).abs() > 1e-6
    assert different.float().mean() < 0.01


@pytest.mark.parametrize("name", ["at", "mart"])
@pytest.mark.parametrize("targeted", [False, True])
def test_at_and_mart_follow_cross_entropy(
    batch: Batch, model: nn.Module, class_rules: Callable[..., Any], name: str, targeted: bool
) -> None:
    radii, scale = torch.linspace(0.03, 0.12, 10), torch.linspace(0.5, 1.5, 10)
    fair = class_rules(radii, step_scale=scale)
    target = (batch.y + 3) % 10 if targeted else None

    x_adv = objective_of(name).attack(model, batch, fair=fair, target=target, seed=7).x_adv

    eps, step = radii[batch.y], STEP * scale[batch.y].view(-1, 1, 1, 1)
    init = "normal" if name == "mart" else "uniform"
    start = ops.pgd_init(batch.x, eps, seed=7, sample_ids=batch.ids, init=init)
    by_hand = copy.deepcopy(model).eval()
    if target is None:
        expected = ascend(by_hand, batch, start, eps, step, lambda z: F.cross_entropy(z, batch.y, reduction="sum"))
    else:
        expected = ascend(by_hand, batch, start, eps, step, lambda z: -F.cross_entropy(z, target, reduction="sum"))
    assert_same_attack(x_adv, expected)
    assert ((x_adv - batch.x).abs().flatten(1).amax(1) <= eps + 1e-6).all()


def test_untargeted_trades_climbs_the_divergence_from_the_clean_prediction(
    batch: Batch, model: nn.Module, class_rules: Callable[..., Any]
) -> None:
    x_adv = objective_of("trades").attack(model, batch, fair=class_rules(0.08), target=None, seed=7).x_adv

    by_hand, eps = copy.deepcopy(model).eval(), torch.full((20,), 0.08)
    clean = by_hand(batch.x).softmax(1).detach()
    start = ops.pgd_init(batch.x, eps, seed=7, sample_ids=batch.ids, init="normal")
    expected = ascend(by_hand, batch, start, eps, STEP, lambda z: F.kl_div(z.log_softmax(1), clean, reduction="sum"))
    assert_same_attack(x_adv, expected)


def test_targeted_trades_descends_the_cross_entropy_of_the_target(
    batch: Batch, model: nn.Module, class_rules: Callable[..., Any]
) -> None:
    target = (batch.y + 3) % 10
    x_adv = objective_of("trades").attack(model, batch, fair=class_rules(0.08), target=target, seed=7).x_adv
    expected = fast_targeted_pgd(
        model, batch.x, target, eps=0.08, step_size=STEP, steps=3, init="normal", seed=7, sample_ids=batch.ids
    )
    assert torch.equal(x_adv, expected)


def test_taus_milestones_count_finished_epochs(batch: Batch, model: nn.Module, class_rules: Callable[..., Any]) -> None:
    attack = {"step_size": STEP, "steps": 12}
    milestones = {"name": "fat", "tau": 0, "tau_milestones": ["50/120", 0.75]}
    growing = make_objective(from_dict({"objective": milestones, "attack": attack, "epochs": 120}))
    for epoch, tau in ((0, 0), (49, 0), (50, 1), (89, 1), (90, 2), (119, 2)):
        fixed = make_objective(from_dict({"objective": {"name": "fat", "tau": tau}, "attack": attack}))
        ours, theirs = (
            one.attack(model, batch, fair=class_rules(0.25, epoch=epoch), target=None, seed=7).x_adv
            for one in (growing, fixed)
        )
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("tau", [0, 2])
@pytest.mark.parametrize("targeted", [False, True])
def test_friendly_examples_stop_tau_steps_after_the_boundary(
    batch: Batch, model: nn.Module, class_rules: Callable[..., Any], tau: int, targeted: bool
) -> None:
    steps, eps = 12, 0.25
    config = from_dict({"objective": {"name": "fat", "tau": tau}, "attack": {"step_size": STEP, "steps": steps}})
    target = (batch.y + 3) % 10 if targeted else None

    x_adv = make_objective(config).attack(model, batch, fair=class_rules(eps), target=target, seed=7).x_adv

    by_hand = copy.deepcopy(model).eval()
    start = ops.pgd_init(batch.x, eps, seed=7, sample_ids=batch.ids)
    goal, sign = (batch.y, 1) if target is None else (target, -1)
    steps_run = []
    for i in range(20):  # one sample at a time, in eval mode, so that no sample feels another
        x, x_i, left, ran = batch.x[i : i + 1], start[i : i + 1], tau, 0
        for _ in range(steps):
            x_i = x_i.detach().requires_grad_()
            logits = by_hand(x_i)
            reached = logits.argmax() == goal[i] if targeted else logits.argmax() != goal[i]
            if reached and left == 0:
                break
            left -= int(reached)
            (grad,) = torch.autograd.grad(F.cross_entropy(logits, goal[i : i + 1]), x_i)
            x_i = torch.min(torch.max(x_i + sign * STEP * grad.sign(), x - eps), x + eps).clamp(0, 1)
            ran += 1
        steps_run.append(ran)
        assert_same_attack(x_adv[i : i + 1], x_i.detach())
    assert min(steps_run) < max(steps_run)  # some stop, not all at once


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bn_mode", ["eval", "train_frozen_stats"])
def test_the_model_is_left_as_it_was_found(
    batch: Batch, model: nn.Module, class_rules: Callable[..., Any], name: str, bn_mode: str
) -> None:
    frozen_by_hand = model.features[1].eval()
    before = copy.deepcopy(model.state_dict())
    objective_of(name, bn_mode=bn_mode).attack(model, batch, fair=class_rules(), target=None, seed=7)
    assert all(module.training == (module is not frozen_by_hand) for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def test_the_clean_pass_of_trades_does_not_count_in_the_running_statistics(
    batch: Batch, model: nn.Module, class_rules: Callable[..., Any]
) -> None:
    objective_of("trades", bn_mode="train").attack(model, batch, fair=class_rules(), target=None, seed=7)
    # Ten batches went through the model before; the attack's steps count, in this mode, and nothing else does.
    assert model.features[1].num_batches_tracked == 10 + 3


@pytest.mark.parametrize("more", [{"restarts": 3}, {"momentum": 0.9}, {"eot": 2}], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_options_of_the_configuration_reach_the_attack(
    batch: Batch, model: nn.Module, class_rules: Callable[..., Any], name: str, more: dict[str, Any]
) -> None:
    init = "normal" if name in ("at", "fat") else "uniform"  # not what auto would be
    attack = {"norm": "l2", "eps": 1.0, "step_size": 0.3, "loss": "margin", "init": init, **more}
    x_adv = objective_of(name, **attack).attack(model, batch, fair=class_rules(1.0), target=None, seed=7).x_adv
    friendly = {"early_stop": True, "extra_steps": 3} if name == "fat" else {}
    expected = fast_pgd(
        model, batch.x, batch.y, **{**attack, "steps": 3, "seed": 7, "sample_ids": batch.ids, **friendly}
    )
    assert torch.equal(x_adv, expected)


def test_mixed_precision_and_memory_format_reach_the_attack(
    batch: Batch, model: nn.Module, class_rules: Callable[..., Any]
) -> None:
    config = from_dict({"objective": {"name": "trades"}, "attack": {"step_size": STEP, "steps": 3}, "amp": "bf16"})
    x = torch.rand(20, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    seen: list[torch.dtype] = []
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 10))
    network[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    examples = make_objective(config).attack(
        network, Batch(x, batch.y, batch.ids), fair=class_rules(), target=None, seed=7
    )
    assert set(seen) == {torch.bfloat16}
    assert len(seen) == 1 + 3  # one clean pass, three steps
    assert examples.x_adv.dtype == torch.float32
    assert examples.x_adv.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("targeted", [False, True])
def test_the_engine_is_that_of_the_configuration(
    batch: Batch, model: nn.Module, class_rules: Callable[..., Any], targeted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []
    monkeypatch.setattr(program, "compile_graph", lambda graph, inputs: compiled.append(len(inputs)) or graph)
    target = (batch.y + 3) % 10 if targeted else None
    eager, graph = (
        objective_of("at", engine=engine).attack(model, batch, fair=class_rules(), target=target, seed=11).x_adv
        for engine in ("eager", "compiled")
    )
    assert len(compiled) == 1
    assert_same_attack(graph, eager)


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """A job of one process: what DistributedDataParallel does to a model does not depend on their number."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.filterwarnings("ignore:.broadcast_buffers:FutureWarning")  # its successor is newer than torch 2.11
@pytest.mark.usefixtures("process_group")
def test_a_distributed_step_is_the_plain_step(
    batch: Batch, model: nn.Module, class_rules: Callable[..., Any], name: str, targeted: bool
) -> None:
    fair = class_rules(weight=torch.linspace(0.5, 1.5, 10))
    target = (batch.y + 3) % 10 if targeted else None
    plain, inner = copy.deepcopy(model), copy.deepcopy(model)
    wrapped = nn.parallel.DistributedDataParallel(inner, broadcast_buffers=False)
    forwards: list[nn.Module] = []
    wrapped.register_forward_pre_hook(lambda module, inputs: forwards.append(module))
    objective = objective_of(name)
    values = []
    for network in (plain, wrapped):
        examples = objective.attack(network, batch, fair=fair, target=target, seed=7)
        assert not forwards  # the attack goes to the module inside
        value = objective.loss(network, batch, examples, fair=fair)
        value.loss.backward()
        values.append(value)
    assert len(forwards) == (1 if name in ("at", "fat") else 2)
    assert torch.equal(values[0].loss, values[1].loss)
    for ours, theirs in zip(inner.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("name", NAMES)
def test_a_compiled_model_is_attacked_as_the_plain_one(
    batch: Batch, model: nn.Module, class_rules: Callable[..., Any], name: str
) -> None:
    x_advs = [
        objective_of(name).attack(network, batch, fair=class_rules(), target=None, seed=7).x_adv
        for network in (model, torch.compile(model, backend="aot_eager"))
    ]
    assert_same_attack(x_advs[1], x_advs[0])
