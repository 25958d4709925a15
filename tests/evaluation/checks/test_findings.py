from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fairtat
from fairtat.errors import UserError
from fairtat.evaluation import Evaluation, Finding, evaluate
from fairtat.evaluation.attacks.classifier import Classifier
from fairtat.evaluation.checks import inputs, masking

SIDE = 6


def separable(samples: int = 200) -> tuple[Tensor, Tensor]:
    """Images of a bright left or right half, with noise: easy, and easy to turn around."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(samples) % 2
    x = 0.4 + 0.15 * torch.rand(samples, 1, SIDE, SIDE, generator=generator)
    x[y == 0, :, :, : SIDE // 2] += 0.1
    x[y == 1, :, :, SIDE // 2 :] += 0.1
    return x, y


class Sides(nn.Module):
    """The difference of the halves' means, times a scale."""

    def __init__(self, scale: float = 20.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        score = self.scale * (x[..., SIDE // 2 :].mean((1, 2, 3)) - x[..., : SIDE // 2].mean((1, 2, 3)))
        return torch.stack((-score, score), 1)


class Quantized(Sides):
    """Sees eight gray levels: its gradient is zero wherever it exists."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x * 8).round() / 8)


class Misleading(Sides):
    """Its gradient tells the truth at multiples of 1/16 and points anywhere in between."""

    def forward(self, x: Tensor) -> Tensor:
        wave = torch.sin(2 * torch.pi * 16 * x)
        return super().forward(x + wave - wave.detach())


def on_sixteenths() -> tuple[Tensor, Tensor]:
    x, y = separable()
    return (x * 16).round() / 16, y


def ids(evaluation: Evaluation) -> set[str]:
    return {finding.id for finding in evaluation.findings}


def found(model: nn.Module, eps: float = 0.08, **options: object) -> dict[str, Finding]:
    x, y = separable()
    evaluation = evaluate(model.eval(), x, y, eps=eps, steps=5, **options)  # type: ignore[arg-type]
    return {finding.id: finding for finding in evaluation.findings}


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_sound_model_gives_no_findings(norm: str) -> None:
    assert found(Sides(), eps=0.08 if norm == "linf" else 0.4, norm=norm) == {}


def test_a_sound_trained_network_gives_no_findings() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 2))
    x, y = separable()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert found(model) == {}


def test_quantized_inputs_show_as_zero_gradients_and_a_radius_that_does_nothing() -> None:
    findings = found(Quantized())
    assert "gradient-masking:zero-gradients" in findings
    assert findings["gradient-masking:zero-gradients"].severity == "warning"
    assert "100% of 64 images" in findings["gradient-masking:zero-gradients"].text
    assert "gradient-masking:black-box-beats-white-box" in findings


def test_huge_logits_show_as_zero_gradients() -> None:
    # softmax is exactly one-hot in float32: cross-entropy has no gradient, the margin has.
    assert "gradient-masking:zero-gradients" in found(Sides(scale=1e5))


def test_a_radius_at_which_everything_must_fall_and_does_not() -> None:
    findings = found(Sides(scale=1e5), eps=0.01)
    assert "gradient-masking:survives-large-eps" in findings
    assert "radius 0.5" in findings["gradient-masking:survives-large-eps"].text


def test_one_step_that_beats_many_shows() -> None:
    evaluation = evaluate(Misleading().eval(), *on_sixteenths(), attacks=[], eps=0.12)
    findings = {finding.id: finding for finding in evaluation.findings}
    assert "gradient-masking:fgsm-beats-pgd" in findings
    assert "64" in findings["gradient-masking:fgsm-beats-pgd"].text


def test_signs_in_the_evaluation_itself_are_told_too() -> None:
    evaluation = evaluate(Misleading().eval(), *on_sixteenths(), attacks=["pgd-10", "fgsm"], eps=0.12)
    assert evaluation.condition("fgsm").figures.average < evaluation.condition("pgd-10").figures.average
    assert "gradient-masking:fgsm-beats-pgd" in ids(evaluation)


def test_too_few_steps_are_no_sign() -> None:
    # Two steps of a quarter radius stay inside a ball whose surface one FGSM step reaches.
    x, y = separable()
    evaluation = evaluate(Sides().eval(), x, y, attacks=["pgd-2", "fgsm"], eps=0.06)
    assert evaluation.condition("fgsm").figures.average < evaluation.condition("pgd-2").figures.average
    assert evaluation.findings == ()


def test_a_random_model_shows() -> None:
    class Random(Sides):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + 0.001 * torch.randn_like(x))

    assert set(found(Random())) == {"model:random"}


def test_train_mode_shows_and_changes_no_figure() -> None:
    x, y = separable()
    model = nn.Sequential(nn.BatchNorm2d(1), Sides())
    model(x)
    expected = evaluate(model.eval(), x, y, eps=0.08, steps=3)
    assert expected.findings == ()
    trained = evaluate(model.train(), x, y, eps=0.08, steps=3)
    assert ids(trained) == {"model:train-mode"}
    assert trained.to_dict()["conditions"] == expected.to_dict()["conditions"]


@pytest.mark.parametrize(("batch_size", "severity"), [(200, "warning"), (199, "error")])
def test_batchnorm_without_running_statistics_shows_and_worse_in_a_batch_of_one(batch_size: int, severity: str) -> None:
    x, y = separable()
    model = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), Sides()).eval()
    evaluation = evaluate(model, x, y, attacks=[], batch_size=batch_size, check_sanity=False)
    (finding,) = evaluation.findings
    assert (finding.id, finding.severity) == ("model:batch-statistics", severity)
    assert "'0'" in finding.text


def test_normalized_images_are_an_error_and_the_attack_stays_in_their_range() -> None:
    x, y = separable()
    normalized = (x - 0.5) / 0.25
    evaluation = evaluate(Sides().eval(), normalized, y, eps=0.3, steps=3)
    (finding,) = (finding for finding in evaluation.findings if finding.id.startswith("inputs:"))
    assert (finding.id, finding.severity) == ("inputs:range", "error")
    low, high = float(normalized.min()), float(normalized.max())
    assert f"[{low:.4g}, {high:.4g}]" in finding.text
    assert "normalize=(mean, std)" in finding.text
    assert 0 < evaluation.robust.average <= evaluation.clean.average


def test_images_divided_twice_show() -> None:
    x, y = separable()
    assert "inputs:dark" in ids(evaluate(Sides().eval(), x / 255, y, eps=0.1 / 255, steps=3))


def test_logits_that_are_not_finite_show() -> None:
    class Overflows(Sides):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            return torch.where(x[:, 0, 0, :1] > 0.6, torch.inf, logits)

    x, y = separable()
    assert "model:not-finite" in ids(evaluate(Overflows().eval(), x, y, attacks=[], check_sanity=False))


def test_classes_of_few_images_show() -> None:
    names = [f"kind {k}" for k in range(9)]
    (few,) = inputs.check_counts([5, 4, 100, 1, 3, 5, 6, 7, 8], names)
    assert (few.id, few.severity) == ("data:few-images", "warning")
    assert "3 of 9 classes have fewer than 5 images (kind 3: 1, kind 4: 3, kind 1: 4)" in few.text
    assert "One image is 25 points or more" in few.text
    few, none = inputs.check_counts([2, 0, *[1] * 7], ["a\x1b", "b", *names[2:]])
    assert few.text.startswith("8 of 9 classes have fewer than 5 images (kind 2: 1, ")
    assert "and 3 more). One image is 50 points" in few.text
    assert none.text == "1 of 9 classes has no images (b), so no figure says anything about them."
    assert inputs.check_counts([5] * 9, names) == []


def test_an_evaluation_tells_of_a_class_of_few_images() -> None:
    x, y = separable()
    keep = (y == 0) | (torch.arange(len(y)) < 6)  # three images of class 1
    evaluation = evaluate(
        Sides().eval(), x[keep], y[keep], attacks=[], check_sanity=False, class_names=["left", "right"]
    )
    assert ids(evaluation) == {"data:few-images"}
    assert "(right: 3)" in evaluation.findings[0].text


@pytest.mark.parametrize(
    ("weak", "strong", "beats"),
    [(0, 0, False), (10, 10, False), (12, 0, True), (3, 0, False), (20, 8, False), (40, 10, True)],
)
def test_luck_is_told_from_strength(weak: int, strong: int, beats: bool) -> None:
    a, b = torch.zeros(2, 64, dtype=torch.bool).numpy()
    a[:weak] = True
    b[64 - strong :] = True
    assert masking._beats(a, b) is beats


def test_the_checks_can_be_left_out_and_cost_little() -> None:
    x, y = separable()
    shown = 0

    class Counting(Sides):
        def forward(self, x: Tensor) -> Tensor:
            nonlocal shown
            shown += len(x)
            return super().forward(x)

    def images(check: bool) -> int:
        nonlocal shown
        shown = 0
        evaluate(Counting().eval(), x, y, eps=0.08, steps=1, check_sanity=check)
        return shown

    assert images(True) - images(False) <= 64 * 130


def test_the_random_search_stays_in_the_ball(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = separable(16)
    seen: list[Tensor] = []

    class Watching(Sides):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach())
            return super().forward(x)

    for norm, eps in (("linf", 0.05), ("l2", 0.3)):
        seen.clear()
        classifier = Classifier(Watching().eval(), torch.device("cpu"))
        masking._random_search(classifier, x, y, fairtat.evaluation.Defaults(eps, norm))
        delta = torch.stack([(shown - x).flatten(1) for shown in seen])
        size = delta.abs().amax(2) if norm == "linf" else delta.norm(dim=2)
        assert eps * 0.9 < float(size.max()) <= eps * (1 + 1e-5)
        assert all(float(shown.min()) >= 0 and float(shown.max()) <= 1 for shown in seen)


def test_frozen_torchscript_of_another_precision_is_refused_before_it_is_called() -> None:
    x, y = separable(20)
    script = torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 2)).double().eval())
    frozen = torch.jit.freeze(script)
    for images in (x, (255 * x).to(torch.uint8), x.half()):
        with pytest.raises(UserError, match=r"frozen with torch\.float64, but the images are torch\.float"):
            evaluate(frozen, images, y, attacks=[])
    expected = evaluate(script, x, y, attacks=[], check_sanity=False)
    assert evaluate(frozen, x.double(), y, attacks=[], check_sanity=False).clean.correct == expected.clean.correct
