"""attack.engine: auto, on a CPU: one choice for a whole run."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_run import make_tiny
from torch import nn

import fairtat.training.engine as choice
from fairtat.attacks import EngineFallback
from fairtat.data import Splits
from fairtat.engines.compiled.engine import Compiled
from fairtat.engines.patient import EAGER_PER_BUILD, build_seconds
from fairtat.training import TrainConfig, Trainer, resume, train
from fairtat.training.api import stored_config
from fairtat.training.build import build_model, load_data
from fairtat.training.distributed import World
from fairtat.training.engine import settle_engine

Tiny = Callable[..., TrainConfig]


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What an attack takes on each engine, by a fake clock."""
    times = {"eager": 0.0, "compiled": 0.0}

    def look_up(config: object, model: object, data: object, engine: str, *, rounds: int) -> float:
        if times[engine] < 0:
            raise EngineFallback(f"engine={engine!r} falls back to 'eager': a reason")
        return times[engine]

    monkeypatch.setattr(choice, "_seconds", look_up)
    monkeypatch.setattr(choice, "_flops", lambda *args: times["eager"] * choice._FLOPS * torch.get_num_threads())
    return times


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load_data(make_tiny().data)


def model_of(config: TrainConfig, splits: Splits) -> nn.Module:
    return build_model(config.model, splits.train.num_classes, splits.train.image_shape)


def settled(config: TrainConfig, splits: Splits) -> str:
    return settle_engine(config, model_of(config, splits), splits.train, World()).attack.engine


def long_enough(config: TrainConfig, splits: Splits) -> float:
    """Seconds of an attack from which this run's attacks take the multiple of a build."""
    attacks = config.epochs * -(-len(splits.train) // config.batch_size)
    return EAGER_PER_BUILD * build_seconds(model_of(config, splits)) / attacks


@pytest.mark.parametrize(
    ("eager", "compiled", "expected"),
    [(0.99, 0.0, "eager"), (1.01, 0.5, "compiled"), (1.01, 1.0, "eager"), (1.01, -1.0, "eager")],
    ids=["a short run", "faster", "no faster", "not to be compiled"],
)
def test_the_clock_of_one_batch_chooses(
    tiny: Tiny, splits: Splits, seconds: dict[str, float], eager: float, compiled: float, expected: str
) -> None:
    unit = long_enough(tiny(), splits)
    seconds.update(eager=eager * unit, compiled=compiled * unit)
    assert settled(tiny(), splits) == expected


def test_what_the_configuration_names_is_kept(tiny: Tiny, splits: Splits, seconds: dict[str, float]) -> None:
    seconds.update(eager=1e6, compiled=1.0)
    for name in ("eager", "graph"):
        assert settled(tiny(attack={"engine": name}), splits) == name


@pytest.mark.usefixtures("compiles")
def test_trying_engines_leaves_model_and_random_numbers_alone(
    tiny: Tiny, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "build_seconds", lambda model: 0.0)
    config = tiny(model={"name": "digits_cnn", "options": {"width": 4}})
    torch.manual_seed(0)
    model = model_of(config, splits)
    before, generator = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    settle_engine(config, model, splits.train, World())
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_the_count_of_operations(tiny: Tiny, splits: Splits) -> None:
    config = tiny(attack={"steps": 3}, fairness={"targets": "none"})
    part = splits.train.take(torch.arange(10))
    macs = 10 * (64 * 32 + 32 * 10)
    # Forward and backward to the input; the last layer's weights and the first layer's both take part in each.
    assert choice._flops(config, model_of(config, splits), part) == 3 * 2 * 2 * macs


@pytest.mark.usefixtures("compiles")
def test_what_cannot_be_compiled_is_left_to_the_eager_engine_with_the_reason(
    tiny: Tiny, splits: Splits, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(choice, "build_seconds", lambda model: 0.0)
    monkeypatch.setattr(Compiled, "unsupported_options", lambda self: "these options are beyond it")
    caplog.set_level(logging.INFO, "fairtat")
    assert settled(tiny(objective={"name": "fat"}), splits) == "eager"
    assert "these options are beyond it" in caplog.text


def test_a_trainer_of_ones_own_keeps_to_eager(tiny: Tiny, splits: Splits) -> None:
    config = tiny()
    assert Trainer(config, splits, model_of(config, splits)).config.attack.engine == "eager"


@pytest.mark.usefixtures("compiles")
def test_a_run_records_its_engine_and_resumes_to_the_same_bits(
    tiny: Tiny, tmp_path: Path, seconds: dict[str, float], assert_same_run: Callable[[Path, Path], None]
) -> None:
    seconds.update(eager=1e6, compiled=1.0)
    whole, cut = (str(tmp_path / name) for name in ("whole", "cut"))
    train(tiny(output=whole, epochs=3))
    assert stored_config(whole).attack.engine == "compiled"
    asked = itertools.count()
    assert train(tiny(output=cut, epochs=3), should_stop=lambda: next(asked) > 20).interrupted  # in the second epoch
    seconds.update(eager=0.0)  # where it goes on, a measurement would say otherwise
    again = tiny(output=cut, epochs=3)
    assert again.attack.engine == "auto"
    resume(cut, config=again)
    assert stored_config(cut).attack.engine == "compiled"
    assert_same_run(Path(whole), Path(cut))
