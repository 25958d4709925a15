from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fairtat.errors import UserError
from fairtat.training import EpochMetrics, Observer, TrainConfig, resume, train
from fairtat.training.observers import Tee, TensorBoard
from fairtat.training.observers.figures import class_tags
from fairtat.training.observers.tensorboard import FOLDER

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
pytest.importorskip("sklearn")

Tiny = Callable[..., TrainConfig]
FAIR = {"targets": "cfps", "margins": "G-rob"}


class Seen(Observer):
    def __init__(self) -> None:
        self.epochs: list[EpochMetrics] = []
        self.steps = 0

    def on_step(self, progress: object) -> None:
        self.steps += 1

    def on_epoch(self, metrics: EpochMetrics) -> None:
        self.epochs.append(metrics)


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    events = accumulator.EventAccumulator(str(run / FOLDER))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_every_epochs_figures_are_there(tiny: Tiny) -> None:
    seen = Seen()
    outcome = train(tiny(fairness=FAIR, epochs=2), observer=Tee(seen, TensorBoard()))
    found = scalars(outcome.path)

    def expect(tag: str, value: Callable[[EpochMetrics], float]) -> None:
        assert [step for step, _ in found[tag]] == [1, 2]
        assert [logged for _, logged in found[tag]] == pytest.approx([value(m) for m in seen.epochs], rel=1e-6), tag

    expect("training/loss", lambda m: m.train_loss)
    expect("robust accuracy/validation", lambda m: m.val_robust.average)
    expect("worst class, robust/validation", lambda m: m.val_robust.worst)
    for k in range(10):
        expect(f"class robust accuracy/{k}", lambda m, k=k: m.val_robust.per_class[k])
        expect(f"class radius/{k}", lambda m, k=k: m.class_eps[k])
        expect(f"class target/{k}", lambda m, k=k: m.target_weight[k])
    assert seen.steps > 0


def test_a_resumed_run_has_every_epoch_once(tiny: Tiny) -> None:
    config = tiny(epochs=3)
    calls = iter(range(10_000))

    class Stop(Observer):
        stopped = False

        def on_epoch(self, metrics: EpochMetrics) -> None:
            self.stopped = metrics.epoch == 1

    stop = Stop()
    first = train(config, observer=Tee(TensorBoard(), stop), should_stop=lambda: stop.stopped and next(calls) >= 0)
    assert first.interrupted
    resume(first.path, observer=TensorBoard())
    assert [step for step, _ in scalars(first.path)["training/loss"]] == [1, 2, 3]


def test_targets_by_label_are_shown_as_their_mean(tiny: Tiny) -> None:
    outcome = train(tiny(fairness={"targets": "confusion"}, epochs=2), observer=TensorBoard())
    found = scalars(outcome.path)
    for step in (0, 1):
        assert sum(found[f"class target/{k}"][step][1] for k in range(10)) == pytest.approx(1.0, abs=1e-5)


def test_without_the_package_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UserError, match=r"TensorBoard needs tensorboard: pip install 'fairtat\[tensorboard\]'"):
        TensorBoard()


def test_class_names_become_distinct_tags() -> None:
    assert class_tags(["cat", "hot dog", "hot/dog", ""]) == ["cat", "hot_dog_1", "hot_dog_2", "_"]


def test_the_configuration_asks_for_it(tiny: Tiny) -> None:
    config = tiny(tensorboard=True, epochs=1)
    assert config.output is not None
    train(config)
    assert list((Path(config.output) / FOLDER).glob("events.*"))
