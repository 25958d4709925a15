from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import fairtat
from fairtat.data import image_data
from fairtat.evaluation import Evaluation, corrupt, evaluate

CLASSES = 4
Net = Counted = nn.Module
Data = tuple[Tensor, Tensor]
Halves = Callable[[Tensor, float], nn.Module]


def test_robust_accuracy_of_a_linear_model_is_the_closed_form(halves: Halves) -> None:
    # The strongest Linf perturbation lowers the margin by eps * ||w||_1, and PGD reaches it: 20 steps of eps / 4.
    generator = torch.Generator().manual_seed(0)
    weight, eps = torch.randn(12, generator=generator), 0.07
    x = 0.1 + 0.8 * torch.rand(400, 1, 3, 4, generator=generator)  # the ball stays inside [0, 1]
    score = x.flatten(1) @ weight
    label = (score + 0.8 * torch.randn(400, generator=generator) > score.median()).long()
    bias = -float(score.median())
    margin = (2 * label - 1) * (score + bias)

    evaluation = evaluate(halves(weight, bias), x, label, eps=eps, batch_size=128)
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


def test_counts_are_those_of_a_loop_over_single_images(net: Net, data: Data) -> None:
    x, y = data
    ids = torch.arange(len(y)) * 7 + 3
    # Without an active set it is the loop of most papers: every image, all steps, the last one counts.
    evaluation = evaluate(net, x, y, eps=0.03, steps=4, seed=9, sample_ids=ids, batch_size=20, active_set=False)
    clean, robust = brute_force(net, x, y, ids)
    assert evaluation.clean.confusion.tolist() == clean
    assert evaluation.robust.confusion.tolist() == robust
    assert evaluation.clean.average > evaluation.robust.average > 0


def test_samples_keep_their_order_and_give_the_clean_predictions(net: Net, data: Data) -> None:
    x, y = data
    samples = evaluate(net, x, y, eps=0.05, steps=2, batch_size=10).samples
    assert samples is not None
    assert samples.sample_ids.tolist() == list(range(len(y)))
    assert samples.label.tolist() == y.tolist()
    with torch.no_grad():
        logits = net(x)
    assert samples.pred_of("clean").tolist() == logits.argmax(1).tolist()
    others = logits.masked_fill(F.one_hot(y, CLASSES).bool(), -torch.inf).amax(1)
    torch.testing.assert_close(
        torch.from_numpy(samples.margin[samples.row("clean")]), logits[range(len(y)), y] - others
    )


def test_margins_under_attack_say_what_is_right(net: Net, data: Data) -> None:
    samples = evaluate(net, *data, attacks=["pgd-3", "cw-3", "fgsm", "noise-3"], eps=0.05).samples
    assert samples is not None
    for name in samples.names:
        assert ((samples.margin[samples.row(name)] > 0) == samples.correct(name)).all()


def outcomes(evaluation: Evaluation) -> list[list[int]]:
    assert evaluation.samples is not None
    predictions: list[list[int]] = evaluation.samples.pred.tolist()
    return predictions


def test_the_batch_size_changes_nothing(net: Net, data: Data) -> None:
    one, many = (evaluate(net, *data, eps=0.1, steps=3, batch_size=size) for size in (7, 64))
    assert outcomes(one) == outcomes(many)


def test_the_model_is_left_as_it_was_and_judged_in_eval_mode(net: Net, data: Data) -> None:
    expected = outcomes(evaluate(net, *data, eps=0.1, steps=3))
    net.train()
    before = copy.deepcopy(net.state_dict())
    assert outcomes(evaluate(net, *data, eps=0.1, steps=3)) == expected
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_normalize_is_a_layer_in_front(net: Net, data: Data) -> None:
    class Shift(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - 0.25) / 0.5  # powers of two: no rounding between the two ways

    inside = evaluate(nn.Sequential(Shift(), net), *data, eps=0.1, steps=3)
    outside = evaluate(net, *data, eps=0.1, steps=3, normalize=((0.25,), (0.5,)))
    assert outcomes(inside) == outcomes(outside)


def test_restarts_only_fool_more(net: Net, data: Data) -> None:
    one, five = (evaluate(net, *data, eps=0.05, steps=1, restarts=restarts) for restarts in (1, 5))
    assert one.samples is not None
    assert five.samples is not None
    right_once, right_always = one.samples.correct("robust"), five.samples.correct("robust")
    assert not (right_always & ~right_once).any()
    assert right_always.sum() < right_once.sum()


def test_settings_and_names_are_recorded(net: Net, data: Data) -> None:
    evaluation = evaluate(net, *data, eps=0.1, steps=2, norm="l2", seed=5, class_names=["a", "b", "c", "d"])
    assert evaluation.class_names == ("a", "b", "c", "d")
    attack = evaluation.attack
    assert (attack.eps, attack.step_size, attack.steps, attack.norm, attack.seed) == (0.1, 0.025, 2, "l2", 5)


def test_progress_is_told_after_each_batch(net: Net, data: Data) -> None:
    calls: list[tuple[str, int, int]] = []
    options: dict[str, Any] = {"batch_size": 20, "active_set": False, "check_sanity": False}
    evaluate(net, *data, eps=0.1, steps=1, progress=lambda *call: calls.append(call), **options)
    batches = [(20, 53), (40, 53), (53, 53)]
    assert calls == [(name, *batch) for name in ("clean", "pgd-1") for batch in batches]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": torch.rand(0, 1, 5, 5), "labels": torch.zeros(0, dtype=torch.int64)}, "images is empty"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, r"labels must have shape \(53,\)"),
        ({"sample_ids": torch.arange(4)}, r"sample_ids must have shape \(53,\)"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"class_names": ["a", "b"]}, "2 names, but the model has 4 logits"),
        ({"eps": -0.1}, "eps"),
        ({"data": torch.full((53, 1, 5, 5), torch.nan)}, "images hold NaN"),
        ({"labels": torch.arange(53) % (CLASSES + 1)}, "labels go up to 4, but the model has 4 logits$"),
        (
            {"labels": torch.arange(53) % CLASSES + 1},
            "labels go up to 4, but the model has 4 logits; if the labels start at 1, subtract 1$",
        ),
        ({"labels": torch.full((53,), -1)}, "labels must be 0 or more"),
        ({"attacks": [], "eps_sweep": [0.1]}, "eps_sweep needs an attack"),
    ],
)
def test_wrong_arguments_are_named(net: Net, data: Data, changes: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"data": data[0], "labels": data[1], "eps": 0.1, "steps": 1, **changes}
    with pytest.raises(ValueError, match=message):
        evaluate(net, **arguments)  # type: ignore[arg-type]


def test_what_few_classes_change_is_said(halves: Halves) -> None:
    model = halves(torch.ones(12), -6.0)
    x, y = torch.rand(4, 1, 3, 4), torch.zeros(4, dtype=torch.int64)
    evaluation = evaluate(model, x, y, attacks=["apgd-dlr-3+apgd-t-3"], check_sanity=False)
    (said,) = (finding for finding in evaluation.findings if finding.id == "attacks:few-classes")
    assert said.severity == "info"
    assert said.text == (
        "APGD-DLR: 2 classes are too few for the loss 'dlr': the margin took its place; APGD-T: 2 classes are too few "
        "for the loss 'dlr-targeted': the margin took its place; APGD-T: 2 classes have 1 targets, not 9."
    )


def test_a_single_class_cannot_be_attacked() -> None:
    with pytest.raises(ValueError, match="attack 'apgd-ce' needs at least 2 classes, but the model has 1"):
        evaluate(
            lambda x: x.flatten(1)[:, :1],
            torch.rand(4, 1, 3, 4),
            torch.zeros(4, dtype=torch.int64),
            attacks=["apgd-ce"],
        )


def robust_of(evaluation: Evaluation, name: str) -> Tensor:
    assert evaluation.samples is not None
    return torch.from_numpy(evaluation.samples.correct(name))


def test_the_active_set_finds_what_any_step_finds_and_no_less(net: Net, data: Data) -> None:
    plain = evaluate(net, *data, eps=0.04, steps=6, active_set=False)
    active = evaluate(net, *data, eps=0.04, steps=6)
    steps = [evaluate(net, *data, eps=0.04, steps=k, active_set=False, step_size=0.01) for k in range(7)]
    ever_fooled = torch.stack([~robust_of(each, each.primary) for each in steps]).any(0)
    clean_wrong = ~robust_of(plain, "clean")
    assert torch.equal(~robust_of(active, "robust"), ever_fooled | clean_wrong)
    assert active.robust.average <= plain.robust.average


def test_the_active_set_shows_the_model_fewer_images(counted: Counted, data: Data) -> None:
    seen = {}
    for active_set in (False, True):
        counted.images = 0
        sweep = evaluate(
            counted, *data, attacks=["pgd-8"], eps=0.04, eps_sweep=[0.02, 0.04, 0.08, 0.16],
            active_set=active_set, check_sanity=False,
        )  # fmt: skip
        seen[active_set] = counted.images
        swept = [condition.attacked for condition in sweep.of_kind("sweep")]
        if active_set:
            right = sweep.clean.correct
            assert swept[0] == sum(right)
            assert swept == sorted(swept, reverse=True)
            assert swept[-1] < swept[0]
        else:
            assert swept == [53] * 4
    assert seen[True] < 0.6 * seen[False]


def test_a_larger_radius_never_helps(net: Net, data: Data) -> None:
    evaluation = evaluate(net, *data, attacks=["fgsm"], eps=0.1, eps_sweep=[0.3, 0.02, 0.1, 0.6])
    eps, accuracy, average = evaluation.curve()
    assert eps == [0.0, 0.02, 0.1, 0.3, 0.6]
    assert accuracy.shape == (5, CLASSES)
    assert sorted(average, reverse=True) == list(average)
    assert average[0] > average[-1]


def test_a_suite_is_the_worst_of_its_stages_and_the_worst_case_of_all(net: Net, data: Data) -> None:
    evaluation = evaluate(net, *data, attacks=["fgsm+pgd-3", "fgsm", "pgd-3", "cw-3"], eps=0.04)
    fgsm, pgd, cw = (robust_of(evaluation, name) for name in ("fgsm", "pgd-3", "cw-3"))
    assert torch.equal(robust_of(evaluation, "fgsm+pgd-3"), fgsm & pgd)
    assert torch.equal(robust_of(evaluation, "worst"), fgsm & pgd & cw)
    assert evaluation.condition("fgsm+pgd-3").attacked == int(fgsm.sum())
    assert evaluation.primary == "fgsm+pgd-3"


def test_attacks_in_another_norm_or_radius_stand_beside_the_main_one(net: Net, data: Data) -> None:
    evaluation = evaluate(net, *data, attacks=["pgd-3", "pgd-3:l2@0.2", "pgd-3@0.01"], eps=0.04)
    assert evaluation.names == ("clean", "pgd-3", "pgd-3:l2@0.2", "pgd-3@0.01")  # no worst case over other questions
    alone = evaluate(net, *data, attacks=["pgd-3"], eps=0.2, norm="l2")
    assert torch.equal(robust_of(evaluation, "pgd-3:l2@0.2"), robust_of(alone, "robust"))


def test_the_targeted_sweep_is_that_of_a_loop_over_images_and_targets(net: Net, data: Data) -> None:
    x, y = data[0][:20], data[1][:20]
    evaluation = evaluate(net, x, y, attacks=[], targeted="pgd-3", eps=0.04, active_set=False)
    expected = torch.zeros(CLASSES, CLASSES, dtype=torch.int64)
    for k in range(20):
        for target in range(CLASSES):
            if target == int(y[k]):
                continue
            x_adv = fairtat.fast_targeted_pgd(
                net, x[k : k + 1], torch.tensor([target]), eps=0.04, step_size=0.01, steps=3, seed=0,
                sample_ids=torch.tensor([k]),
            )  # fmt: skip
            assert isinstance(x_adv, Tensor)
            with torch.no_grad():
                found = {int(net(x[k : k + 1]).argmax()), int(net(x_adv).argmax())}
            expected[y[k], target] += target in found
    assert evaluation.targeted is not None
    assert evaluation.targeted.reached.tolist() == expected.tolist()
    assert evaluation.targeted.n == tuple(int((y == k).sum()) for k in range(CLASSES))
    active = evaluate(net, x, y, attacks=[], targeted="pgd-3", eps=0.04).targeted
    assert active is not None
    assert (active.reached >= expected).all()


def test_corruptions_are_judged_as_images_of_their_own(net: Net, data: Data) -> None:
    pytest.importorskip("kornia")
    x, y = data
    evaluation = evaluate(net, x, y, attacks=[], corruptions=["contrast", "gaussian_noise"], severities=[1, 4], seed=3)
    assert evaluation.names == ("clean", "contrast/1", "contrast/4", "gaussian_noise/1", "gaussian_noise/4")
    with torch.no_grad():
        pred = net(corrupt(x, "contrast", 4)).argmax(1)
    assert evaluation.samples is not None
    assert evaluation.samples.pred_of("contrast/4").tolist() == pred.tolist()
    assert not torch.equal(corrupt(x, "gaussian_noise", 1, seed=3), corrupt(x, "gaussian_noise", 1, seed=4))


def test_ready_made_corrupted_images_are_read_in_the_order_of_the_clean_ones(net: Net, data: Data) -> None:
    x, y = data
    evaluation = evaluate(
        net, x, y, attacks=[], corruptions=["night"], severities=[2], corrupted=lambda name, severity: x.flip(3)
    )
    with torch.no_grad():
        expected = net(x.flip(3)).argmax(1)
    assert evaluation.samples is not None
    assert evaluation.samples.pred_of("night/2").tolist() == expected.tolist()
    with pytest.raises(ValueError, match="expected 53 images in the order of the clean ones, got 3"):
        evaluate(net, x, y, corruptions=["night"], corrupted=lambda name, severity: x[:3])


def test_a_loader_a_pair_and_image_data_are_the_same_images(net: Net, data: Data) -> None:
    x, y = data
    levels = (x * 255).round().to(torch.uint8)
    floats = levels.float().div(255)
    expected = outcomes(evaluate(net, floats, y, eps=0.1, steps=2))
    loader = DataLoader(TensorDataset(floats, y), batch_size=11)
    stored = image_data("here", levels, y, class_names=("a", "b", "c", "d"))
    assert outcomes(evaluate(net, loader, eps=0.1, steps=2)) == expected
    assert outcomes(evaluate(net, (levels, y), eps=0.1, steps=2)) == expected
    of_stored = evaluate(net, stored, eps=0.1, steps=2)
    assert outcomes(of_stored) == expected
    assert of_stored.class_names == ("a", "b", "c", "d")


def test_it_is_there_at_the_top() -> None:
    assert fairtat.evaluate is evaluate
    with pytest.raises(AttributeError, match="evaluat"):
        _ = fairtat.evaluat


class Broken(nn.Module):
    """Logits that are not finite on images whose first pixel is bright: an attack may get there."""

    def __init__(self, inside: nn.Module, bad: float) -> None:
        super().__init__()
        self.inside, self.bad = inside, bad

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inside(x)
        return torch.where((x[:, 0, 0, 0] > 0.7)[:, None], self.bad, logits)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_logits_that_are_not_finite_are_no_class(net: Net, data: Data, bad: float) -> None:
    x, y = data
    y = torch.where(x[:, 0, 0, 0] > 0.8, 0, y)  # class 0 is what argmax makes of them
    evaluation = evaluate(Broken(net, bad), x, y, attacks=["fgsm"], targeted="pgd-1", eps=0.04, check_sanity=False)
    assert evaluation.samples is not None
    silent = x[:, 0, 0, 0] > 0.7
    with torch.no_grad():
        right = (net(x).argmax(1) == y) & ~silent
    assert evaluation.samples.correct("clean").tolist() == right.tolist()
    assert (evaluation.samples.pred_of("clean") == -1).tolist() == silent.tolist()
    assert evaluation.clean.n == [int((y == k).sum()) for k in range(CLASSES)]
    assert list(evaluation.clean.nonfinite) == [int(((y == k) & silent).sum()) for k in range(CLASSES)]
    assert int(evaluation.clean.confusion.sum()) == int((~silent).sum())
    assert evaluation.clean.average == pytest.approx(float(right.double().mean()))
    (found,) = (finding for finding in evaluation.findings if finding.id == "model:not-finite")
    assert f"clean: {int(silent.sum())}," in found.text
    assert evaluation.samples.reached is not None
    out_of_reach = x[:, 0, 0, 0] > 0.75  # no point of the ball has finite logits
    assert out_of_reach.any()
    assert not evaluation.samples.reached[out_of_reach.numpy()].any()
    assert Evaluation.from_dict(evaluation.to_dict()).to_dict() == evaluation.to_dict()


def test_former_names_warn_and_are_the_present_ones() -> None:
    for former, present in (
        ("Outcome", fairtat.evaluation.Predictions),
        ("CORRUPTIONS", fairtat.evaluation.SYNTHETIC_CORRUPTIONS),
    ):
        with pytest.warns(DeprecationWarning, match=f"{former} is now"):
            assert getattr(fairtat.evaluation, former) is present
