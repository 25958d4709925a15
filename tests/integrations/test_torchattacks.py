"""fairtat.integrations.torchattacks: the peer's classes with the peer's results."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fairtat.integrations.peer import PeerLoop

torchattacks = pytest.importorskip("torchattacks")
ours = pytest.importorskip("fairtat.integrations.torchattacks")

ARGUMENTS = {
    "PGD": {"eps": 0.1, "alpha": 0.02},
    "PGDL2": {"eps": 1.0, "alpha": 0.2},
    "FGSM": {"eps": 0.1},
    "MIFGSM": {"eps": 0.1, "alpha": 0.02, "decay": 0.7},
}
STEP = {"PGD": 0.02, "PGDL2": 0.2, "FGSM": 0.1, "MIFGSM": 0.02}


def pair(name: str, model, **options):
    return [getattr(library, name)(model, **ARGUMENTS[name], **options) for library in (ours, torchattacks)]


def seeded(attack, x: Tensor, y: Tensor) -> Tensor:
    torch.manual_seed(5)
    return attack(x, y)


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("mode", ["default", "label", "function", "random", "least_likely"])
def test_every_mode_gives_the_peers_images(problem, name, mode):
    fast, peer = pair(name, problem.model)
    for attack in (fast, peer):
        assert isinstance(attack, torchattacks.attack.Attack)
        if mode == "label":
            attack.set_mode_targeted_by_label(quiet=True)
        elif mode == "function":
            attack.set_mode_targeted_by_function(lambda images, labels: (labels + 1) % 7, quiet=True)
        elif mode != "default":
            getattr(attack, f"set_mode_targeted_{mode}")(quiet=True)
    labels = problem.target if mode == "label" else problem.y
    problem.agrees(seeded(fast, problem.x, labels), seeded(peer, problem.x, labels), STEP[name])


@pytest.mark.parametrize("name", ARGUMENTS)
def test_normalized_images_come_and_go_as_with_the_peer(problem, name):
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
    x = (problem.x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    found = []
    for attack in pair(name, problem.model):
        attack.set_normalization_used(mean, std)
        found.append(seeded(attack, x, problem.y))
    far = (found[0] - found[1]).abs() > 1e-4
    assert far.float().mean() < 0.002


def test_no_random_start_and_other_step_counts(problem):
    fast, peer = pair("PGD", problem.model, steps=3, random_start=False)
    problem.agrees(fast(problem.x, problem.y), peer(problem.x, problem.y), 0.02)


def test_the_attacks_go_into_a_multi_attack_and_save(problem, tmp_path):
    fast = [ours.FGSM(problem.model, eps=0.05), ours.PGD(problem.model, eps=0.1)]
    peer = [torchattacks.FGSM(problem.model, eps=0.05), torchattacks.PGD(problem.model, eps=0.1)]
    torch.manual_seed(2)
    mine = torchattacks.MultiAttack(fast)(problem.x, problem.y)
    torch.manual_seed(2)
    theirs = torchattacks.MultiAttack(peer)(problem.x, problem.y)
    problem.agrees(mine, theirs, 0.02)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(problem.x, problem.y), batch_size=5)
    robust = [
        attack.save(loader, tmp_path / "x.pt", verbose=False, return_verbose=True)[0] for attack in (fast[0], peer[0])
    ]
    assert robust[0] == robust[1]
    assert torch.load(tmp_path / "x.pt")["adv_inputs"].shape == problem.x.shape


def test_train_mode_is_left_and_options_reach_the_attack(problem):
    problem.model.train()
    before = {name: value.clone() for name, value in problem.model.state_dict().items()}
    attack = ours.PGD(problem.model, steps=2, backend="reference", chunk_size=4)
    attack(problem.x, problem.y)
    assert problem.model.training
    assert all(torch.equal(value, before[name]) for name, value in problem.model.state_dict().items())
    with pytest.raises(TypeError, match="engin"):
        ours.PGD(problem.model, engin="eager")(problem.x, problem.y)


@pytest.mark.parametrize("reason", ["train", "half", "logits"])
def test_what_fairtat_does_not_compute_runs_in_the_peers_loop(problem, reason):
    x = problem.x
    fast, peer = pair("PGD", problem.model, steps=2, random_start=False)
    if reason == "train":
        for attack in (fast, peer):
            attack.set_model_training_mode(model_training=True, batchnorm_training=True)
    elif reason == "half":
        problem.model.to(torch.bfloat16)
        x = x.to(torch.bfloat16)
    else:

        class Scaled(ours.PGD):
            def get_logits(self, inputs, labels=None, *args, **kwargs):
                return super().get_logits(inputs) * torch.linspace(1, 2, 7)

        fast, peer = Scaled(problem.model, steps=2, random_start=False), None
    with pytest.warns(PeerLoop, match="torchattacks's own loop runs"):
        found = fast(x, problem.y)
    if peer is not None:
        assert torch.equal(found, peer(x, problem.y))


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize(
    ("reach", "eps", "why"), [(1.5, 0.1, "images are outside"), (1.0, 1.5, "eps must be at most 1 in linf")]
)
def test_images_and_radii_that_only_the_peer_accepts(problem, name, reach, eps, why):
    x = problem.x * reach
    fast, peer = (getattr(library, name)(problem.model, eps=eps) for library in (ours, torchattacks))
    if name == "PGDL2" and eps > 1:
        problem.agrees(seeded(fast, x, problem.y), seeded(peer, x, problem.y), STEP[name])
        return
    with pytest.warns(PeerLoop, match=f"torchattacks's own loop runs.*{why}"):
        found = seeded(fast, x, problem.y)
    assert torch.equal(found, seeded(peer, x, problem.y))


@pytest.mark.filterwarnings("error::fairtat.integrations.peer.PeerLoop")
def test_images_outside_by_rounding_are_fairtats(problem):
    x = problem.x.clone()
    x[:, :, 0] = 1 + 5e-7
    fast, peer = pair("PGD", problem.model)
    problem.agrees(seeded(fast, x, problem.y), seeded(peer, x, problem.y), STEP["PGD"])


def test_a_wrong_label_is_told(problem):
    with pytest.raises(ValueError, match="y must be"):
        ours.PGD(problem.model)(problem.x, problem.y + 7)
