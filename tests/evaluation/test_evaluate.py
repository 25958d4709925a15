from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import fairtat
from fairtat.evaluation import Evaluation, evaluate

CLASSES = 4


class Net(nn.Module):
    """A small random network with BatchNorm, so that a wrong mode shows."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


@pytest.fixture
def net() -> Net:
    torch.manual_seed(3)
    model = Net()
    x = torch.rand(64, 1, 5, 5)
    model(x)  # running statistics other than 0 and 1
    model.eval()
    with torch.no_grad():
        model.layers[-1].bias -= model(x).mean(0)  # every class gets predicted
    return model


@pytest.fixture
def data(net: Net) -> tuple[Tensor, Tensor]:
    """Images, and labels of which the network gets about two thirds right."""
    generator = torch.Generator().manual_seed(4)
    x = torch.rand(53, 1, 5, 5, generator=generator)
    with torch.no_grad():
        predicted = net(x).argmax(1)
    wrong = torch.rand(53, generator=generator) < 0.33
    return x, torch.where(wrong, (predicted + 1) % CLASSES, predicted)


class Halves(nn.Module):
    """Two classes: the logit of class 1 is w.x + b, of class 0 it is 0."""

    def __init__(self, weight: Tensor, bias: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), bias

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1) @ self.weight + self.bias
        return torch.stack((torch.zeros_like(score), score), 1)


def test_robust_accuracy_of_a_linear_model_is_the_closed_form() -> None:
    # The strongest Linf perturbation lowers the margin by eps * ||w||_1, and PGD reaches it: 20 steps of eps / 4.
    generator = torch.Generator().manual_seed(0)
    weight, eps = torch.randn(12, generator=generator), 0.07
    x = 0.1 + 0.8 * torch.rand(400, 1, 3, 4, generator=generator)  # the ball stays inside [0, 1]
    score = x.flatten(1) @ weight
    label = (score + 0.8 * torch.randn(400, generator=generator) > score.median()).long()
    bias = -float(score.median())
    margin = (2 * label - 1) * (score + bias)

    evaluation = evaluate(Halves(weight, bias), x, label, eps=eps, batch_size=128)
    clean_right, robust_right = margin > 0, margin > eps * weight.abs().sum()
    for figures, right in ((evaluation.clean, clean_right), (evaluation.robust, robust_right)):
        assert figures.correct == [int((right & (label == k)).sum()) for k in range(2)]
        assert figures.n == [int((label == k).sum()) for k in range(2)]
    assert 0 < sum(evaluation.robust.correct) < sum(evaluation.clean.correct) < 400


def brute_force(net: nn.Module, x: Tensor, y: Tensor, ids: Tensor) -> tuple[list[list[int]], list[list[int]]]:
    """Confusion matrices, one image at a time, counted in Python."""
    clean = [[0] * CLASSES for _ in range(CLASSES)]
    robust = [[0] * CLASSES for _ in range(CLASSES)]
    for k in range(len(y)):
        image, label = x[k : k + 1], y[k : k + 1]
        x_adv = fairtat.fast_pgd(
            net,
            image,
            label,
            eps=0.03,
            step_size=0.0075,
            steps=4,
            seed=9,
            sample_ids=ids[k : k + 1],
            backend="reference",
        )
        assert isinstance(x_adv, Tensor)
        with torch.no_grad():
            clean[int(label)][int(net(image).argmax())] += 1
            robust[int(label)][int(net(x_adv).argmax())] += 1
    return clean, robust


def test_counts_are_those_of_a_loop_over_single_images(net: Net, data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    ids = torch.arange(len(y)) * 7 + 3
    evaluation = evaluate(net, x, y, eps=0.03, steps=4, seed=9, sample_ids=ids, batch_size=20)
    clean, robust = brute_force(net, x, y, ids)
    assert evaluation.clean.confusion.tolist() == clean
    assert evaluation.robust.confusion.tolist() == robust
    assert evaluation.clean.average > evaluation.robust.average > 0


def test_samples_agree_with_the_counts_and_keep_their_order(net: Net, data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    evaluation = evaluate(net, x, y, eps=0.05, steps=2, batch_size=10)
    samples = evaluation.samples
    assert samples is not None
    assert samples.sample_ids.tolist() == list(range(len(y)))
    assert samples.label.tolist() == y.tolist()
    assert samples.agree_with(evaluation.clean, evaluation.robust)
    with torch.no_grad():
        assert samples.clean_pred.tolist() == net(x).argmax(1).tolist()


def outcomes(evaluation: Evaluation) -> list[list[int]]:
    assert evaluation.samples is not None
    return [evaluation.samples.clean_pred.tolist(), evaluation.samples.robust_pred.tolist()]


def test_the_batch_size_changes_nothing(net: Net, data: tuple[Tensor, Tensor]) -> None:
    one, many = (evaluate(net, *data, eps=0.1, steps=3, batch_size=size) for size in (7, 64))
    assert outcomes(one) == outcomes(many)


def test_the_model_is_left_as_it_was_and_judged_in_eval_mode(net: Net, data: tuple[Tensor, Tensor]) -> None:
    expected = outcomes(evaluate(net, *data, eps=0.1, steps=3))
    net.train()
    before = copy.deepcopy(net.state_dict())
    assert outcomes(evaluate(net, *data, eps=0.1, steps=3)) == expected
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_normalize_is_a_layer_in_front(net: Net, data: tuple[Tensor, Tensor]) -> None:
    class Shift(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - 0.25) / 0.5  # powers of two: no rounding between the two ways

    inside = evaluate(nn.Sequential(Shift(), net), *data, eps=0.1, steps=3)
    outside = evaluate(net, *data, eps=0.1, steps=3, normalize=((0.25,), (0.5,)))
    assert outcomes(inside) == outcomes(outside)


def test_restarts_only_fool_more(net: Net, data: tuple[Tensor, Tensor]) -> None:
    one, five = (evaluate(net, *data, eps=0.05, steps=1, restarts=restarts) for restarts in (1, 5))
    assert one.samples is not None
    assert five.samples is not None
    right_once, right_always = one.samples.correct("robust"), five.samples.correct("robust")
    assert not (right_always & ~right_once).any()
    assert right_always.sum() < right_once.sum()


def test_settings_and_names_are_recorded(net: Net, data: tuple[Tensor, Tensor]) -> None:
    evaluation = evaluate(net, *data, eps=0.1, steps=2, norm="l2", seed=5, class_names=["a", "b", "c", "d"])
    assert evaluation.class_names == ("a", "b", "c", "d")
    attack = evaluation.attack
    assert (attack.eps, attack.step_size, attack.steps, attack.norm, attack.seed) == (0.1, 0.025, 2, "l2", 5)


def test_progress_is_told_after_each_batch(net: Net, data: tuple[Tensor, Tensor]) -> None:
    calls: list[tuple[int, int]] = []
    evaluate(net, *data, eps=0.1, steps=1, batch_size=20, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(20, 53), (40, 53), (53, 53)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.rand(0, 1, 5, 5), "labels": torch.zeros(0, dtype=torch.int64)}, "images is empty"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, r"labels must have shape \(53,\)"),
        ({"sample_ids": torch.arange(4)}, r"sample_ids must have shape \(53,\)"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"class_names": ["a", "b"]}, "2 names, but the model has 4 logits"),
        ({"eps": -0.1}, "eps"),
        ({"images": torch.full((53, 1, 5, 5), 255.0)}, "bounds|\\[0"),
        ({"labels": torch.full((53,), CLASSES)}, "y|label"),
    ],
)
def test_wrong_arguments_are_named(
    net: Net, data: tuple[Tensor, Tensor], changes: dict[str, object], message: str
) -> None:
    arguments: dict[str, object] = {"images": data[0], "labels": data[1], "eps": 0.1, "steps": 1, **changes}
    with pytest.raises(ValueError, match=message):
        evaluate(net, **arguments)  # type: ignore[arg-type]
