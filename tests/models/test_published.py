"""Published models and weights: found where a person has put them or the Hub's cache has them, and else refused."""

from __future__ import annotations

import copy
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from fairtat.errors import UserError
from fairtat.models import build, code_of, fetch, find_weights, published
from fairtat.models.normalized import Normalized
from fairtat.weights import load_weights

MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
CLASSES = 5


def written(timm: ModuleType, folder: Path, *, safetensors: bool) -> nn.Module:
    """A model of timm as timm.models.save_for_hf writes it."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model("test_resnet", num_classes=CLASSES).eval()
    folder.mkdir(parents=True)
    timm.models.save_for_hf(model, folder, model_config={"num_classes": CLASSES}, safe_serialization=safetensors)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= {"mean": MEAN, "std": STD}
    (folder / "config.json").write_text(json.dumps(config))
    return model


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub, and a working directory."""
    constants = pytest.importorskip("huggingface_hub.constants")
    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return cache


@pytest.fixture(params=["by hand", "in the cache"])
def model(request: pytest.FixtureRequest, timm: ModuleType, hub: Path) -> nn.Module:
    """The model hf:org/net, as it came to this machine."""
    if request.param == "by hand":
        return written(timm, Path("models/org/net"), safetensors=True)
    commit = "0" * 40
    made = written(timm, hub / "models--org--net" / "snapshots" / commit, safetensors=False)
    refs = hub / "models--org--net" / "refs"
    refs.mkdir()
    (refs / "main").write_text(commit)
    return made


def test_a_model_of_the_hub_is_the_published_one(model: nn.Module) -> None:
    for name in ("hf:org/net", "hf_hub:org/net"):
        ours = build(name, CLASSES, 3, (32, 32), new_head=False).eval()
        x = torch.rand(2, 3, 32, 32)
        normalized = (x - torch.tensor(MEAN).reshape(3, 1, 1)) / torch.tensor(STD).reshape(3, 1, 1)
        torch.testing.assert_close(ours(x), model(normalized))
    assert isinstance(build("hf:org/net", CLASSES, fetch=False), Normalized)


def test_a_model_of_the_hub_for_other_classes(model: nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    message = r"model 'hf:org/net': its pretrained weights have 5 classes, but the data have 7"
    with pytest.raises(UserError, match=message):
        build("hf:org/net", 7, new_head=False)
    caplog.set_level("INFO", logger="fairtat")
    ours = build("hf:org/net", 7)
    assert isinstance(ours, Normalized)
    own, theirs = ours.model.state_dict(), model.state_dict()
    head = {name for name, value in own.items() if value.shape != theirs[name].shape}
    assert len(head) == 2  # weight and bias
    assert all(torch.equal(value, theirs[name]) for name, value in own.items() if name not in head)
    assert "the last layer starts from random weights" in caplog.text


def test_weights_of_the_hub_are_a_file(model: nn.Module) -> None:
    assert find_weights("hf:org/net").name in ("model.safetensors", "pytorch_model.bin")
    zeroed = copy.deepcopy(model)
    for parameter in zeroed.parameters():
        torch.nn.init.zeros_(parameter)
    load_weights(zeroed, find_weights("hf:org/net"))
    assert all(map(torch.equal, zeroed.parameters(), model.parameters()))
    assert find_weights("hf:org/net/config.json").name == "config.json"
    assert find_weights("some/run.pt") == Path("some/run.pt")


def test_what_is_not_here_says_where_to_put_it(hub: Path) -> None:
    with pytest.raises(UserError) as caught:
        build("hf:org/net", CLASSES)
    assert str(caught.value) == (
        "hf:org/net: config.json is not on this machine; add --model.download true to fetch it, or put config.json and "
        "model.safetensors of org/net into the folder models/org/net"
    )
    with pytest.raises(UserError, match=r"or put best\.pt of org/net into the folder models/org/net"):
        find_weights("hf:org/net/best.pt")
    with pytest.raises(UserError, match=r"hf:org/net: cannot be fetched \(.*put config\.json and model\.safetensors"):
        fetch("hf:org/net")


@pytest.mark.parametrize("name", ["hf:org/", "hf:org/../net", "hf:../net", "hf:/org/net", "hf:org/net/../../x"])
def test_names_that_are_no_repository(name: str) -> None:
    with pytest.raises(UserError, match="expected hf:ORG/MODEL"):
        find_weights(name)


@pytest.mark.parametrize("content", ["{", "[]", '{"architectures": ["ViTForImageClassification"]}'])
def test_a_model_that_is_not_of_timm_is_explained(hub: Path, content: str) -> None:
    Path("models/org/net").mkdir(parents=True)
    Path("models/org/net/config.json").write_text(content)
    with pytest.raises(UserError, match=r"models/org/net/config\.json: "):
        build("hf:org/net", CLASSES)


def test_a_fetch_asks_the_hub_for_these_files(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("huggingface_hub")
    asked: list[tuple[Any, ...]] = []
    signature = inspect.signature(library.hf_hub_download)

    def download(*args: Any, **kwargs: Any) -> str:
        bound = signature.bind(*args, **kwargs).arguments
        asked.append((bound["repo_id"], bound["filename"], bound.get("revision")))
        if bound["filename"] == "model.safetensors":
            raise FileNotFoundError("this repository has none")
        return ""

    monkeypatch.setattr(library, "hf_hub_download", download)
    fetch("hf:org/net@v2")
    assert asked == [("org/net", file, "v2") for file in ("config.json", "model.safetensors", "pytorch_model.bin")]
    asked.clear()
    fetch("mlp", "hf:org/net/a/b.pt")
    assert asked == [("org/net", "a/b.pt", None)]
    asked.clear()
    fetch("mlp", "weights.pt")
    assert asked == []


def test_the_weights_of_timm_are_those_of_its_own_list(timm: ModuleType, hub: Path) -> None:
    repository = timm.get_pretrained_cfg("resnet18").hf_hub_id
    folder = Path("models") / repository
    with pytest.raises(UserError, match=f"model.safetensors of {repository} into the folder {folder}"):
        published.find_timm_weights("timm:resnet18")
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    assert published.find_timm_weights("timm:resnet18") == folder / "model.safetensors"


class _Zoo:
    """Stands in for robustbench 1.1.1: load_model with its arguments, and the constructors of model_zoo.model_dicts."""

    def __init__(self) -> None:
        self.calls: list[dict[str, str]] = []

    def load_model(
        self,
        model_name: str,
        model_dir: str | Path = "./models",
        dataset: str = "cifar10",
        threat_model: str = "Linf",
        custom_checkpoint: str = "",
        norm: str | None = None,
    ) -> nn.Module:
        self.calls.append(
            {"model": model_name, "dir": str(model_dir), "dataset": dataset, "threat": threat_model, "norm": str(norm)}
        )
        if model_name == "Unknown":
            raise KeyError(model_name)
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 100 if dataset == "cifar100" else 10))


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Zoo:
    monkeypatch.chdir(tmp_path)
    zoo = _Zoo()
    entry = {"model": lambda: nn.Linear(1, 1)}
    monkeypatch.setitem(sys.modules, "robustbench", zoo)  # type: ignore[arg-type]
    dicts = SimpleNamespace(model_dicts={"cifar10": {"Linf": {"Some2020Name": entry}}})
    monkeypatch.setitem(sys.modules, "robustbench.model_zoo", dicts)  # type: ignore[arg-type]
    enums: Callable[[str], str] = str
    monkeypatch.setitem(
        sys.modules,
        "robustbench.model_zoo.enums",
        SimpleNamespace(BenchmarkDataset=enums, ThreatModel=enums),  # type: ignore[arg-type]
    )
    return zoo


def put(path: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).touch()


def test_a_model_of_robustbench_is_loaded_by_it(zoo: _Zoo) -> None:
    put("models/cifar10/Linf/Some2020Name.pt")
    put("models/cifar100/L2/Other.pt_m0.pt")  # of an ensemble
    assert build("robustbench:Some2020Name", 10)(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    build("robustbench:cifar100/L2/Other", 100)
    assert zoo.calls == [
        {"model": "Some2020Name", "dir": "models", "dataset": "cifar10", "threat": "Linf", "norm": "None"},
        {"model": "Other", "dir": "models", "dataset": "cifar100", "threat": "L2", "norm": "None"},
    ]
    assert isinstance(build("robustbench:Some2020Name", 10, fetch=False), nn.Linear)
    assert len(zoo.calls) == 2
    assert find_weights("robustbench:Some2020Name") == Path("models/cifar10/Linf/Some2020Name.pt")


def test_models_of_robustbench_that_cannot_be_had(zoo: _Zoo) -> None:
    message = (
        r"^robustbench:Some2020Name: its weights are not on this machine; add --model\.download true to fetch them, or "
        r"put them into models/cifar10/Linf/Some2020Name\.pt$"
    )
    with pytest.raises(UserError, match=message):
        build("robustbench:Some2020Name", 10)
    assert zoo.calls == []  # which would have gone to the network
    fetch("robustbench:Some2020Name")
    assert len(zoo.calls) == 1
    put("models/cifar10/Linf/Unknown.pt")
    with pytest.raises(UserError, match=r"RobustBench cannot load it \(KeyError: 'Unknown'\)"):
        build("robustbench:Unknown", 10)
    put("models/cifar10/Linf/Some2020Name.pt")
    with pytest.raises(UserError, match=r"its pretrained weights have 10 classes, but the data have 7"):
        build("robustbench:Some2020Name", 7)
    with pytest.raises(UserError, match=r"its options are \{'width': 3\}; expected none"):
        build("robustbench:Some2020Name", 10, width=3)
    for name in ("robustbench:mnist/Linf/X", "robustbench:cifar10/Linf/..", "robustbench:cifar10/X", "robustbench:X/"):
        with pytest.raises(UserError, match="expected robustbench:DATASET/THREAT/NAME"):
            build(name, 10)


def test_without_the_package_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "robustbench", None)
    put("models/cifar10/Linf/Some2020Name.pt")
    with pytest.raises(UserError, match=r"needs robustbench: pip install 'fairtat\[robustbench\]'"):
        build("robustbench:Some2020Name", 10)


def test_published_names_are_no_code_but_options_that_name_files_are() -> None:
    assert code_of("hf:org/net", {}) is None
    assert code_of("robustbench:Some2020Name", {}) is None
    assert code_of("robustbench:load_model", {}) is not None
    assert code_of("hf:net", {}) is not None  # of a module hf
    assert find_weights("hf:net") == Path("hf:net")
    assert code_of("hf:org/net", {"checkpoint_path": "x.pt"}) is not None
