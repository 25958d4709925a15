"""Data sets, objectives and weight rules of the user's own: as objects, and as module:function in a configuration."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fairtat import FairTAT
from fairtat.cli.main import main
from fairtat.data import ImageData, Splits, load, load_splits, stratified_split
from fairtat.errors import UserError
from fairtat.fairness.weights import DAFA
from fairtat.models import build
from fairtat.training import TrainConfig, Trainer, load_run, resume, train
from fairtat.training.build import code_named
from fairtat.training.config import to_yaml

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
Make = Callable[..., TrainConfig]

OWN: dict[str, Any] = {
    "data": {"name": "own_parts:stripes", "options": {"n": 120}, "test": 0.2, "val": 0.2},
    "objective": {"name": "own_parts:Focal", "options": {"gamma": 1.0}},
    "fairness": {"weights": "own_parts:InverseAccuracy", "weight_options": {"floor": 0.25}},
}


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The page's classes and functions, and a module `own_parts` in the working directory that has them too."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    definitions = [block for block in blocks if re.search(r"^(class|def) ", block, re.MULTILINE)]
    source = "\n\n".join(definitions) + (
        "\n\ndef published():\n"
        "    whole = stripes()\n"
        "    return data.PublishedSplits(whole.take(torch.arange(240)), test=whole.take(torch.arange(240, 300)))\n"
        "\n\ndef split(): return splits\n"
        "\n\ndef nothing(*args, **options): return 3\n"
        "\n\ndef entropy(logits, goal): return torch.nn.functional.cross_entropy(logits, goal, reduction='none')\n"
    )
    (tmp_path / "own_parts.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_parts", raising=False)
    namespace: dict[str, Any] = {}
    exec(compile(source, "own_parts.py", "exec"), namespace)
    return namespace


def test_a_run_with_all_three_goes_on_where_it_stopped(
    tiny: Make, mine: dict[str, Any], tmp_path: Path, assert_same_run: Callable[[Path, Path], None]
) -> None:
    straight = train(tiny(**OWN, epochs=3, output=str(tmp_path / "straight")))
    asked = iter([False] * 5)
    stopped = train(tiny(**OWN, epochs=3, output=str(tmp_path / "run")), should_stop=lambda: not any_left(asked))
    assert stopped.interrupted
    assert stopped.epoch > 0
    resume(stopped.path, trust_model=True)
    assert_same_run(straight.path, stopped.path)
    run = load_run(straight.path, trust_model=["own_parts:stripes"])  # evaluation needs no objective and no weights
    assert run.class_names == ("rows", "columns", "neither")
    assert len(run.splits().test) == 24


def any_left(answers: Any) -> bool:
    return next(answers, None) is not None


def test_names_and_objects_do_the_same(tiny: Make, mine: dict[str, Any]) -> None:
    named = tiny(**OWN)
    splits = stratified_split(mine["stripes"](n=120), val=0.2, test=0.2)
    metrics = []
    for config, objects in (
        (named, {}),
        (tiny(), {"objective": mine["Focal"](named, gamma=1.0), "weights": mine["InverseAccuracy"](3, floor=0.25)}),
    ):
        torch.manual_seed(0)
        model = build("mlp", num_classes=3, in_channels=1, image_size=(8, 8), width=16)
        trainer = Trainer(config, splits, model, **objects)
        metrics.append([trainer.run_epoch() for _ in range(2)])
    for one, two in zip(*metrics, strict=True):
        assert one.train_loss == two.train_loss
        assert one.val_robust == two.val_robust
        assert one.class_weight == two.class_weight
    assert metrics[0][0].class_weight is None  # the warm-up
    accuracy = torch.tensor(metrics[0][0].train_robust.per_class, dtype=torch.float64)
    inverse = 1 / accuracy.clamp(min=0.25)
    assert metrics[0][1].class_weight == pytest.approx((inverse / inverse.mean()).tolist(), rel=1e-6)


@pytest.mark.parametrize("targets", ["none", "random"])
def test_a_loss_of_ones_own_that_is_cross_entropy_trains_as_cross_entropy(
    tiny: Make, mine: dict[str, Any], targets: str
) -> None:
    attack, weights = {"eps": 0.2, "momentum": 0.9}, []
    for loss in ("ce", "own_parts:entropy"):
        config = tiny(attack={**attack, "loss": loss}, fairness={"targets": targets}, epochs=1)
        torch.manual_seed(0)
        model = build("mlp", num_classes=10, in_channels=1, image_size=(8, 8), width=16)
        Trainer(config, load_splits("digits", val=0.05, test=0.6), model).run_epoch()
        weights.append(model.state_dict())
    for ours, theirs in zip(weights[0].values(), weights[1].values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_a_data_set_comes_whole_or_in_parts(mine: dict[str, Any]) -> None:
    whole = load("own_parts:stripes")
    assert isinstance(whole, ImageData)
    assert torch.equal(whole.images, mine["stripes"]().images)
    published = load_splits("own_parts:published", val=0.1)
    assert published.test.ids.tolist() == list(range(240, 300))
    assert len(published.val) == 24
    split, expected = load_splits("own_parts:split"), mine["splits"]
    assert isinstance(expected, Splits)
    for part in ("train", "val", "test"):
        assert torch.equal(getattr(split, part).ids, getattr(expected, part).ids)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"name": "own_parts:nothing"}}, "data set 'own_parts:nothing' returned a int; expected ImageData"),
        ({"data": {"name": "own_parts:strips"}}, "module 'own_parts' has no function 'strips'; did you mean 'stripes'"),
        ({"data": {"name": "yours:stripes"}}, "data set 'yours:stripes': cannot import module 'yours'"),
        ({"data": {"name": "own_parts:stripes", "options": {"m": 1}}}, r"cannot be loaded with options \{'m': 1\}"),
        ({"data": {"options": {"m": 1}}}, r"data.options is \{'m': 1\} for 'digits'; expected none"),
        (
            {"objective": {"name": "own_parts:nothing"}},
            "objective 'own_parts:nothing' returned a int; expected one with attack",
        ),
        ({"objective": {"name": "own_parts:Focal", "options": {"beta": 1}}}, "cannot be made with options {'beta': 1}"),
        ({"objective": {"options": {"beta": 1}}}, "objective.options is {'beta': 1}; expected none for at"),
        (
            {"objective": {"name": "tardes"}},
            "objective.name is 'tardes'; expected one of at, .*; did you mean 'trades'",
        ),
        (
            {"fairness": {"weights": "own_parts:nothing"}},
            "fairness: weights='own_parts:nothing' must return a WeightRule, got a",
        ),
        (
            {"fairness": {"weights": "own_parts:InverseAccuracy", "weight_options": {"flor": 1}}},
            "fairness: weight_options has no 'flor' for weights='own_parts:InverseAccuracy'; did you mean 'floor'",
        ),
        ({"fairness": {"weights": ":"}}, "weights ':': cannot import module ''"),
        ({"attack": {"loss": "own_parts:entrpy"}}, "attack loss .* no function 'entrpy'; did you mean 'entropy'"),
        ({"attack": {"loss": "cee"}}, "attack.loss is 'cee'; expected one of auto, .*; did you mean 'ce'"),
        (
            {"fairness": {"weights": "dafta"}},
            "fairness.weights is 'dafta'; expected one of none, .*; did you mean 'dafa'",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(
    tiny: Make, mine: dict[str, Any], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        train(tiny(**changes))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("weights", "options", "error", "message"),
    [
        (lambda: DAFA(4), None, ValueError, "num_classes=3, got one for 4"),
        (lambda: DAFA(3, device="meta"), None, ValueError, "on 'cpu', got one on 'meta'"),
        (lambda: DAFA(3), {"lam": 1.0}, ValueError, "must be empty where weights is a rule"),
        (lambda: DAFA, {"lamb": 1.0}, ValueError, "no 'lamb' for weights='DAFA'; did you mean 'lam'"),
        (lambda: DAFA, {"lam": -1.0}, ValueError, "weight_options of DAFA: lam must be"),
        (lambda: lambda n, device: n, None, TypeError, "must return a WeightRule, got a int"),
        (lambda: 3, None, ValueError, "weights must be one of .*, got 3"),
    ],
)
def test_wrong_rules_are_refused(
    weights: Callable[[], Any], options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        FairTAT(3, weights=weights(), weight_options=options)


def test_a_rule_is_called_by_its_class_unless_it_has_a_name(mine: dict[str, Any]) -> None:
    rule = mine["InverseAccuracy"](3)
    fair = FairTAT(3, weights=rule)
    assert fair.weight_rule is rule
    assert fair.weights == fair.state_dict()["weights"]["rule"] == "InverseAccuracy"
    with pytest.raises(ValueError, match="must be one of the rule 'dafa', got 'InverseAccuracy'"):
        FairTAT(3, weights=DAFA).load_state_dict(fair.state_dict())


def test_no_code_is_imported_by_a_configuration_alone(tiny: Make) -> None:
    config = tiny(
        model={"name": "absent:a"}, data={"name": "absent:b"}, objective={"name": "absent:c"},
        fairness={"weights": "absent:d", "weight_options": {"x": 1}}, attack={"loss": "absent:e"},
    )  # fmt: skip
    assert list(code_named(config)) == ["absent:a", "absent:b", "absent:e", "absent:c", "absent:d"]
    assert list(code_named(config, training=False)) == ["absent:a", "absent:b"]


def test_the_command_line_runs_what_it_is_told_to_trust(
    tiny: Make, mine: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own.yaml").write_text(to_yaml(tiny(**OWN, epochs=1)))
    words = ["train", "--config", "own.yaml", "--output"]
    assert main([*words, "a"]) == 2
    assert "own.yaml: data set own_parts:stripes would be imported and run" in capsys.readouterr().err
    assert main([*words, "a", "--trust-model"]) == 0
    assert capsys.readouterr().out.endswith("fairtat evaluate a --trust-model\n")
    names = ("--data.name", "own_parts:stripes", "--objective.name", "own_parts:Focal")
    assert main([*words, "b", *names]) == 2  # the weight rule is not typed
    assert main([*words, "b", *names, "--fairness.weights", "own_parts:InverseAccuracy"]) == 0
    assert Path("a/model.safetensors").read_bytes() == Path("b/model.safetensors").read_bytes()
    assert main(["evaluate", "a", "--attacks", "fgsm"]) == 2
    assert main(["evaluate", "a", "--attacks", "fgsm", "--trust-model"]) == 0


def test_a_name_that_is_harmless_elsewhere_is_still_code(tiny: Make) -> None:
    config = tiny(model={"name": "hf:net", "options": {}}, data={"name": "hf:net"})
    assert code_named(config) == {"hf:net": "model hf:net would be imported and run"}
