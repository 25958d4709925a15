"""Exported programs, fake-quantized modules and sharded ones: attacked as what they stand for, or refused by name."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings

import pytest
import torch
from attack_fixtures import SIX_STEPS
from torch import nn
from torch.ao.quantization import FakeQuantize, FusedMovingAvgObsFakeQuantize, MovingAverageMinMaxObserver

from fairtat import fast_pgd, fast_targeted_pgd
from fairtat.attacks import EngineFallback

pytestmark = pytest.mark.usefixtures("fallbacks_are_errors")
ENGINES = ["eager", "compiled", "graph", "compiled_graph"]


@pytest.fixture(scope="module")
def exported():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).eval()
    batch = torch.export.Dim("batch", min=2)
    return model, torch.export.export(model, (torch.rand(6, 3, 6, 6),), dynamic_shapes=({0: batch},))


def test_an_exported_program_says_what_to_attack(h, exported):
    x, _, target = h.images(6)
    with pytest.raises(TypeError, match=r"model is a torch\.export\.ExportedProgram.*its \.module\(\)"):
        fast_targeted_pgd(exported[1], x, target)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_module_of_an_exported_program_is_its_model(h, exported, compiles, stub, engine):
    model, program = exported
    warnings.simplefilter("ignore", EngineFallback)  # its guards are hooks
    for n in (6, 6, 4):
        x, _, target = h.images(n)
        expected = fast_targeted_pgd(model, x, target, engine="eager", **SIX_STEPS)
        found = fast_targeted_pgd(program.module(), x, target, engine=engine, **SIX_STEPS)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_batch_statistics_of_an_exported_program_are_refused(h, exported):
    x, _, target = h.images(6)
    with pytest.raises(ValueError, match=r"bn_mode='train' cannot reach BatchNorm inside what torch\.export made"):
        fast_targeted_pgd(exported[1].module(), x, target, bn_mode="train")


def quantized(kind):
    torch.manual_seed(0)
    fake = {"separate": FakeQuantize, "fused": FusedMovingAvgObsFakeQuantize}[kind]
    with_range = fake.with_args(observer=MovingAverageMinMaxObserver, quant_min=0, quant_max=255)
    model = nn.Sequential(with_range(), nn.Conv2d(3, 4, 3), nn.ReLU(), with_range(), nn.Flatten(), nn.Linear(64, 5))
    model(torch.rand(8, 3, 6, 6))  # the observers see a range
    return model


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["separate", "fused"])
def test_observers_of_fake_quantization_learn_nothing_from_attacks(h, compiles, stub, kind, engine, mode):
    x, y, _ = h.images(6)
    model = quantized(kind).train(mode == "train")
    before = copy.deepcopy(model.state_dict())
    still = copy.deepcopy(model).eval().apply(torch.ao.quantization.disable_observer)
    options = {**SIX_STEPS, "init": "zero"}
    warnings.simplefilter("ignore", EngineFallback)  # a FakeQuantize decides in Python by what a tensor holds
    for _ in range(3):
        x_adv = fast_pgd(model, 3 * x, y, engine=engine, bounds=(0.0, 3.0), **options)  # beyond the observed range
    after = model.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    del options["seed"], options["init"]
    steps = {name: options[name] for name in ("eps", "step_size", "steps")}
    expected = 3 * x
    for _ in range(steps["steps"]):  # the textbook's, in bounds of 3
        leaf = expected.clone().requires_grad_()
        (grad,) = torch.autograd.grad(nn.functional.cross_entropy(still(leaf), y, reduction="sum"), leaf)
        expected = expected + steps["step_size"] * grad.sign()
        expected = expected.clamp(3 * x - steps["eps"], 3 * x + steps["eps"]).clamp(0, 3)
    assert (x_adv - expected).abs().gt(1e-5).float().mean() < 0.01  # where rounding decides a sign
    assert model.training == (mode == "train")
    model(3 * x)  # which the observers see
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


SHARDED = """
import copy, sys, torch, torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
import fairtat

rank, kind = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", store=dist.FileStore(sys.argv[3], 2), rank=rank, world_size=2)
torch.manual_seed(0)
whole = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4))
model = copy.deepcopy(whole)
if kind == "fsdp2":
    mesh = init_device_mesh("cpu", (2,))
    fully_shard(model[1], mesh=mesh)
    fully_shard(model, mesh=mesh)
else:
    model = FullyShardedDataParallel(model, device_id=torch.device("cpu"))
    try:
        fairtat.fast_pgd(model, torch.rand(2, 3, 2, 2), torch.arange(2))
    except TypeError as error:
        sys.exit(str(error))
x, y = torch.rand(6, 3, 2, 2), torch.arange(6) % 4
x, y = x[rank::2], y[rank::2]  # each its own images
options = {"eps": 0.1, "step_size": 0.03, "steps": 4, "seed": 0}
found = fairtat.fast_pgd(model, x, y, **options)
expected = fairtat.fast_pgd(whole, x, y, engine="eager", **options)
torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
try:
    fairtat.fast_pgd(model, x, y, early_stop=True, **options)
except ValueError as error:
    print(error)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
nn.functional.cross_entropy(model(found), y).backward()
optimizer.step()
print("trains")
"""


def in_two_processes(kind, tmp_path):
    """(exit code, what it said) of each."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SHARDED, str(rank), kind, str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    return [(process.communicate()[0], process.returncode)[::-1] for process in processes]


@pytest.mark.slow
def test_processes_attack_a_sharded_model_in_step(tmp_path):
    for code, said in in_two_processes("fsdp2", tmp_path):
        assert code == 0, said
        assert "use early_stop=False, or attack the whole model in one process" in said
        assert said.endswith("trains\n")


@pytest.mark.slow
def test_the_older_way_to_shard_is_refused_by_name(tmp_path):
    for code, said in in_two_processes("fsdp1", tmp_path):
        assert code == 1
        assert "model is wrapped in FullyShardedDataParallel" in said
