"""Weight perturbation against its formula written out, and the weights as they were."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from fairtat.models import digits_cnn
from fairtat.training.config import AwpConfig, Number
from fairtat.training.optim.awp import Awp, make_awp

GAMMA = 0.05


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return digits_cnn(10, 1, (8, 8), width=4).train()


X, Y = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 10


def loss_of(model: nn.Module) -> Tensor:
    return F.cross_entropy(model(X), Y)


def perturbed_by_hand(model: nn.Module, gamma: float) -> nn.Module:
    """A second network at w + gamma ||w|| g / ||g||, whose passes leave the first alone; norms as sums of squares."""
    probe, moved = copy.deepcopy(model), copy.deepcopy(model)
    loss_of(probe).backward()
    with torch.no_grad():
        for start, end in zip(probe.parameters(), moved.parameters(), strict=True):
            if start.ndim <= 1:
                continue
            w, g = start.double(), start.grad.double()
            end.copy_(w + gamma * (w**2).sum().sqrt() * g / (g**2).sum().sqrt())
    return moved


def test_the_gradient_is_taken_at_the_perturbed_weights(model: nn.Module) -> None:
    by_hand = perturbed_by_hand(model, GAMMA)
    expected = loss_of(by_hand)
    expected.backward()
    before = copy.deepcopy(model.state_dict())

    with Awp(model, GAMMA).perturbed(lambda: loss_of(model)):
        moved = [parameter.detach().clone() for parameter in model.parameters()]
        loss = loss_of(model)
        loss.backward()

    torch.testing.assert_close(loss, expected)
    assert loss > loss_of(copy.deepcopy(model))  # the move climbs
    for (key, ours), w, theirs in zip(model.named_parameters(), moved, by_hand.parameters(), strict=True):
        torch.testing.assert_close(w, theirs.detach())
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)
        assert torch.equal(ours, before[key])
    # One pass counts, not two.
    for (key, ours), theirs in zip(model.named_buffers(), by_hand.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)
        assert not torch.equal(ours, before[key])


def test_a_training_run_is_that_of_a_double_loop(model: nn.Module) -> None:
    """Five steps of SGD with momentum: what is left on the weights by one step would show in the next."""
    ours, theirs = model, copy.deepcopy(model)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9) for m in (ours, theirs)]
    awp = Awp(ours, GAMMA)
    for _ in range(5):
        with awp.perturbed(lambda: loss_of(ours)):
            optimizers[0].zero_grad()
            loss_of(ours).backward()
        optimizers[0].step()

        moved = perturbed_by_hand(theirs, GAMMA)
        loss_of(moved).backward()
        for parameter, other in zip(theirs.parameters(), moved.parameters(), strict=True):
            parameter.grad = other.grad
        for buffer, other in zip(theirs.buffers(), moved.buffers(), strict=True):
            buffer.copy_(other)
        optimizers[1].step()
    for mine, other in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)


def test_only_what_the_authors_code_moves_moves() -> None:
    """By name as well as by shape: a transformer's position embedding has three dimensions, and is no weight."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    model.register_parameter("pos_embed", nn.Parameter(torch.ones(1, 4, 4)))
    before = copy.deepcopy(model.state_dict())

    def loss() -> Tensor:
        return F.cross_entropy(model(X) * model.pos_embed.mean(), Y)

    with Awp(model, GAMMA).perturbed(loss):
        moved = {key for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    assert moved == {"1.weight"}


def test_only_matrices_move_and_gradients_are_left_alone(model: nn.Module) -> None:
    model.classifier.weight.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    before = copy.deepcopy(model.state_dict())
    with Awp(model, GAMMA).perturbed(lambda: loss_of(model)):
        moved = {key for key, value in model.named_parameters() if not torch.equal(value, before[key])}
        assert all(torch.equal(value, before[key]) for key, value in model.named_buffers())
    assert moved == {"features.0.weight", "features.3.weight", "features.6.weight"}
    assert all((parameter.grad == 7.0).all() for parameter in model.parameters())


def test_weights_come_back_after_an_error(model: nn.Module) -> None:
    before = copy.deepcopy(model.state_dict())

    def fail_in_the_block() -> None:
        with Awp(model, GAMMA).perturbed(lambda: loss_of(model)):
            raise ArithmeticError

    def fail_in_the_loss() -> Tensor:
        loss_of(model)
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail_in_the_block()
    with pytest.raises(ArithmeticError), Awp(model, GAMMA).perturbed(fail_in_the_loss):
        pass
    for key, value in model.named_parameters():
        assert torch.equal(value, before[key])


def test_a_tensor_without_gradient_stays() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    model.register_parameter("unused", nn.Parameter(torch.ones(2, 2)))
    with torch.no_grad():
        model[1].weight.zero_()  # a zero weight has no size to move by, and gives no NaN
    with Awp(model, GAMMA).perturbed(lambda: loss_of(model) * 0.0):
        assert (model.unused == 1).all()
        assert (model[1].weight == 0).all()


def test_a_factor_on_the_loss_changes_nothing(model: nn.Module) -> None:
    moved = []
    for factor in (1.0, 2.0**16):
        with Awp(model, GAMMA).perturbed(lambda: loss_of(model) * factor):  # noqa: B023 - called at once
            moved.append([parameter.detach().clone() for parameter in model.parameters()])
    for one, scaled in zip(*moved, strict=True):
        torch.testing.assert_close(one, scaled, rtol=1e-6, atol=1e-7)


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.broadcast_buffers:FutureWarning")  # its successor is newer than torch 2.11
@pytest.mark.usefixtures("process_group")
def test_under_distributed_data_parallel(model: nn.Module) -> None:
    by_hand = perturbed_by_hand(model, GAMMA)
    loss_of(by_hand).backward()
    before = copy.deepcopy(model.state_dict())
    wrapped = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    for _ in range(2):  # the wrapper's reducer must be ready for a second step
        model.load_state_dict(before)
        model.zero_grad()
        with Awp(model, GAMMA).perturbed(lambda: loss_of(wrapped)):
            loss_of(wrapped).backward()
        for ours, theirs in zip(model.parameters(), by_hand.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)


RANK = """
import sys, torch
import torch.nn.functional as F
from fairtat.training.optim.awp import Awp

folder, rank = sys.argv[1], int(sys.argv[2])
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
model, x, y = torch.load(f"{folder}/problem.pt", weights_only=False)
mine = slice(0, 7) if rank == 0 else slice(7, 12)
weight = len(y[mine]) * 2 / len(y)
with Awp(model, 0.05).perturbed(lambda: F.cross_entropy(model(x[mine]), y[mine]) * weight):
    torch.save([w.detach().clone() for w in model.parameters()], f"{folder}/moved{rank}.pt")
torch.distributed.destroy_process_group()
"""


def test_processes_share_the_move_of_the_whole_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    torch.save((model, X, Y), tmp_path / "problem.pt")
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(tmp_path), str(rank)], env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        for rank in range(2)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    moved = [torch.load(tmp_path / f"moved{rank}.pt") for rank in range(2)]
    for first, second, expected in zip(*moved, perturbed_by_hand(model, GAMMA).parameters(), strict=True):
        assert torch.equal(first, second)
        torch.testing.assert_close(first, expected.detach())


def test_make_awp(model: nn.Module) -> None:
    assert make_awp(AwpConfig(), model) is None
    assert isinstance(make_awp(AwpConfig(gamma=Number(0.005)), model), Awp)
