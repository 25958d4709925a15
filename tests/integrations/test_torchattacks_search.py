"""fairtat.integrations.torchattacks: APGD, APGDT, FAB, Square and AutoAttack beside the peer's."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor, nn

from fairtat.integrations.peer import PeerLoop

torchattacks = pytest.importorskip("torchattacks")
ours = pytest.importorskip("fairtat.integrations.torchattacks")

CASES = {
    "APGD": {"steps": 10},
    "APGD of DLR": {"steps": 10, "loss": "dlr", "n_restarts": 2},
    "APGDT": {"steps": 10, "n_classes": 7},
    "FAB": {"steps": 10},
    "FAB of all targets": {"steps": 10, "multi_targeted": True, "n_classes": 7},
    "Square": {"n_queries": 60},
    "AutoAttack": {"n_classes": 7},
}
RADII = {"Linf": 0.02, "L2": 0.3}
AT_ODDS = 3  # of 61 images: random numbers differ, and the weakest of these attacks misses a few by chance


def problem_of(height: int, width: int) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(8 * height * width, 7)
    ).eval()
    x = torch.rand(61, 3, height, width)
    with torch.no_grad():
        model[3].weight.mul_(4)
        y = model(x).argmax(1)
    y[:4] = (y[:4] + 1) % 7
    return model, x, y


@pytest.fixture
def many() -> tuple[nn.Module, Tensor, Tensor]:
    """A network, and images about half of which can be fooled within RADII."""
    return problem_of(6, 5)


def made(library, name: str, model: nn.Module, **arguments):
    return getattr(library, name.split()[0])(model, **{**CASES.get(name, {}), **arguments})


def fooled(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return model(x).argmax(1) != y


def lengths(delta: Tensor, norm: str) -> Tensor:
    return delta.flatten(1).norm(p=torch.inf if norm == "Linf" else 2, dim=1)


@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize(
    "name", [*(name for name in CASES if name != "AutoAttack"), pytest.param("AutoAttack", marks=pytest.mark.slow)]
)
def test_as_strong_as_the_peer_and_within_the_radius(many, name, norm):
    model, x, y = many
    eps = RADII[norm]
    fast, peer = (made(library, name, model, norm=norm, eps=eps, seed=0) for library in (ours, torchattacks))
    assert isinstance(fast, getattr(torchattacks, name.split()[0]))
    mine, theirs = fast(x, y), peer(x, y)
    assert lengths(mine - x, norm).max() <= eps * (1 + 1e-5)
    assert mine.min() >= 0
    assert mine.max() <= 1
    found = fooled(model, mine, y)
    assert 5 < found.sum() < 60
    assert torch.equal(mine[~found], x[~found])
    assert (found.sum() - fooled(model, theirs, y).sum()).abs() <= AT_ODDS


@pytest.mark.parametrize(("mode", "eps"), [("by_label", 0.07), ("by_function", 0.07), ("random", 0.07)])
def test_square_towards_targets(mode, eps):
    model, x, y = problem_of(20, 20)  # the peer never draws the last row and column, which matters in smaller images
    target = (y + 1) % 7
    reached = []
    for library in (ours, torchattacks):
        attack = library.Square(model, eps=eps, n_queries=120)
        chosen = [lambda _, labels: (labels + 1) % 7] if mode == "by_function" else []
        getattr(attack, f"set_mode_targeted_{mode}")(*chosen, quiet=True)
        torch.manual_seed(3)
        goal = target if mode.startswith("by") else attack.get_target_label(x, y)
        torch.manual_seed(3)
        x_adv = attack(x, target if mode == "by_label" else y)
        reached.append(int((model(x_adv).argmax(1) == goal).sum()))
    assert 5 < reached[0] < 61
    assert abs(reached[0] - reached[1]) <= 2 * AT_ODDS, reached


def test_settings_changed_after_the_attack_was_made_and_a_models_own_mode(many):
    model, x, y = many
    model.train()
    attack = ours.APGD(model, eps=1e-6, steps=3, chunk_size=20)
    assert not (fooled(model, attack(x, y), y) & ~fooled(model, x, y)).any()
    attack.eps = 0.3
    assert fooled(model, attack(x, y), y).all()
    assert model.training


def test_autoattack_runs_the_parts_that_it_has_and_says_how_far_it_is(many, capsys):
    model, x, y = many
    attack = ours.AutoAttack(model, eps=RADII["Linf"], n_classes=7, seed=0, verbose=True)
    del attack._autoattack.attacks[1:]
    alone = ours.APGD(model, eps=RADII["Linf"], seed=0)(x, y)
    assert torch.equal(attack(x, y), alone)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["clean", "apgd-ce"]
    assert lines[1].endswith(f"{(~fooled(model, alone, y)).double().mean():.2%}")


def test_normalized_images_come_and_go(many):
    model, x, y = many
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.25])
    shape = (1, 3, 1, 1)

    class Unnormalized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, z: Tensor) -> Tensor:
            return self.inner(z * std.view(shape) + mean.view(shape))

    attack = ours.APGD(Unnormalized().eval(), eps=RADII["Linf"])
    attack.set_normalization_used(mean.tolist(), std.tolist())
    z = attack(attack.normalize(x), y)
    plain = ours.APGD(model, eps=RADII["Linf"])(x, y)
    found = z * std.view(shape) + mean.view(shape)
    assert (fooled(model, found, y) != fooled(model, plain, y)).sum() <= 1
    assert (found - x).abs().max() <= RADII["Linf"] + 1e-5


def test_what_fairtat_does_not_compute_runs_in_the_peers_loop(many):
    model, x, y = many
    arguments = {"loss": "ce", "n_queries": 3}
    with pytest.warns(PeerLoop, match="torchattacks's own loop runs.*Square's loss is 'ce'"):
        mine = ours.Square(model, **arguments)(x, y)
    assert torch.equal(mine, torchattacks.Square(model, **arguments)(x, y))
    for z, eps, why in ((x * 1.5, 0.1, "images are outside"), (x, 1.5, "eps must be at most 1 in linf")):
        with pytest.warns(PeerLoop, match=why):
            mine = ours.APGD(model, eps=eps, steps=3)(z, y)
        assert torch.equal(mine, torchattacks.APGD(model, eps=eps, steps=3)(z, y))
    # The peer's own FAB in L1 is broken; it is told, not replaced.
    with pytest.warns(PeerLoop, match="norm is 'L1'"), pytest.raises(UnboundLocalError):
        ours.FAB(model, norm="L1", eps=1.0, steps=1)(x, y)


def test_fab_towards_given_targets_is_the_peers(many):
    model, x, _ = many
    y = model(x).argmax(1)
    found = []
    for library in (ours, torchattacks):
        attack = library.FAB(model, eps=RADII["Linf"], steps=3)
        attack.set_mode_targeted_by_function(lambda _, labels: (labels + 1) % 7, quiet=True)
        found.append(attack)
    with pytest.warns(PeerLoop, match="accepts any wrong class"):
        mine = found[0](x, y)
    assert torch.equal(mine, found[1](x, y))


def test_the_peers_arguments_are_shown_and_unknown_options_are_told(many):
    model, x, y = many
    assert list(inspect.signature(ours.APGD).parameters)[:3] == ["model", "norm", "eps"]
    assert list(inspect.signature(ours.PGD).parameters)[-2:] == ["random_start", "options"]
    with pytest.raises(TypeError, match="engin"):
        ours.Square(model, engin="eager")(x, y)
