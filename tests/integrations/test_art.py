"""fairtat.integrations.art: numpy in and out, with the peer's arguments and results."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fairtat.integrations.peer import PeerLoop

art = pytest.importorskip("art.attacks.evasion")
ours = pytest.importorskip("fairtat.integrations.art")

from art.estimators.classification import PyTorchClassifier  # noqa: E402


def classifier(problem, *, clip_values=(0.0, 1.0), preprocessing=(0.0, 1.0), loss=None):
    return PyTorchClassifier(
        problem.model,
        loss=loss or nn.CrossEntropyLoss(),
        input_shape=(3, 6, 5),
        nb_classes=7,
        clip_values=clip_values,
        preprocessing=preprocessing,
        device_type="cpu",
    )


def generated(library, name: str, estimator, x, y=None, **arguments):
    np.random.seed(4)  # noqa: NPY002 - ART draws from the global generator
    if name == "ProjectedGradientDescent":
        arguments["verbose"] = False
    return getattr(library, name)(estimator, **arguments).generate(x, y)


def compared(problem, name: str, estimator, y=None, **arguments):
    x = problem.x.numpy()
    mine, theirs = (generated(library, name, estimator, x, y, **arguments) for library in (ours, art))
    assert mine.dtype == theirs.dtype == np.float32
    problem.agrees(torch.from_numpy(mine), torch.from_numpy(theirs), 0.1)


PGD = {"eps": 0.1, "eps_step": 0.02, "max_iter": 6, "batch_size": 5}
MEAN, STD = np.array([0.4, 0.5, 0.6], np.float32), np.array([0.2, 0.3, 0.25], np.float32)


@pytest.mark.parametrize("starts", [0, 1, 3])
@pytest.mark.parametrize("targeted", [False, True])
def test_projected_gradient_descent(problem, starts, targeted):
    y = problem.target.numpy() if targeted else None
    compared(
        problem, "ProjectedGradientDescent", classifier(problem), y, **PGD, num_random_init=starts, targeted=targeted
    )


@pytest.mark.parametrize(
    ("estimator", "arguments"),
    [
        ({"preprocessing": (MEAN, STD)}, {}),
        ({"clip_values": None}, {}),
        ({"clip_values": None}, {"norm": 2, "eps": 1.0, "eps_step": 0.2, "num_random_init": 1}),
        ({"clip_values": (-0.5, 1.5)}, {"norm": "inf"}),
        ({}, {"decay": 0.9, "num_random_init": 2}),
        ({"loss": nn.CrossEntropyLoss(reduction="sum")}, {"random_eps": True}),
        ({}, {"eps": np.linspace(0.02, 0.1, 13).reshape(13, 1, 1, 1), "eps_step": np.full((13, 1, 1, 1), 0.02)}),
    ],
    ids=["mean and std", "no bounds", "L2", "other bounds", "momentum", "random radii", "radii per sample"],
)
def test_arguments_of_estimator_and_attack(problem, estimator, arguments):
    one_hot = np.eye(7, dtype=np.float32)[problem.y.numpy()]
    compared(problem, "ProjectedGradientDescent", classifier(problem, **estimator), one_hot, **{**PGD, **arguments})


@pytest.mark.parametrize("starts", [0, 1])
@pytest.mark.parametrize("targeted", [False, True])
def test_fast_gradient_method(problem, starts, targeted):
    y = problem.target.numpy() if targeted else None
    arguments = {"eps": 0.1, "num_random_init": starts, "targeted": targeted, "batch_size": 5}
    compared(problem, "FastGradientMethod", classifier(problem), y, **arguments)


@pytest.mark.parametrize(
    ("estimator", "arguments", "why"),
    [
        ({}, {"norm": 2, "eps": 1.0, "eps_step": 0.2}, "norm is 2"),
        ({"loss": nn.CrossEntropyLoss(label_smoothing=0.1)}, {}, "the estimator's loss is"),
        ({}, {"eps": np.full((3, 6, 5), 0.1), "eps_step": np.full((3, 6, 5), 0.02)}, "differs from pixel to pixel"),
    ],
    ids=["L2", "loss", "radii per pixel"],
)
def test_what_fairtat_does_not_compute_runs_in_the_peers_loop(problem, estimator, arguments, why):
    made, x = classifier(problem, **estimator), problem.x.numpy()
    with pytest.warns(PeerLoop, match=f"ART's own loop runs.*{why}"):
        mine = generated(ours, "ProjectedGradientDescent", made, x, problem.y.numpy(), **{**PGD, **arguments})
    theirs = generated(art, "ProjectedGradientDescent", made, x, problem.y.numpy(), **{**PGD, **arguments})
    assert np.array_equal(mine, theirs)


@pytest.mark.parametrize("name", ["ProjectedGradientDescent", "FastGradientMethod"])
@pytest.mark.parametrize(
    ("clip_values", "eps", "why"),
    [
        ((0.4, 0.6), 0.1, "images are outside"),
        ((0.0, 1.0), 1.5, "eps must be at most 1 in linf"),
        ((0.0, 1.0), np.linspace(0.1, 1.5, 13).reshape(13, 1, 1, 1), "eps must be at most 1 in linf"),
    ],
    ids=["images", "radius", "radii per sample"],
)
def test_images_and_radii_that_only_the_peer_accepts(problem, name, clip_values, eps, why):
    made, x, y = classifier(problem, clip_values=clip_values), problem.x.numpy(), problem.y.numpy()
    arguments = {"eps": eps, "eps_step": np.full_like(eps, 0.02) if isinstance(eps, np.ndarray) else 0.02}
    with pytest.warns(PeerLoop, match=f"ART's own loop runs.*{why}"):
        mine = generated(ours, name, made, x, y, **arguments)
    assert np.array_equal(mine, generated(art, name, made, x, y, **arguments))


def test_options_reach_the_attack_and_set_params_too(problem):
    estimator = classifier(problem)
    attack = ours.ProjectedGradientDescent(estimator, **PGD, verbose=False, options={"backend": "reference"})
    assert isinstance(attack, art.ProjectedGradientDescent)
    attack.set_params(eps=0.05, eps_step=0.05, max_iter=1)
    found = attack.generate(problem.x.numpy(), problem.y.numpy())
    assert np.abs(found - problem.x.numpy()).max() == pytest.approx(0.05)
    with pytest.raises(TypeError, match="backen"):
        ours.ProjectedGradientDescent(estimator, verbose=False, options={"backen": "cpu"}).generate(problem.x.numpy())
