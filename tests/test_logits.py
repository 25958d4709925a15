"""fairtat.logits: models that return a tuple, a dict or a single logit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fairtat import autoattack, evaluate, fast_mixed_pgd, fast_pgd, fast_targeted_pgd
from fairtat.attacks.autoattack import APGD
from fairtat.logits import select, two_logits

X, Y = torch.rand(7, 3, 5, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 4, 0, 1])
OPTIONS = {"eps": 0.1, "step_size": 0.03, "steps": 3}


class Returns(nn.Module):
    """A network whose logits are packed in something."""

    def __init__(self, pack, classes: int = 5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.plain = nn.Sequential(nn.Flatten(), nn.Linear(60, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, classes))
        self.pack = pack

    def forward(self, x: Tensor):
        return self.pack(self.plain(x))


PACKED = {
    "tuple": (lambda z: (z, z.sum()), 0),
    "end of a list": (lambda z: [z.sum(), z], -1),
    "dict": (lambda z: {"scores": z}, "scores"),
    "function": (lambda z: {"heads": [z, -z]}, lambda returned: returned["heads"][0]),
}


@pytest.mark.parametrize("packed", PACKED)
def test_attacks_of_the_selected_logits_are_those_of_the_plain_network(packed):
    pack, output = PACKED[packed]
    model = Returns(pack).eval()
    for attack, goal in ((fast_pgd, Y), (fast_targeted_pgd, (Y + 1) % 5)):
        selected = attack(select(model, output), X, goal, **OPTIONS, seed=3)
        assert torch.equal(selected, attack(model.plain, X, goal, **OPTIONS, seed=3))
        assert not torch.equal(selected, X)


def test_autoattack_and_the_mixed_attack_take_it():
    model = Returns(lambda z: (z.sum(), z)).eval()
    found, wanted = (
        autoattack(each, X, Y, eps=0.05, version="custom", attacks=[("apgd-ce", APGD("ce", n_iter=5))])[0]
        for each in (select(model, 1), model.plain)
    )
    assert torch.equal(found, wanted)
    targeted = torch.arange(7) % 2 == 0
    found, wanted = (
        fast_mixed_pgd(each, X, torch.where(targeted, (Y + 1) % 5, Y), targeted, **OPTIONS, seed=3)
        for each in (select(model, 1), model.plain)
    )
    assert torch.equal(found, wanted)


def test_evaluation_counts_the_same():
    model = Returns(lambda z: {"scores": z}).eval()
    y = model.plain(X).argmax(1)
    y[:2] = (y[:2] + 1) % 5
    found, wanted = (evaluate(each, X, y, steps=2, eps=0.02) for each in (select(model, "scores"), model.plain))
    assert sum(found.clean.correct) == 5
    assert found.clean.correct == wanted.clean.correct
    assert found.robust.correct == wanted.robust.correct


def test_modes_and_buffers_stay_as_they_were():
    model = Returns(lambda z: (z,)).train()
    model.plain[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fast_pgd(select(model, 0), X, Y, **OPTIONS)
    assert [module.training for module in model.plain] == [True, True, False, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not select(model.eval(), 0).training


@pytest.mark.parametrize("flat", [False, True])
def test_two_logits_have_the_binary_loss_and_its_gradient(flat):
    model = Returns((lambda z: z[:, 0]) if flat else (lambda z: z), classes=1).eval().double()
    x, y = X.double().requires_grad_(), Y % 2
    z = two_logits(model)(x)
    loss, binary = (
        nn.functional.cross_entropy(z, y),
        nn.functional.binary_cross_entropy_with_logits(model(x).reshape(-1), y.double()),
    )
    torch.testing.assert_close(loss, binary)
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], torch.autograd.grad(binary, x)[0])
    assert torch.equal(z.argmax(1) == 1, model(x).reshape(-1) > 0)


def test_what_they_do_not_take_is_told():
    with pytest.raises(TypeError, match=r"output must be an index, a key or a function, got 1\.5"):
        select(nn.Identity(), 1.5)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module or a callable, got int"):
        select(3, 0)
    with pytest.raises(TypeError, match=r"fairtat\.logits\.select\(model, index or key\)"):
        fast_pgd(Returns(lambda z: (z,)).eval(), X, Y, **OPTIONS)
    with pytest.raises(ValueError, match=r"one logit for each image.*got \(7, 5\)"):
        two_logits(Returns(lambda z: z).eval())(X)
