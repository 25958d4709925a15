"""fairtat.integrations.torchattacks: CW and DeepFool beside the peer's."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from fairtat.integrations.peer import PeerLoop

torchattacks = pytest.importorskip("torchattacks")
ours = pytest.importorskip("fairtat.integrations.torchattacks")

CW = {"c": 5, "steps": 60, "lr": 0.02}


@pytest.fixture
def many() -> tuple[nn.Module, Tensor, Tensor]:
    """A network, and images of which four are misclassified from the start."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 30, 7)).eval()
    x = torch.rand(40, 3, 6, 5)
    with torch.no_grad():
        model[3].weight.mul_(4)
        y = model(x).argmax(1)
    y[:4] = (y[:4] + 1) % 7
    return model, x, y


@pytest.fixture(autouse=True)
def the_peers_loop_is_an_error():
    with warnings.catch_warnings():
        warnings.simplefilter("error", PeerLoop)
        yield


def lengths(delta: Tensor) -> Tensor:
    return delta.flatten(1).norm(dim=1)


def assert_inside(x_adv: Tensor, x: Tensor) -> None:
    assert x_adv.shape == x.shape
    assert x_adv.dtype == x.dtype
    assert 0 <= float(x_adv.min()) <= float(x_adv.max()) <= 1


@pytest.mark.parametrize("mode", ["default", "targeted"])
def test_cw_finds_what_the_peer_finds(many, mode):
    model, x, y = many
    found = []
    for library in (torchattacks, ours):
        attack = library.CW(model, **CW)
        if mode == "targeted":
            attack.set_mode_targeted_by_function(lambda images, labels: (labels + 2) % 7)
        found.append(attack(x, y))
    theirs, mine = found
    assert_inside(mine, x)
    goal = (y + 2) % 7
    reached = [model(x_adv).argmax(1) == goal if mode == "targeted" else model(x_adv).argmax(1) != y for x_adv in found]
    assert reached[0].sum() > 10
    assert not bool((reached[0] & ~reached[1]).any())
    both = reached[0] & reached[1]
    # Adam goes the same way until the peer's search ends for the whole batch.
    far, near = lengths(theirs - x)[both], lengths(mine - x)[both]
    assert bool((near <= far * 1.02 + 1e-4).all())
    assert near.mean() > 0.8 * far.mean()


def test_cw_asks_for_the_margin_of_kappa_and_searches_c_where_that_is_asked(many):
    model, x, y = many
    x_adv = ours.CW(model, kappa=0.5, **CW)(x, y)
    z = model(x_adv)
    own = z.gather(1, y[:, None])[:, 0]
    lead = z.scatter(1, y[:, None], -torch.inf).amax(1) - own
    moved = lengths(x_adv - x) > 0
    assert moved.sum() > 20
    assert bool((lead[moved] >= 0.5 - 1e-4).all())
    plain = ours.CW(model, **CW)(x, y)
    searched = ours.CW(model, binary_search_steps=5, **CW)(x, y)
    fooled = (model(plain).argmax(1) != y) & (model(searched).argmax(1) != y)
    assert lengths(searched - x)[fooled].mean() < lengths(plain - x)[fooled].mean()


def test_deepfool_fools_what_the_peer_fools_at_the_same_distance(many):
    model, x, y = many
    theirs, mine = (library.DeepFool(model, steps=20)(x, y) for library in (torchattacks, ours))
    assert_inside(mine, x)
    fooled = [model(x_adv).argmax(1) != y for x_adv in (theirs, mine)]
    assert fooled[0].sum() > 30
    assert fooled[1].all()
    assert torch.equal(mine[:4], x[:4])  # misclassified already
    far, near = lengths(theirs - x)[fooled[0]], lengths(mine - x)[fooled[0]]
    # The peer's overshoot lengthens each step, ours the whole way, to which ours adds 1e-4 a step.
    torch.testing.assert_close(near, far, rtol=0.05, atol=3e-4)


@pytest.mark.parametrize("name", ["CW", "DeepFool"])
def test_normalized_images_come_and_go_and_options_reach_the_attack(many, name):
    model, x, y = many
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]

    class Unnormalized(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            shape = (1, 3, 1, 1)
            return model(images * torch.tensor(std).view(shape) + torch.tensor(mean).view(shape))

    attack = getattr(ours, name)(Unnormalized().eval(), chunk_size=16)
    attack.set_normalization_used(mean=mean, std=std)
    found = attack.inverse_normalize(attack(attack.normalize(x), y))
    expected = getattr(ours, name)(model)(x, y)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    with pytest.raises(TypeError, match="no_such_option"):
        getattr(ours, name)(model, no_such_option=1)(x, y)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [("CW", {"c": 0}, "c, steps and lr must be positive"), ("DeepFool", {"steps": 0}, "steps must be positive")],
)
def test_what_fairtat_refuses_runs_in_the_peers_loop(many, name, arguments, message):
    model, x, y = many
    with pytest.warns(PeerLoop, match=message):
        x_adv = getattr(ours, name)(model, **arguments)(x[:3], y[:3])
    assert torch.equal(x_adv, getattr(torchattacks, name)(model, **arguments)(x[:3], y[:3]))


@pytest.mark.parametrize("name", ["CW", "DeepFool"])
def test_no_images(many, name):
    model, x, y = many
    assert getattr(ours, name)(model)(x[:0], y[:0]).shape == (0, 3, 6, 5)
