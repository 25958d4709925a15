from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fairtat.errors import UserError
from fairtat.weights import load_weights


def network(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, 4))


def prefixed(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: prefixed("module.", state),
        lambda state: prefixed("module._orig_mod.", state),
        lambda state: {"state_dict": prefixed("model.", state), "epoch": 3, "optimizer": {"lr": 0.1}},
        lambda state: {"model": state, "epoch": 3},
    ],
)
def test_weights_are_found_where_training_scripts_put_them(tmp_path: Path, wrap: Any) -> None:
    torch.manual_seed(1)
    source, model = network(), network()
    torch.save(wrap(source.state_dict()), tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt")
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), source.state_dict().values(), strict=True)
    )


def test_safetensors_are_read(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    source, model = network(), network()
    safetensors.save_file(source.state_dict(), str(tmp_path / "w.safetensors"))
    load_weights(model, tmp_path / "w.safetensors")
    assert torch.equal(model[0].weight, source[0].weight)  # type: ignore[index, arg-type]
    (tmp_path / "bad.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:50])
    with pytest.raises(UserError, match=r"bad\.safetensors: cannot be read as a \.safetensors file"):
        load_weights(model, tmp_path / "bad.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "lacks 9 .0.bias, ...."),
        ({"state_dict": {"other": torch.zeros(1)}}, "lacks 9 .0.bias, .... and has 1 others .other, ...."),
        (network(5).state_dict(), r"0.weight has shape \(5, 2\), but the model expects \(3, 2\); .* number of classes"),
        ([1, 2], "expected a state_dict"),
    ],
)
def test_other_weights_are_explained(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UserError, match=message):
        load_weights(network(), tmp_path / "w.pt")


def classifier(classes: int, width: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, classes))


def test_other_classes_are_refused_unless_a_new_head_is_asked_for(tmp_path: Path) -> None:
    source, model = classifier(7), classifier(4)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match=r"w\.pt: its weights have 7 classes, but the model has 4 \(2\.weight\)"):
        load_weights(model, tmp_path / "w.pt", num_classes=4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert load_weights(model, tmp_path / "w.pt", num_classes=4, new_head=True) == ["2.weight", "2.bias"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name] if name.startswith("2.") else source.state_dict()[name])
    assert load_weights(classifier(7), tmp_path / "w.pt", num_classes=7, new_head=True) == []


@pytest.mark.parametrize(
    ("source", "num_classes"),
    [
        (classifier(4, width=5), 4),  # the same classes, another width
        (classifier(7, width=5), 4),
        (nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)), 4),  # a width that equals the classes
        (nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), 4),  # no head at all
        (classifier(7), 5),  # it is not the layer of the classes that differs
    ],
)
def test_a_new_head_excuses_nothing_else(tmp_path: Path, source: nn.Module, num_classes: int) -> None:
    torch.save(source.state_dict(), tmp_path / "w.pt")
    model = classifier(4)
    with pytest.raises(UserError, match=r"of another size|of another model"):
        load_weights(model, tmp_path / "w.pt", num_classes=num_classes, new_head=True)


class Harmful:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return eval, ("1/0",)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"model": Harmful()}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="could run its code"):
        load_weights(network(), tmp_path / "w.pt")
    (tmp_path / "t.pt").write_bytes(b"PK not a checkpoint")
    with pytest.raises(UserError, match=r"t\.pt: "):
        load_weights(network(), tmp_path / "t.pt")
    with pytest.raises(UserError, match="no such weights file"):
        load_weights(network(), tmp_path / "nowhere.pt")
