"""Weights & Biases and MLflow get an epoch's figures by their own interfaces; what a run tells its observers."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from fairtat.errors import UserError
from fairtat.training import EpochMetrics, Observer, RunEnd, RunStart, TrainConfig, resume, train
from fairtat.training.observers import MLflow, Tee, WeightsAndBiases

pytest.importorskip("sklearn")

Tiny = Callable[..., TrainConfig]


class Wandb:
    """What is used of wandb 0.31.0, with its signatures."""

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.logged: list[tuple[int | None, dict[str, Any]]] = []
        self.ended: list[int | None] = []

    def init(
        self,
        entity: str | None = None,
        project: str | None = None,
        dir: str | None = None,
        id: str | None = None,
        name: str | None = None,
        notes: str | None = None,
        tags: Any = None,
        config: dict[str, Any] | None = None,
        *,
        resume: bool | str | None = None,
        save_code: bool | None = None,
    ) -> Wandb:
        self.begun.append({"project": project, "id": id, "name": name, "config": config, "resume": resume})
        return self

    def log(self, data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
        self.logged.append((step, data))

    def finish(self, exit_code: int | None = None) -> None:
        self.ended.append(exit_code)


class Mlflow:
    """What is used of mlflow-skinny 3.17.2, with its signatures; runs are kept as a server would."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.logged: list[tuple[str | None, int | None, dict[str, float]]] = []
        self.ended: list[str] = []
        self.down = False
        self._active: str | None = None

    def search_runs(
        self,
        experiment_ids: list[str] | None = None,
        filter_string: str = "",
        run_view_type: int = 1,
        max_results: int = 100000,
        order_by: list[str] | None = None,
        output_format: str = "pandas",
    ) -> list[Any]:
        assert output_format == "list"
        key, _, value = filter_string.removeprefix("tags.").partition(" = ")
        found = [k for k, run in self.runs.items() if run["tags"].get(key.strip("`")) == value.strip("'")]
        return [SimpleNamespace(info=SimpleNamespace(run_id=k)) for k in found[:max_results]]

    def start_run(
        self,
        run_id: str | None = None,
        experiment_id: str | None = None,
        run_name: str | None = None,
        nested: bool = False,
        parent_run_id: str | None = None,
        tags: dict[str, Any] | None = None,
    ) -> Any:
        if self._active is not None:
            raise RuntimeError("Run with UUID x is already active.\nTo start a new run, first end the current run")
        if run_id is None:
            run_id = f"r{len(self.runs)}"
            self.runs[run_id] = {"name": run_name, "tags": tags or {}, "params": {}}
        self._active = run_id
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

    def log_params(self, params: dict[str, Any], synchronous: bool | None = None, run_id: str | None = None) -> None:
        assert len(params) <= 100  # its limit
        self.runs[str(self._active)]["params"] |= params

    def log_metrics(
        self,
        metrics: dict[str, float],
        step: int | None = None,
        synchronous: bool | None = None,
        run_id: str | None = None,
    ) -> None:
        if self.down:
            raise ConnectionError("no server")
        self.logged.append((run_id, step, metrics))

    def end_run(self, status: str = "FINISHED") -> None:
        self._active = None
        self.ended.append(status)


class Told(Observer):
    """Everything that a run tells, in its order."""

    def __init__(self, stop_after: int | None = None, fail_at: int | None = None) -> None:
        self.heard: list[Any] = []
        self.stop_after, self.fail_at = stop_after, fail_at
        self.stopped = False

    def on_start(self, start: RunStart) -> None:
        self.heard.append(("start", start.epoch))

    def on_step(self, progress: Any) -> None:
        if self.heard[-1] != ("steps", progress.epoch):
            self.heard.append(("steps", progress.epoch))

    def on_epoch(self, metrics: EpochMetrics) -> None:
        self.heard.append(("epoch", metrics.epoch))
        if metrics.epoch == self.fail_at:
            raise RuntimeError("of the observer's own")
        self.stopped = metrics.epoch == self.stop_after

    def on_end(self, end: RunEnd) -> None:
        self.heard.append((end.state, end.epoch))


def test_a_run_tells_its_start_its_epochs_and_its_end(tiny: Tiny, tmp_path: Path) -> None:
    told = Told(stop_after=1)
    train(tiny(epochs=2), observer=told, should_stop=lambda: told.stopped)
    assert told.heard == [("start", 0), ("steps", 1), ("epoch", 1), ("interrupted", 1)]
    told = Told()
    resume(tmp_path / "run", observer=told)
    assert told.heard == [("start", 1), ("steps", 2), ("epoch", 2), ("finished", 2)]
    told = Told(fail_at=1)
    with pytest.raises(RuntimeError, match="of the observer's own"):
        train(tiny(epochs=2, output=str(tmp_path / "other")), observer=told)
    assert told.heard[-1] == ("failed", 1)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Wandb:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    monkeypatch.setitem(sys.modules, "wandb", Wandb())  # type: ignore[arg-type]
    return sys.modules["wandb"]  # type: ignore[return-value]


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Mlflow:
    monkeypatch.setitem(sys.modules, "mlflow", Mlflow())  # type: ignore[arg-type]
    return sys.modules["mlflow"]  # type: ignore[return-value]


class Kept(Observer):
    def __init__(self) -> None:
        self.epochs: list[EpochMetrics] = []

    def on_epoch(self, metrics: EpochMetrics) -> None:
        self.epochs.append(metrics)


def test_both_get_every_epochs_figures(tiny: Tiny, wandb: Wandb, mlflow: Mlflow, tmp_path: Path) -> None:
    kept, told = Kept(), Told(stop_after=1)
    observer = Tee(kept, WeightsAndBiases(), MLflow(), told)
    config = tiny(epochs=2, fairness={"targets": "cfps", "margins": "G-rob"})
    train(config, observer=observer, should_stop=lambda: told.stopped)
    resume(tmp_path / "run", observer=Tee(kept, WeightsAndBiases(), MLflow()))
    for step, epoch in enumerate(kept.epochs, start=1):
        expected = {
            "training/loss": epoch.train_loss,
            "training/learning rate": epoch.lr,
            "clean accuracy/validation": epoch.val_clean.average,
            "robust accuracy/validation": epoch.val_robust.average,
            "class robust accuracy/3": epoch.val_robust.per_class[3],
            "class radius/9": epoch.class_eps[9],
        }
        sent = [wandb.logged[step - 1], mlflow.logged[step - 1][1:]]
        for at, figures in sent:
            assert at == step
            assert {key: figures[key] for key in expected} == expected
        assert wandb.logged[step - 1][1]["worst class, robust/validation"] == epoch.val_robust.worst
        assert mlflow.logged[step - 1][2]["worst class robust/validation"] == epoch.val_robust.worst
    assert len(wandb.logged) == len(mlflow.logged) == 2

    first, second = wandb.begun
    assert first["id"] == second["id"]
    assert (first["project"], first["name"], first["resume"]) == ("fairtat", "run", "allow")
    assert first["config"]["attack.eps"] == "0.05"
    assert first["config"]["epochs"] == 2
    assert wandb.ended == [1, 0]
    (run,) = mlflow.runs.values()
    assert (run["name"], run["params"]["fairness.targets"]) == ("run", "cfps")
    assert mlflow.ended == ["KILLED", "FINISHED"]


def test_another_run_in_the_same_folder_is_another_run_there(
    tiny: Tiny, wandb: Wandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for second in (1, 2):
        monkeypatch.setattr("time.strftime", lambda form, *_, at=second: f"2030-01-01T00:00:0{at}")
        train(tiny(epochs=1, output=str(tmp_path / "again")), observer=WeightsAndBiases())
        for file in (tmp_path / "again").iterdir():
            file.unlink()
    assert wandb.begun[0]["id"] != wandb.begun[1]["id"]


def test_a_server_that_goes_away_does_not_end_a_run(
    tiny: Tiny, mlflow: Mlflow, caplog: pytest.LogCaptureFixture
) -> None:
    mlflow.down = True
    assert not train(tiny(epochs=1), observer=MLflow()).interrupted
    assert "warning: MLflow has not taken the figures of epoch 1 (no server)" in caplog.text
    assert mlflow.ended == ["FINISHED"]


def test_a_run_that_cannot_begin_is_one_line(tiny: Tiny, mlflow: Mlflow, wandb: Wandb, tmp_path: Path) -> None:
    mlflow.start_run()
    with pytest.raises(UserError, match=r"^MLflow cannot begin a run \(Run with UUID x is already active\. To start"):
        train(tiny(), observer=MLflow())

    def refuse(**_: Any) -> None:
        raise RuntimeError("api_key not configured (no-tty)\ncall wandb.login(key=[your_api_key])")

    wandb.init = refuse  # type: ignore[assignment, method-assign]
    with pytest.raises(UserError, match=r"^Weights & Biases cannot begin a run \(api_key not configured"):
        train(tiny(output=str(tmp_path / "w")), observer=WeightsAndBiases())
    del wandb.init  # nothing was trained: the same folder is free
    assert train(tiny(output=str(tmp_path / "w"), epochs=1), observer=WeightsAndBiases()).epoch == 1


@pytest.mark.parametrize(("name", "observer"), [("wandb", WeightsAndBiases), ("mlflow", MLflow)])
def test_without_the_package_its_extra_is_named(
    name: str, observer: type[Observer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"needs {name}: pip install 'fairtat\[{name}\]'"):
        observer()


def test_the_stand_ins_have_the_packages_signatures() -> None:
    """Where the packages are installed: each argument that is used has its place in the real function."""

    def has(real: Any, ours: Any) -> None:
        assert set(inspect.signature(ours).parameters) - {"self"} <= set(inspect.signature(real).parameters)

    found: dict[str, ModuleType] = {}
    for name in ("wandb", "mlflow"):
        found[name] = pytest.importorskip(name, reason=f"{name} is not installed")
    has(found["wandb"].init, Wandb.init)
    has(found["wandb"].Run.log, Wandb.log)
    has(found["wandb"].Run.finish, Wandb.finish)
    for function in ("search_runs", "start_run", "log_params", "log_metrics", "end_run"):
        has(getattr(found["mlflow"], function), getattr(Mlflow, function))
