"""fairtat.integrations.foolbox: the peer's classes, call and results."""

from __future__ import annotations

import pytest
import torch

from fairtat.integrations.peer import PeerLoop

foolbox = pytest.importorskip("foolbox")
ours = pytest.importorskip("fairtat.integrations.foolbox")

NAMES = {"LinfPGD": 0.1, "L2PGD": 1.0, "LinfFastGradientAttack": 0.1, "L2FastGradientAttack": 1.0}


def both(name: str, **arguments):
    return getattr(ours, name)(**arguments), getattr(foolbox.attacks, name)(**arguments)


def run(attack, *arguments, **keywords):
    torch.manual_seed(3)
    return attack(*arguments, **keywords)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("preprocessing", [None, "mean and std", "std", "flipped"])
def test_raw_clipped_and_success_of_labels_and_of_a_list_of_radii(problem, name, preprocessing):
    chosen = {
        None: None,
        "mean and std": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "axis": -3},
        "std": {"std": [0.5, 0.5, 0.6], "axis": -3},
        "flipped": {"mean": [0.4, 0.5, 0.6], "axis": -3, "flip_axis": -3},
    }[preprocessing]
    if chosen is not None:
        chosen = {key: torch.tensor(value) if isinstance(value, list) else value for key, value in chosen.items()}
    model = foolbox.PyTorchModel(problem.model, bounds=(0, 1), preprocessing=chosen)
    fast, peer = both(name)
    assert isinstance(fast, foolbox.attacks.Attack)
    radii = [NAMES[name] / 4, NAMES[name]]
    mine, theirs = (run(attack, model, problem.x, problem.y, epsilons=radii) for attack in (fast, peer))
    for raw, clipped, their_raw, their_clipped in zip(*mine[:2], *theirs[:2], strict=True):
        problem.agrees(raw, their_raw, NAMES[name])
        problem.agrees(clipped, their_clipped, NAMES[name])
    assert mine[2].shape == theirs[2].shape == (2, 13)
    assert (mine[2] != theirs[2]).sum() <= 1


@pytest.mark.parametrize("name", ["LinfPGD", "L2PGD"])
def test_targets_other_bounds_and_steps(problem, name):
    model = foolbox.PyTorchModel(problem.model, bounds=(-1, 2))
    fast, peer = both(name, steps=7, abs_stepsize=0.05, random_start=False)
    criterion = foolbox.criteria.TargetedMisclassification(problem.target)
    mine, theirs = (attack(model, problem.x, criterion, epsilons=NAMES[name])[0] for attack in (fast, peer))
    problem.agrees(mine, theirs, 0.05)


def test_the_module_itself_is_attacked_so_that_every_engine_may_serve(problem):
    model = foolbox.PyTorchModel(problem.model, bounds=(0, 1))
    attack = ours.LinfPGD(steps=2, engine="eager", backend="reference", chunk_size=5)
    assert ours._network(model, problem.x)[0] is problem.model
    problem.agrees(
        run(attack, model, problem.x, problem.y, epsilons=0.1)[0],
        run(foolbox.attacks.LinfPGD(steps=2), model, problem.x, problem.y, epsilons=0.1)[0],
        0.1,
    )


@pytest.mark.filterwarnings("ignore:The PyTorch model is in training mode")
@pytest.mark.parametrize("reason", ["optimizer", "train", "criterion"])
def test_what_fairtat_does_not_compute_runs_in_the_peers_loop(problem, reason):
    fast, criterion = ours.LinfPGD(steps=2, random_start=False), problem.y
    if reason == "optimizer":

        class Other(ours.LinfPGD):
            def get_optimizer(self, x, stepsize):
                return super().get_optimizer(x, 2 * stepsize)

        fast = Other(steps=2, random_start=False)
    elif reason == "train":
        problem.model.train()
    else:

        class Anything(foolbox.criteria.Misclassification):
            pass

        criterion = Anything(problem.y)
    model = foolbox.PyTorchModel(problem.model, bounds=(0, 1))
    with pytest.warns(PeerLoop, match="foolbox's own loop runs") if reason != "criterion" else _nothing():
        fast(model, problem.x, criterion, epsilons=0.1)


def _nothing():
    import contextlib

    return contextlib.nullcontext()


@pytest.mark.parametrize("name", ["LinfPGD", "LinfFastGradientAttack"])
def test_a_radius_over_the_range_runs_in_the_peers_loop(problem, name):
    model = foolbox.PyTorchModel(problem.model, bounds=(0, 1))
    fast, peer = both(name)
    with pytest.warns(PeerLoop, match="foolbox's own loop runs.*eps must be at most 1 in linf"):
        mine = run(fast, model, problem.x, problem.y, epsilons=1.5)
    assert torch.equal(mine[0], run(peer, model, problem.x, problem.y, epsilons=1.5)[0])


def test_images_outside_the_bounds_are_refused_as_by_the_peer(problem):
    model = foolbox.PyTorchModel(problem.model, bounds=(0.4, 0.6))
    for attack in both("LinfPGD"):
        with pytest.raises(AssertionError):
            attack(model, problem.x, problem.y, epsilons=0.1)


def test_targets_are_refused_where_the_peer_refuses_them(problem):
    model = foolbox.PyTorchModel(problem.model, bounds=(0, 1))
    criterion = foolbox.criteria.TargetedMisclassification(problem.target)
    with pytest.warns(PeerLoop), pytest.raises(ValueError, match="unsupported criterion"):
        ours.LinfFastGradientAttack()(model, problem.x, criterion, epsilons=0.1)
