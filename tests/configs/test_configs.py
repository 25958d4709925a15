"""The shipped experiments: they load, say what they differ in, and train."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from safetensors.torch import save_file

from fairtat import models
from fairtat.cli import train as train_command
from fairtat.data import DATASETS
from fairtat.training import TrainConfig, load_run, resume, train
from fairtat.training.config import from_dict, leaves, load_yaml, stacked, to_dict
from fairtat.training.objectives import Trades
from fairtat.training.optim.schedule import learning_rate

ROOT = Path(__file__).parents[2] / "configs"
DATA = ("digits", "mnist5k", "cifar10")
METHODS = sorted(file.stem for file in (ROOT / "methods").glob("*.yaml"))
FAITHFUL = ROOT / "faithful"
# Ways of training, and the files that they go on top of.
RECIPES = {
    "n_fgsm_cifar10": (), "grad_align_cifar10": (), "wang2023_cifar10": (), "vit_apgd": (),
    "cutmix_cifar10": ("recipes/wang2023_cifar10",), "swa": ("digits",), "linear_probe": ("digits",),
    "fine_tune": ("digits",),
}  # fmt: skip
# Every experiment: files to stack.
EXPERIMENTS = {
    **{data: (data,) for data in DATA},
    **{f"{data}+{method}": (data, f"methods/{method}") for data in DATA for method in METHODS},
    **{f"faithful/{file.stem}": (f"faithful/{file.stem}",) for file in sorted(FAITHFUL.glob("*.yaml"))},
    **{f"recipes/{name}": (*below, f"recipes/{name}") for name, below in RECIPES.items()},
}


# The command line takes its time: each file once, the methods on one data set after another.
ON_THE_COMMAND_LINE = [
    name
    for name, files in EXPERIMENTS.items()
    if len(files) == 1 or "methods/" not in files[1] or files[0] == DATA[METHODS.index(Path(files[1]).name) % len(DATA)]
]


@cache
def layer(name: str) -> dict[str, Any]:
    return load_yaml(ROOT / f"{name}.yaml")


@cache  # frozen; nobody writes into its lists
def load(*names: str) -> TrainConfig:
    """These files, one on top of the other."""
    return from_dict(stacked(map(layer, names)))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_loads(name: str) -> None:
    config = load(*EXPERIMENTS[name])
    assert config.data.name in DATASETS
    assert config.model.name in models.MODELS or config.model.name.startswith("timm:")


@pytest.fixture(scope="module")
def parser() -> ArgumentParser:
    return train_command.parser()


@pytest.mark.parametrize("name", ON_THE_COMMAND_LINE)
def test_the_command_line_stacks_files_alike(name: str, parser: ArgumentParser) -> None:
    words = [word for file in EXPERIMENTS[name] for word in ("--config", str(ROOT / f"{file}.yaml"))]
    parsed = parser.parse_args(words).as_dict()
    asked = from_dict({key: value for key, value in parsed.items() if key in TrainConfig.__dataclass_fields__})
    assert asked == load(*EXPERIMENTS[name])


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.yaml")), ids=lambda file: file.stem)
def test_is_explained(file: Path) -> None:
    lines = file.read_text().splitlines()
    assert lines[0].startswith("# ")
    # The command that runs it can be copied.
    assert any("fairtat train --config" in line and str(file.relative_to(ROOT.parent)) in line for line in lines)
    assert max(map(len, lines)) <= 120


def test_every_method_of_the_family_is_there() -> None:
    methods = "trades fat mart cfa_at cfa_trades cfa_fat dafa dafa_at frl wat cfol fairtat fairtat_random"
    methods += (
        " fairtat_confusion fairtat_trades fairtat_fat cfa_digits cfa_mnist5k dafa_digits dafa_mnist5k frl_digits"
    )
    methods += " faal faal_trades bat even_success trix trix_at trix_digits absld rslad fair_ard fair_rslad csr"
    methods += " ham taet cfol_sampling fgsm_rs n_fgsm fat_dynamic fairtat_cfps fairtat_fixed fairtat_mean"
    assert set(METHODS) == set(methods.split())
    assert {file.stem for file in FAITHFUL.glob("*.yaml")} == set(PUBLISHED)
    assert {file.stem for file in (ROOT / "recipes").glob("*.yaml")} == set(RECIPES)


@pytest.mark.parametrize("base", DATA)
def test_a_method_changes_its_own_sections_alone(base: str) -> None:
    plain = load(base)
    for method in METHODS:
        other = load(base, f"methods/{method}")
        own = {section: getattr(plain, section) for section in ("objective", "fairness", "averaging", "distill")}
        if method in ("fgsm_rs", "n_fgsm"):
            own["attack"] = plain.attack
        assert replace(other, **own) == plain
    settings = [json.dumps(to_dict(load(base, f"methods/{method}")), sort_keys=True) for method in METHODS]
    assert len({*settings, json.dumps(to_dict(plain), sort_keys=True)}) == len(METHODS) + 1  # all differ


# What the published codes do, read from their sources: what they share, and what each has of its own.
COMMON = {
    "batch_size": 128,
    "data.val": 0.02,
    "data.augment": "crop_flip",
    "amp": "none",
    "optim.lr": 0.1,
    "optim.momentum": 0.9,
    "optim.weight_decay": 5e-4,
    "attack.eps": 8 / 255,
    "attack.step_size": 2 / 255,
    "attack.steps": 10,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "at": {"objective.name": "at", "attack.bn_mode": "train", "fairness.margins": "fixed", "averaging.name": "none"},
    "fat": {"objective.name": "fat", "objective.tau": 3, "attack.bn_mode": "train"},
    "trades": {"objective.name": "trades", "objective.beta": 6.0, "attack.bn_mode": "eval"},
    "cfa_at": {"averaging.threshold": 0.2, "attack.bn_mode": "train", "fairness.begin": 10},
    "cfa_trades": {"averaging.threshold": 0.24, "attack.bn_mode": "eval", "objective.ccr": True},
    "cfa_fat": {"averaging.threshold": 0.24, "attack.bn_mode": "train", "objective.tau": 3},
    "fairtat": {"fairness.targets": "cfps", "fairness.tau": 2.0, "fairness.begin": 1, "averaging.decay": 0.85},
    "dafa": {
        "attack.eps": 0.031,
        "attack.step_size": 0.007,
        "optim.nesterov": True,
        "fairness.margins": "fixed",
        "fairness.weight_options": {"warmup": 70, "lam": 1.0},
    },
    "bat": {
        "objective.name": "bat",
        "objective.beta": 6.0,
        "attack.eps": 0.031,
        "attack.step_size": 0.007,
        "attack.bn_mode": "eval",
        "optim.weight_decay": 2e-4,
    },
    "trix": {
        "objective.name": "trades",
        "objective.beta": 6.0,
        "attack.eps": 0.031,
        "attack.step_size": 0.007,
        "attack.bn_mode": "eval",
        "optim.nesterov": True,
        "fairness.targets": "random",
        "fairness.targeted": "easy",
        "fairness.margins": "fixed",
        "fairness.weights": "dafa",
        "fairness.weight_options": {"warmup": 70, "lam": 1.0},
    },
    "absld": {
        "objective.name": "absld",
        "attack.bn_mode": "eval",
        "distill.natural": 1 / 6,
        "distill.temperature_rate": 0.1,
        "optim.weight_decay": 2e-4,
        "optim.nesterov": False,
        "fairness.weights": "none",
    },
    "fair_rslad": {
        "objective.name": "rslad",
        "attack.bn_mode": "eval",
        "distill.natural": 1 / 6,
        "optim.weight_decay": 2e-4,
        "optim.nesterov": True,
        "fairness.weights": "fair_ard",
    },
    "fair_ard": {
        "objective.name": "ard",
        "attack.bn_mode": "train",
        "distill.temperature": 30,
        "distill.alpha": 1.0,
        "optim.weight_decay": 2e-4,
        "optim.nesterov": True,
        "fairness.weights": "fair_ard",
    },
    "csr": {
        "objective.name": "csr",
        "objective.beta": 6.0,
        "objective.csr": 0.3,
        "attack.bn_mode": "eval",
        "optim.lr": 0.001,
    },
    "mart": {
        "objective.name": "mart",
        "objective.beta": 5.0,
        "attack.eps": 0.031,
        "attack.step_size": 0.007,
        "optim.lr": 0.01,
        "optim.weight_decay": 3.5e-3,
    },
    "frl": {"objective.beta": 1.5, "data.val": 0.06, "eval.steps": 20, "optim.lr": 0.001, "fairness.weights": "frl"},
    "fairtat_cifar100": {
        "data.name": "cifar100",
        "fairness.targets": "random",
        "fairness.margins": "G-rob",
        "fairness.lam": 1.5,
        "attack.bn_mode": "train",
    },
    "ham": {
        "objective.name": "ham",
        "objective.mining_step": 3,
        "objective.begin": 49 / 120,
        "attack.eps": 0.031,
        "attack.step_size": 0.007,
        "attack.bn_mode": "eval",
        "optim.weight_decay": 2e-4,
    },
    "taet": {
        "objective.name": "taet",
        "objective.begin": 0.4,
        "objective.equalize": [0.1] * 3,
        "attack.eps": 0.031,
        "attack.step_size": 0.003,
        "attack.bn_mode": "eval",
    },
    "faal": {"objective.name": "at", "objective.faal": 0.5, "optim.lr": 0.01, "attack.bn_mode": "eval"},
}
RATES = {
    **dict.fromkeys(("absld", "fair_rslad"), [0.1] * 215 + [0.01] * 45 + [0.001] * 25 + [0.0001] * 15),
    "bat": [0.1] * 74 + [0.01] * 15 + [0.001] * 10 + [0.0001] * 101,
    "dafa": [0.1] * 99 + [0.01] * 5 + [0.001] * 6,
    "csr": [0.001] * 3,
    "ham": [0.1] * 59 + [0.01] * 30 + [0.001] * 31,
    "taet": [0.1] * 75 + [0.01] * 15 + [0.001] * 10,
    "frl": [0.001] * 40,
    "mart": [0.01] * 74 + [0.001] * 15 + [0.0001] * 10 + [0.00001] * 21,
    "fairtat_cifar100": [round(0.1 * 0.96 ** (epoch // 10), 6) for epoch in range(350)],
    "faal": [0.01, 0.001],
    "trix": [0.1] * 139 + [0.01] * 5 + [0.001] * 6,
}
CFA_RATES = [0.1] * 100 + [0.01] * 50 + [0.001] * 50


@pytest.mark.parametrize("name", PUBLISHED)
def test_faithful_presets_keep_to_the_published_protocol(name: str) -> None:
    config = load(f"faithful/{name}")
    rates = [round(learning_rate(config.optim, epoch, config.epochs), 6) for epoch in range(config.epochs)]
    assert rates == RATES.get(name, CFA_RATES)
    if name.startswith("cfa"):
        assert (config.fairness.margins, config.fairness.lam, config.fairness.begin) == ("G-rob", 0.5, 10)
        assert (config.averaging.name, config.averaging.decay, config.averaging.every) == ("fawa", 0.88, "epoch")
    settings = dict(leaves(config))
    for key, value in (COMMON | PUBLISHED[name]).items():
        assert settings[key] == value, key
    assert "Defects of the published code that are not copied" in (FAITHFUL / f"{name}.yaml").read_text()


def shrunk(*names: str) -> dict[str, Any]:
    """The method of an experiment on a few hundred digits, its rules in force from the second epoch on."""
    values = to_dict(load(*names))
    values["data"] = {"name": "digits", "val": 0.1, "test": 0.7, "extra_share": values["data"]["extra_share"]}
    values["model"] = {"name": "digits_cnn", "options": {"width": 4}}
    values["attack"] |= {"eps": 0.1, "step_size": 0.05, "steps": min(values["attack"]["steps"], 2)}
    values["eval"] |= {"eps": 0.1, "step_size": 0.05, "steps": 2}
    values["fairness"]["begin"] = 1
    values["objective"]["mining_step"] = 1
    values["averaging"] |= {"threshold": 0.0}
    if "warmup" in values["fairness"]["weight_options"]:
        values["fairness"]["weight_options"]["warmup"] = 1
    plain = values["optim"]["name"] == "sgd"
    kept = {key: values["optim"][key] for key in ("name", "betas", "decay", "freeze", "thaw", "groups", "clip")}
    values["optim"] = kept | {"lr": 0.1 if plain else 1e-3, "warmup": min(values["optim"]["warmup"], 0.5)}
    values["averaging"]["begin"] = min(values["averaging"]["begin"], 1)
    values["distill"] |= {"teacher": None}  # the same network
    return values | {"epochs": 2, "batch_size": 64, "seed": 0, "device": "cpu", "threads": 1}


def distinct_methods() -> list[Any]:
    """Each data set's plain training, and each method once, on the first data set that it is shipped for."""
    method = ("objective", "fairness", "averaging", "awp", "distill", "attack", "augment", "optim")
    found = {
        name if name in DATA else json.dumps([values[section] for section in method], sort_keys=True): (name, values)
        for name, files in reversed(EXPERIMENTS.items())
        if (values := shrunk(*files))
    }
    return [pytest.param(values, id=name) for name, values in found.values()]


def taught(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """With weights of a teacher where there must be some."""
    if values["objective"]["name"] not in ("ard", "rslad", "absld"):
        return values
    torch.manual_seed(1)
    save_file(models.build("digits_cnn", 10, 1, (8, 8), width=4).state_dict(), folder / "teacher.safetensors")
    return values | {"distill": values["distill"] | {"weights": str(folder / "teacher.safetensors")}}


def finite_numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for item in value.values():
            yield from finite_numbers(item)
    elif isinstance(value, list):
        for item in value:
            yield from finite_numbers(item)
    elif isinstance(value, (int, float)):
        yield float(value)


def test_the_protocol_with_generated_images_takes_its_share_of_every_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = shrunk("recipes/wang2023_cifar10")
    options = load("recipes/wang2023_cifar10").model.options
    generated = np.random.default_rng(0).integers(0, 256, (50, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "1m.npz", image=generated, label=np.arange(50) % 10)
    values["data"]["extra"] = str(tmp_path / "1m.npz")
    values |= {"amp": "none", "channels_last": False}  # auto tries them out
    values["model"] = {"name": "preact_resnet18", "options": {**options, "width": 2}}
    seen = []
    observe = Trades.loss

    def loss(self: Trades, model: Any, batch: Any, *args: Any, **keywords: Any) -> Any:
        seen.append((len(batch.y), batch.own))
        return observe(self, model, batch, *args, **keywords)

    monkeypatch.setattr(Trades, "loss", loss)
    outcome = train(from_dict(values | {"epochs": 1, "output": str(tmp_path / "run")}))
    own = len(load_run(outcome.path).splits().train)
    drawn = [sizes for sizes in seen if sizes != (2, None)]  # a trial of the objective, before the first step
    assert drawn[0] == (64, 64 - 44)
    assert len(drawn) == -(-own // 64)
    (line,) = (outcome.path / "metrics.jsonl").read_text().splitlines()
    assert all(map(math.isfinite, finite_numbers(json.loads(line))))


@pytest.mark.slow
@pytest.mark.parametrize("values", distinct_methods())
def test_goes_on_after_a_stop_as_if_there_were_none(
    values: dict[str, Any], tmp_path: Path, assert_same_run: Callable[[Path, Path], None]
) -> None:
    threads, values = torch.get_num_threads(), taught(values, tmp_path)
    values = values | {
        "channels_last": False,
        "amp": "none",
    }  # auto times both formats, so two runs may choose differently
    try:
        whole = train(from_dict(values | {"epochs": 3, "output": str(tmp_path / "whole")})).path
        asked = count()
        steps = -(-len(load_run(whole).splits().train) // values["batch_size"])
        stopped = train(
            from_dict(values | {"epochs": 3, "output": str(tmp_path / "stopped")}),
            should_stop=lambda: next(asked) > 1.5 * steps,  # in the second epoch
        )
        assert (stopped.interrupted, stopped.epoch) == (True, 1)
        resume(stopped.path)
    finally:
        torch.set_num_threads(threads)
    assert_same_run(whole, stopped.path)


@pytest.mark.parametrize("values", distinct_methods())
def test_trains(values: dict[str, Any], tmp_path: Path) -> None:
    config = from_dict(taught(values, tmp_path) | {"output": str(tmp_path / "run")})
    threads = torch.get_num_threads()
    try:
        outcome = train(config)
    finally:
        torch.set_num_threads(threads)
    assert outcome.epoch == 2
    epochs = [json.loads(line) for line in (outcome.path / "metrics.jsonl").read_text().splitlines()]
    numbers = [number for epoch in epochs for number in finite_numbers(epoch)]
    assert len(numbers) > 50
    assert all(map(math.isfinite, numbers))
    # The rules are in force in the second epoch: radii and targets have left the plain ones wherever they may.
    first, second = epochs
    assert set(first["class_eps"]) == {first["class_eps"][0]}
    if config.fairness.mean_eps == "keep":
        counts = torch.bincount(load_run(outcome.path).splits().train.labels, minlength=10).double()
        radii = torch.tensor(second["class_eps"], dtype=torch.float64)
        assert float((radii * counts).sum() / counts.sum()) == pytest.approx(config.attack.eps, rel=1e-6)
    moves_radii = config.fairness.margins != "fixed" or config.fairness.weights in ("dafa", "frl", "even_success")
    assert (len(set(second["class_eps"])) > 1) == moves_radii
    assert (second["target_weight"] is None) == (config.fairness.targets == "none")
    all_targeted = config.fairness.targets != "none" and config.fairness.targeted == "all"
    assert (second["train_reached"] is not None) == all_targeted
