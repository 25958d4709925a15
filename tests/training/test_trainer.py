"""The trainer: it learns, it repeats itself, its rules take effect, it goes on from a state, and it stops cleanly."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairtat.data import Batch, Splits, load_splits
from fairtat.models import build
from fairtat.training import EpochMetrics, Observer, StepProgress, TrainConfig, Trainer, TrainingDiverged
from fairtat.training.objectives import AdversarialTraining, Examples
from fairtat.training.trainer import Interrupted


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load_splits("digits", val=0.05, test=0.6)


def trainer_for(config: TrainConfig, splits: Splits) -> Trainer:
    torch.manual_seed(config.seed)
    model = build(config.model.name, 10, 1, (8, 8), **config.model.options)
    return Trainer(config, splits, model)


def figures(metrics: EpochMetrics) -> dict[str, Any]:
    """All but the clocks."""
    return {key: value for key, value in metrics.to_json().items() if not key.endswith("seconds")}


def test_it_learns_to_resist(tiny: Callable[..., TrainConfig], splits: Splits) -> None:
    attack = {"eps": 0.1, "step_size": 0.04, "steps": 4}
    trainer = trainer_for(tiny(epochs=15, attack=attack, optim={"lr": 0.2}, eval={"steps": 5}), splits)
    first = trainer.run_epoch()
    for _ in range(14):
        last = trainer.run_epoch()
    assert last.val_clean.average > 0.85
    assert last.val_robust.average > max(0.5, first.val_robust.average)
    assert last.train_loss < first.train_loss
    # The same network without adversarial examples has the accuracy and not the robustness.
    harmless = {**attack, "eps": 0.0}
    plain = trainer_for(tiny(epochs=15, attack=harmless, optim={"lr": 0.2}, eval={"steps": 5, "eps": 0.1}), splits)
    for _ in range(15):
        undefended = plain.run_epoch()
    assert undefended.val_clean.average > 0.85
    assert undefended.val_robust.average < last.val_robust.average - 0.1


def test_an_image_starts_elsewhere_in_every_epoch(tiny: Callable[..., TrainConfig], splits: Splits) -> None:
    """Attacks of no steps return their starts: those of an image differ between epochs and not between runs."""

    class Recorder(AdversarialTraining):
        def attack(self, model: nn.Module, batch: Batch, **rest: Any) -> Examples:
            examples = super().attack(model, batch, **rest)
            starts.update(zip(batch.ids.tolist(), examples.x_adv - batch.x, strict=True))
            return examples

    config = tiny(attack={"steps": 0})
    runs: list[list[dict[int, Tensor]]] = []
    for _ in range(2):
        trainer = Trainer(config, splits, build("mlp", 10, 1, (8, 8)), objective=Recorder(config))
        epochs = []
        for _ in range(2):
            starts: dict[int, Tensor] = {}
            trainer.run_epoch()
            epochs.append(starts)
        runs.append(epochs)
    (first, second), again = runs
    assert len(first) == len(splits.train)
    assert not any(torch.equal(first[k], second[k]) for k in first)
    assert all(torch.equal(first[k], again[0][k]) and torch.equal(second[k], again[1][k]) for k in first)


def test_the_same_seed_gives_the_same_run(tiny: Callable[..., TrainConfig], splits: Splits) -> None:
    config = tiny(seed=3, fairness={"targets": "cfps", "margins": "G-rob"})
    first, second = trainer_for(config, splits), trainer_for(config, splits)
    for _ in range(2):
        one = first.run_epoch()
        torch.rand(5)  # the global generator plays no part
        assert figures(one) == figures(second.run_epoch())
    for ours, theirs in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    other = trainer_for(tiny(seed=4, fairness={"targets": "cfps", "margins": "G-rob"}), splits)
    assert figures(other.run_epoch())["train_loss"] != figures(one)["train_loss"]


def test_a_state_goes_on_as_the_original_would_have(tiny: Callable[..., TrainConfig], splits: Splits) -> None:
    config = tiny(epochs=3, fairness={"targets": "confusion", "margins": ["G-rob", "T-rob"]})
    original = trainer_for(config, splits)
    original.run_epoch()
    original.run_epoch()
    state = copy.deepcopy(original.state_dict())
    third = original.run_epoch()

    other = trainer_for(tiny(epochs=3, seed=0, fairness=config.fairness.__dict__), splits)
    other.load_state_dict(state)
    assert figures(other.run_epoch()) == figures(third)
    for ours, theirs in zip(original.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("targets", "margins", "radii_move", "targets_move"),
    [
        ("none", "fixed", False, None),
        ("none", "G-rob", True, None),
        ("random", "fixed", False, False),
        ("cfps", "fixed", False, True),  # targets follow the classes also when the radii do not
        ("confusion", "fixed", False, True),
        ("cfps", "G-rob", True, True),
    ],
)
def test_each_rule_takes_effect_by_itself(
    tiny: Callable[..., TrainConfig],
    splits: Splits,
    targets: str,
    margins: str,
    radii_move: bool,
    targets_move: bool | None,
) -> None:
    trainer = trainer_for(tiny(fairness={"targets": targets, "margins": margins, "tau": 4}), splits)
    first, second = trainer.run_epoch(), trainer.run_epoch()
    assert first.class_eps == pytest.approx([0.05] * 10)
    if radii_move:
        # lam + A_k of the first epoch's training examples, times eps
        expected = [(0.5 + accuracy) * 0.05 for accuracy in first.train_robust.per_class]
        assert second.class_eps == pytest.approx(expected, rel=1e-6)
        assert len(set(second.class_eps)) > 1
    else:
        assert second.class_eps == first.class_eps
    if targets_move is None:
        assert first.target_weight is second.target_weight is None
        assert first.train_reached is None
    else:
        assert (first.target_weight != second.target_weight) == targets_move
        assert first.train_reached is not None
        rows = second.target_weight if targets == "confusion" and targets_move else [second.target_weight]
        assert [sum(row) for row in rows] == pytest.approx([1.0] * len(rows))


def test_every_training_sample_counts_once(tiny: Callable[..., TrainConfig], splits: Splits) -> None:
    trainer = trainer_for(tiny(), splits)
    trainer.run_epoch()
    assert trainer.fair.last is not None
    assert trainer.fair.last.count.tolist() == torch.bincount(splits.train.labels).tolist()


def test_steps_are_reported_in_order(tiny: Callable[..., TrainConfig], splits: Splits) -> None:
    seen: list[StepProgress] = []

    class Listener(Observer):
        def on_step(self, progress: StepProgress) -> None:
            seen.append(progress)

    trainer = trainer_for(tiny(batch_size=100), splits)
    trainer.run_epoch(Listener())
    steps = -(-len(splits.train) // 100)
    assert [(p.epoch, p.step, p.steps) for p in seen] == [(1, step, steps) for step in range(1, steps + 1)]
    assert int(seen[-1].stats.count.sum()) == len(splits.train)


def test_a_request_to_stop_ends_the_epoch_between_two_steps(tiny: Callable[..., TrainConfig], splits: Splits) -> None:
    trainer = trainer_for(tiny(), splits)
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    with pytest.raises(Interrupted):
        trainer.run_epoch(should_stop=stop)
    assert trainer.epoch == 0
    assert int(trainer.fair.stats.count.sum()) == 3 * 64


def test_a_loss_that_is_not_finite_stops_the_run(tiny: Callable[..., TrainConfig], splits: Splits) -> None:
    trainer = trainer_for(tiny(optim={"lr": 1e30}), splits)
    with pytest.raises(
        TrainingDiverged, match=r"^epoch 1, step \d+ of \d+: .* a lower optim.lr \(now 1e\+30\) may help$"
    ):
        trainer.run_epoch()
    assert trainer.epoch == 0


def test_the_step_that_diverged_is_named(tiny: Callable[..., TrainConfig], splits: Splits) -> None:
    trainer = trainer_for(tiny(), splits)

    class Spoiler(Observer):
        def on_step(self, progress: StepProgress) -> None:
            if progress.step == 3:
                with torch.no_grad():
                    next(iter(trainer.model.parameters())).fill_(torch.nan)

    steps = trainer.steps_per_epoch
    with pytest.raises(
        TrainingDiverged, match=rf"^epoch 1, step 4 of {steps}: the training loss is nan; a lower optim.lr"
    ):
        trainer.run_epoch(Spoiler())
    assert trainer.fair.epoch == 0


class Fragile(torch.nn.Module):
    """Has no finite answer for images that meet a condition, once it is evaluated."""

    def __init__(self, inner: torch.nn.Module, condition: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.inner, self.condition = inner, condition

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(x)
        if self.training:
            return logits
        spoiled = self.condition(x)[:, None] & (torch.arange(10) == 0)
        return logits.masked_fill(spoiled, torch.nan)


def off_the_grid(x: torch.Tensor) -> torch.Tensor:
    """Digits have 17 gray levels: anything else has been attacked."""
    return ((x * 16).round() / 16 - x).abs().flatten(1).amax(1) > 1e-4


@pytest.mark.parametrize(
    ("condition", "images"),
    [(lambda x: x[:, 0, 4, 4] < 2.0, "validation images"), (off_the_grid, "attacked validation images")],
    ids=["clean", "attacked"],
)
def test_validation_outputs_that_are_not_finite_stop_the_run(
    tiny: Callable[..., TrainConfig], splits: Splits, condition: Callable[..., torch.Tensor], images: str
) -> None:
    config = tiny(fairness={"targets": "none"}, attack={"engine": "eager"})
    trainer = Trainer(config, splits, Fragile(build("digits_cnn", 10, 1, (8, 8), width=4), condition))
    n, steps = len(splits.val), trainer.steps_per_epoch
    message = rf"^epoch 1, step {steps} of {steps}: the outputs on {n} of {n} {images} are not finite; a lower optim.lr"
    with pytest.raises(TrainingDiverged, match=message):
        trainer.run_epoch()
    assert trainer.fair.epoch == 0


def test_the_test_part_plays_no_part(tiny: Callable[..., TrainConfig], splits: Splits) -> None:
    poisoned = Splits(splits.train, splits.val, splits.test.take(torch.arange(0)))
    assert figures(trainer_for(tiny(), poisoned).run_epoch()) == figures(trainer_for(tiny(), splits).run_epoch())
