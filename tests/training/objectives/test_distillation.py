"""Robust distillation against its equations in float64, and what a student may not be taught by."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from fairtat import ClassStats, ops
from fairtat.data import Batch
from fairtat.data.batches import MixedBatch
from fairtat.data.stream import Data
from fairtat.errors import UserError
from fairtat.models import digits_cnn
from fairtat.training import load_data
from fairtat.training.config import DataConfig, TrainConfig, from_dict
from fairtat.training.objectives import Examples, LearningObjective, Objective, ObjectiveValue, make_objective

pytest.importorskip("sklearn")

STEP, STEPS = 0.03, 3
W, V = torch.linspace(0.5, 1.5, 10), torch.linspace(2.0, 0.1, 10)


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data(DataConfig()).train


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    torch.manual_seed(11)
    network = digits_cnn(10, 1, (8, 8), width=6)
    with torch.no_grad():
        for _ in range(10):
            network(torch.rand(32, 1, 8, 8))
        for parameter in network.parameters():
            parameter.mul_(1.5)
    return network.eval()


@pytest.fixture
def configured(teacher: nn.Module, tmp_path: Path) -> Callable[..., TrainConfig]:
    file = tmp_path / "teacher.safetensors"
    save_file(teacher.state_dict(), file)

    def make(name: str, **values: Any) -> TrainConfig:
        distill = {"teacher": "digits_cnn", "options": {"width": 6}, "weights": str(file), **values.pop("distill", {})}
        attack = {"step_size": STEP, "steps": STEPS}
        return from_dict({"objective": {"name": name}, "distill": distill, "attack": attack, **values})

    return make


@dataclass
class Lesson:
    """A student with a batch, its teacher, and what makes objectives and class rules for them."""

    batch: Batch
    student: nn.Module
    teacher: nn.Module
    data: Data
    config: Callable[..., TrainConfig]
    class_rules: Callable[..., Any]

    def objective(self, name: str, **values: Any) -> Objective:
        return make_objective(self.config(name, **values), self.data)

    def attack(self, objective: Objective, fair: Any) -> Examples:
        return objective.attack(self.student, self.batch, fair=fair, target=None, seed=5)

    def answers(self) -> Tensor:
        """The teacher's logits for the clean batch, in float64."""
        return exact(self.teacher)(self.batch.x.double()).detach()

    def assert_step(
        self, objective: Objective, examples: Examples, fair: Any, by_hand: Callable[[nn.Module], Tensor]
    ) -> None:
        """The objective's loss and its gradients are those of ``by_hand(the student in float64)``."""
        copied = exact(self.student)
        value, expected = objective.loss(self.student, self.batch, examples, fair=fair), by_hand(copied)
        value.loss.backward()
        expected.backward()
        torch.testing.assert_close(value.loss.detach().double(), expected.detach(), rtol=1e-4, atol=1e-7)
        for mine, other in zip(self.student.parameters(), copied.parameters(), strict=True):
            assert mine.grad is not None
            torch.testing.assert_close(mine.grad.double(), other.grad, rtol=2e-3, atol=1e-6)


@pytest.fixture
def lesson(
    batch: Batch,
    model: nn.Module,
    teacher: nn.Module,
    data: Data,
    configured: Callable[..., TrainConfig],
    class_rules: Callable[..., Any],
) -> Lesson:
    return Lesson(batch, model, teacher, data, configured, class_rules)


def exact(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).double()


def kl(p: Tensor, logits: Tensor) -> Tensor:
    return (p * (p.log() - logits.log_softmax(1))).sum(1)


@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_ard(lesson: Lesson, alpha: float) -> None:
    objective = lesson.objective("ard", distill={"alpha": alpha, "temperature": 5.0})
    fair = lesson.class_rules(0.1, weight=W, robust_weight=V)
    examples = lesson.attack(objective, fair)
    plain = make_objective(lesson.config("at", distill={"weights": None}))
    assert torch.equal(examples.x_adv, lesson.attack(plain, fair).x_adv)
    x, y, answers = lesson.batch.x.double(), lesson.batch.y, lesson.answers()

    def loss(student: nn.Module) -> Tensor:
        taught = alpha * V[y] * 25 / 10 * kl((answers / 5).softmax(1), student(examples.x_adv.double()) / 5)
        if alpha < 1:
            taught = taught + (1 - alpha) * W[y] * F.cross_entropy(student(x), y, reduction="none")
        return taught.mean()

    lesson.assert_step(objective, examples, fair, loss)


def test_rslad(lesson: Lesson) -> None:
    objective = lesson.objective("rslad")
    fair = lesson.class_rules(0.1, weight=W, robust_weight=V)
    examples = lesson.attack(objective, fair)
    x, y, p = lesson.batch.x.double(), lesson.batch.y, lesson.answers().softmax(1)

    def loss(student: nn.Module) -> Tensor:
        adversarial, clean = student(examples.x_adv.double()), student(x)
        return ((5 / 6 * V[y] * kl(p, adversarial) + 1 / 6 * W[y] * kl(p, clean)) / 10).mean()

    lesson.assert_step(objective, examples, fair, loss)


def test_the_attack_of_rslad_climbs_the_divergence_from_the_teacher(lesson: Lesson) -> None:
    batch = lesson.batch
    x_adv = lesson.attack(lesson.objective("rslad"), lesson.class_rules(0.1)).x_adv
    by_hand, p = exact(lesson.student).eval(), lesson.answers().softmax(1)
    x, expected = batch.x.double(), ops.pgd_init(batch.x, 0.1, seed=5, sample_ids=batch.ids, init="normal").double()
    for _ in range(STEPS):
        leaf = expected.clone().requires_grad_()
        (grad,) = torch.autograd.grad(kl(p, by_hand(leaf)).sum(), leaf)
        expected = (expected + STEP * grad.sign()).clamp(x - 0.1, x + 0.1).clamp(0, 1)
    assert ((x_adv - expected).abs() > 1e-5).float().mean() < 0.01


def counted(logits: Tensor, y: Tensor) -> ClassStats:
    return ClassStats(10).update(logits, y)


def test_temperatures_of_absld_follow_the_losses_of_the_classes(lesson: Lesson) -> None:
    optim = {"schedule": "step", "milestones": [0.25], "gamma": 0.1}
    objective = lesson.objective("absld", epochs=4, optim=optim, distill={"temperature_rate": 0.4})
    assert isinstance(objective, LearningObjective)
    generator = torch.Generator().manual_seed(3)
    expected = [[1.0] * 10, [1.0] * 10]
    y = torch.tensor([k for k in range(9) for _ in range(k + 1)])  # of differing sizes, and class 9 is absent
    for rate in (0.4, 0.04):  # the learning rate falls after the first of four epochs
        adversarial, clean = torch.randn(2, len(y), 10, generator=generator)
        for part in (slice(0, 20), slice(20, None)):
            objective.update(ObjectiveValue(torch.zeros(()), adversarial[part], clean[part]), y[part])
        objective.end_epoch(counted(adversarial, y))
        for row, logits in zip(expected, (adversarial, clean), strict=True):
            ce = F.cross_entropy(logits.double(), y, reduction="none")
            loss = [float(ce[y == k].mean()) for k in range(9)]
            gap = [v - sum(loss) / 9 for v in loss]
            for k in range(9):
                row[k] = min(max(row[k] - rate * gap[k] / max(map(abs, gap)), 0.5), 5.0)
    state = objective.state_dict()
    torch.testing.assert_close(state["temperature"], torch.tensor(expected).double(), rtol=1e-6, atol=1e-7)
    assert len({*expected[0], *expected[1]}) > 10

    # They divide the teacher's logits, in the attack's reference and in the loss.
    robust, natural = torch.tensor(expected).double()[:, lesson.batch.y, None]
    answers = lesson.answers()
    fair = lesson.class_rules(0.1)
    examples = lesson.attack(objective, fair)
    torch.testing.assert_close(examples.more[0].double(), answers / robust, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(examples.more[1].double(), answers / natural, rtol=1e-4, atol=1e-5)

    def loss(student: nn.Module) -> Tensor:
        adversarial, clean = student(examples.x_adv.double()), student(lesson.batch.x.double())
        for_robust, for_natural = (answers / robust).softmax(1), (answers / natural).softmax(1)
        return (5 / 60 * kl(for_robust, adversarial) + 1 / 60 * kl(for_natural, clean)).mean()

    lesson.assert_step(objective, examples, fair, loss)


def test_temperatures_stay_in_their_range_and_rest_where_all_classes_are_alike(
    data: Data, configured: Callable[..., TrainConfig]
) -> None:
    objective = make_objective(configured("absld", epochs=99, distill={"temperature_rate": 9.0}), data)
    assert isinstance(objective, LearningObjective)
    y, logits = torch.arange(10), torch.zeros(10, 10)
    logits[0, 0], logits[1, 1] = 5.0, -5.0
    objective.update(ObjectiveValue(torch.zeros(()), logits, torch.zeros(10, 10)), y)
    objective.end_epoch(counted(logits, y))
    robust, natural = objective.state_dict()["temperature"]
    assert robust[:2].tolist() == [5.0, 0.5]  # the easy class is smoothed, the hard one sharpened
    assert natural.tolist() == [1.0] * 10


def test_a_state_belongs_to_its_teacher(data: Data, configured: Callable[..., TrainConfig], tmp_path: Path) -> None:
    objective = make_objective(configured("absld"), data)
    assert isinstance(objective, LearningObjective)
    state = objective.state_dict() | {"temperature": torch.full((2, 10), 2.0, dtype=torch.float64), "epoch": 3}
    objective.load_state_dict(state)
    assert torch.equal(objective.state_dict()["temperature"], state["temperature"])
    with pytest.raises(ValueError, match=r"not those in distill\.weights"):
        objective.load_state_dict(state | {"teacher": "another"})
    with pytest.raises(ValueError, match=r"not a tensor of shape \(2, 10\)"):
        objective.load_state_dict(state | {"temperature": torch.ones(3)})
    with pytest.raises(ValueError, match="keys"):
        objective.load_state_dict({"teacher": state["teacher"]})


def test_the_teacher_is_not_touched_and_its_gradient_not_taken(lesson: Lesson) -> None:
    objective = lesson.objective("rslad")
    examples = lesson.attack(objective, lesson.class_rules(0.1))
    assert not any(t.requires_grad for t in (examples.x_adv, *examples.more))
    again = lesson.attack(objective, lesson.class_rules(0.1))
    assert all(map(torch.equal, examples.more, again.more))  # BatchNorm in eval mode: nothing has moved


@pytest.mark.parametrize(
    ("distill", "expected"),
    [
        ({"weights": None}, "distill.weights is null; expected the teacher's weights for objective.name ard"),
        ({"weights": "nowhere.safetensors"}, "nowhere.safetensors: no such weights file"),
        ({"options": {"width": 3}}, "has shape .* but the model expects"),
    ],
)
def test_a_teacher_that_cannot_be_had(
    data: Data, configured: Callable[..., TrainConfig], distill: dict[str, Any], expected: str
) -> None:
    with pytest.raises(UserError, match=expected):
        make_objective(configured("ard", distill=distill), data)


def test_a_teacher_of_timm_is_a_trained_one(
    data: Data, configured: Callable[..., TrainConfig], timm: ModuleType, tmp_path: Path
) -> None:
    def teach(**options: Any) -> object:
        distill = {"teacher": "timm:test_resnet", "options": options, "weights": None}
        return make_objective(configured("ard", distill=distill), data)

    with pytest.raises(UserError, match=r"distill\.weights is null; expected the teacher's weights"):
        teach()
    for classes in (10, 12):
        save_file(
            timm.create_model("test_resnet", num_classes=classes).state_dict(), tmp_path / f"{classes}.safetensors"
        )
    files = {k: {"file": str(tmp_path / f"{k}.safetensors"), "num_classes": k} for k in (10, 12)}
    teach(pretrained=True, pretrained_cfg_overlay=files[10])
    with pytest.raises(UserError, match="its pretrained weights have 12 classes, but the data have 10"):
        teach(pretrained=True, pretrained_cfg_overlay=files[12])


@pytest.mark.parametrize(("momentum", "own"), [(0.0, None), (0.9, 17)])  # own: images before the extra ones
def test_steps_that_samples_resist_are_counted_for_a_rule(
    batch: Batch, model: nn.Module, class_rules: Callable[..., Any], momentum: float, own: int | None
) -> None:
    class Counter:
        counts_steps = True
        seen: Tensor | None = None

        def observe_steps(self, resisted: Tensor, y: Tensor) -> None:
            assert torch.equal(y, batch.y[:own])
            self.seen = resisted

    with torch.no_grad():
        labels = copy.deepcopy(model).eval()(batch.x).argmax(1)
    batch = batch._replace(y=labels)
    batch = batch if own is None else MixedBatch.of(batch, own)
    objective = make_objective(from_dict({"attack": {"step_size": STEP, "steps": 6, "momentum": momentum}}))
    counter = Counter()
    fair = class_rules(0.15)
    counting = class_rules(0.15, weight_rule=counter)
    x_adv = objective.attack(model, batch, fair=counting, target=None, seed=7).x_adv
    assert torch.equal(x_adv, objective.attack(model, batch, fair=fair, target=None, seed=7).x_adv)

    frozen, resisted = copy.deepcopy(model).eval(), torch.zeros_like(batch.y)
    x, at = batch.x, ops.pgd_init(batch.x, 0.15, seed=7, sample_ids=batch.ids)
    velocity = torch.zeros_like(x)
    for _ in range(6):
        leaf = at.clone().requires_grad_()
        logits = frozen(leaf)
        resisted += logits.argmax(1) == labels
        (grad,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), leaf)
        velocity = momentum * velocity + grad / grad.abs().sum((1, 2, 3), keepdim=True)
        at = (at + STEP * velocity.sign()).clamp(x - 0.15, x + 0.15).clamp(0, 1)
    assert counter.seen is not None
    assert (counter.seen - resisted[:own]).abs().sum() <= 1  # a prediction at the boundary may fall to either side
    assert len(resisted.unique()) > 2
