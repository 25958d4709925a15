"""Attacks in bfloat16, judged in float32: speed may come from low precision, a verdict never does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fairtat.evaluation import Defaults, evaluate, parse_attack
from fairtat.evaluation.attacks.classifier import Classifier

ATTACKS = ["fgsm", "pgd-7", "pgd-3x2", "cw-7", "pgd-7:l2@0.4"]


class Coarse(nn.Module):
    """Two classes whose logits differ by less than bfloat16 tells apart: there, every image seems to be of class 0."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 2)
        with torch.no_grad():
            self.linear.weight.copy_(torch.randn(2, 12, generator=torch.Generator().manual_seed(3)) / 16)
            self.linear.bias.fill_(300.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


@pytest.fixture
def images() -> Tensor:
    return torch.rand(23, 3, 2, 2, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    ("engine", "name"),
    [*(("eager", name) for name in ATTACKS), ("compiled", "pgd-3x2"), ("compiled", "pgd-7:l2@0.4")],
)
def test_an_image_that_bfloat16_alone_holds_for_fooled_is_attacked_in_float32(
    images: Tensor, engine: str, name: str
) -> None:
    model = Coarse()
    with torch.autocast("cpu", torch.bfloat16):
        assert (model(images).argmax(1) == 0).all(), "the model does not show what this test is about"
    classifier = Classifier(model, torch.device("cpu"), num_classes=2, engine=engine)
    ids, y = torch.arange(23), model(images).argmax(1)
    y[::5] = 1 - y[::5]
    assert {0, 1} == set(y.tolist())
    exact, fast = (
        classifier.attack(images, y, ids, parse_attack(name, Defaults(0.03, amp=amp))) for amp in ("none", "bf16")
    )
    of_class_1 = y == 1
    assert torch.equal(fast.pred[of_class_1], exact.pred[of_class_1])
    with torch.no_grad():
        assert torch.equal(fast.pred, model(fast.x).argmax(1))
        assert torch.equal(exact.pred, model(exact.x).argmax(1))
    assert (exact.pred != y).any(), "the attack finds nothing, so the test says nothing"


@pytest.mark.parametrize(
    ("name", "towards"), [("pgd-9", False), ("pgd-9", True), ("apgd-ce-9", False), ("fgsm", False)]
)
def test_verdicts_are_those_of_a_float32_pass_on_the_moved_images(images: Tensor, name: str, towards: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 5)).eval()
    classifier = Classifier(model, torch.device("cpu"), num_classes=5)
    y, ids = model(images).argmax(1), torch.arange(23)
    settings = parse_attack(name, Defaults(0.05, amp="bf16"))
    found = (
        classifier.attack_towards(images, y, (y + 1) % 5, ids, settings)
        if towards
        else classifier.attack(images, y, ids, settings)
    )
    with torch.no_grad():
        logits = model(found.x)
    assert torch.equal(found.pred, logits.argmax(1))
    goal = (y + 1) % 5 if towards else y
    others = logits.double().clone()
    others[torch.arange(23), goal] = -torch.inf
    margin = logits.double()[torch.arange(23), goal] - others.amax(1)
    assert torch.allclose(found.margin.double(), margin, atol=1e-6)
    assert (found.x - images).abs().max() <= 0.05 + 1e-7
    assert ((found.x >= 0) & (found.x <= 1)).all()


def test_the_settings_of_an_evaluation_say_which_precision_attacked(images: Tensor) -> None:
    model = Coarse()
    y = model(images).argmax(1)
    made = evaluate(model, images, y, attacks=["pgd-3"], eps=0.03, amp="bf16", check_sanity=False)
    assert made.attack.amp == "bf16"
    assert "bf16" in str(made.attack)
    assert evaluate(model, images, y, attacks=["pgd-3"], eps=0.03, check_sanity=False).attack.amp == "none"
    with pytest.raises(ValueError, match=r"amp is 'fp8'; expected one of none, bf16"):
        evaluate(model, images, y, attacks=["pgd-3"], eps=0.03, amp="fp8")
