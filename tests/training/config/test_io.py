"""Configurations to YAML and back, and what happens to keys and types that are not right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fairtat.errors import UserError
from fairtat.training import TrainConfig
from fairtat.training.config import from_dict, load_yaml, to_dict, to_yaml, unknown_key


def test_defaults_survive_a_round_trip() -> None:
    assert from_dict(yaml.safe_load(to_yaml(TrainConfig()))) == TrainConfig()


@given(
    eps=st.one_of(st.floats(0, 0.5), st.just("8/255"), st.just("1e-3")),
    options=st.dictionaries(st.text("abc", min_size=1), st.one_of(st.integers(), st.text("xyz: ")), max_size=2),
    milestones=st.lists(st.floats(0.01, 0.99), max_size=3),
    margins=st.sampled_from(["fixed", "G-rob", ["G-rob", "G-cfps"]]),
    output=st.one_of(st.none(), st.text("ab/ é#:", min_size=1)),
)
def test_any_configuration_survives_a_round_trip(
    eps: Any, options: dict[str, Any], milestones: list[float], margins: Any, output: str | None
) -> None:
    config = from_dict(
        {
            "attack": {"eps": eps},
            "model": {"options": options},
            "optim": {"milestones": milestones},
            "fairness": {"margins": margins},
            "output": output,
        }
    )
    again = from_dict(yaml.safe_load(to_yaml(config)))
    assert again == config
    assert to_dict(again) == to_dict(config)


def test_fractions_stay_readable() -> None:
    assert to_dict(from_dict({"attack": {"eps": "8/255"}}))["attack"]["eps"] == "8/255"


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("attack.stpes", "attack.steps"),
        ("epocs", "epochs"),
        ("steps", "attack.steps"),
        ("optimizer", "optim"),
        ("fairness.target", "fairness.targets"),
        ("atack.eps", "attack.eps"),
    ],
)
def test_unknown_keys_name_the_nearest(key: str, nearest: str) -> None:
    assert unknown_key(key) == f"unknown key {key!r}; did you mean {nearest!r}?"


def test_a_key_like_no_other() -> None:
    assert unknown_key("zzzzzz") == "unknown key 'zzzzzz'; `fairtat train --help` lists the valid ones"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"attack": {"stpes": 3}}, "x.yaml: unknown key 'attack.stpes'; did you mean 'attack.steps'?"),
        ({"attack": 3}, "x.yaml: attack is 3; expected keys and values"),
        ({"attack": None}, "x.yaml: attack is None; expected keys and values"),
        ({"epochs": True}, "x.yaml: epochs is True; expected a whole number"),
        ({"epochs": 1.5}, "x.yaml: epochs is 1.5; expected a whole number"),
        ({"epochs": None}, "x.yaml: epochs is None; expected a whole number"),
        ({"drop_last": "no"}, "x.yaml: drop_last is 'no'; expected true or false"),
        ({"data": {"name": 5}}, "x.yaml: data.name is 5; expected a string"),
        ({"attack": {"eps": [1]}}, "x.yaml: attack.eps is [1]; expected a number or a fraction such as 8/255"),
        ({"attack": {"eps": "8/0"}}, "x.yaml: attack.eps: expected a number or a fraction such as 8/255, got '8/0'"),
        ({"attack": {"norm": "l1"}}, "x.yaml: attack.norm is 'l1'; expected one of linf, l2; did you mean 'l2'?"),
        (
            {"fairness": {"targets": "cfsp"}},
            "x.yaml: fairness.targets is 'cfsp'; expected one of none, random, cfps, confusion; did you mean 'cfps'?",
        ),
        ({"fairness": {"margins": 3}}, "x.yaml: fairness.margins is 3; expected a string or a list of strings"),
        ({"fairness": {"lam": "much"}}, "x.yaml: fairness.lam is 'much'; expected a number or a list of numbers"),
        (
            {"fairness": {"lam": [0.5, "much"]}},
            "x.yaml: fairness.lam: expected a number or a fraction such as 8/255, got 'much'",
        ),
        ({"fairness": {"tau": "automatic"}}, "x.yaml: fairness.tau is 'automatic'; expected a number or auto"),
        ({"fairness": {"margins": [3]}}, "x.yaml: fairness.margins is 3; expected a string"),
        ({"model": {"options": [1]}}, "x.yaml: model.options is [1]; expected keys and values"),
        ({"optim": {"milestones": 0.5}}, "x.yaml: optim.milestones is 0.5; expected a list"),
    ],
)
def test_wrong_keys_and_types(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        from_dict(values, source="x.yaml")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"attack: {eps: 1\n", "not valid YAML"),
        (b"- 1\n- 2\n", "expected keys and values, such as 'epochs: 30'"),
        (b"3: 4\n", "expected keys and values"),
        (b"\xff\xfe\x00bad", "cannot be read"),
        (b"!!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "x.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_yaml(file)
    assert str(caught.value).startswith(str(file))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("# nothing yet\n")
    assert from_dict(load_yaml(file)) == TrainConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 3\nseed: 1\nepochs: 5\n", "line 3: 'epochs' has a value already, in line 1"),
        ("attack:\n  steps: 3\n  eps: 0.1\n  steps: 5\n", "line 4: 'steps' has a value already, in line 2"),
        ("attack: {steps: 3, steps: 3}\n", "line 1: 'steps' has a value already, in line 1"),
        ("attack: {steps: 3}\nattack: {eps: 0.1}\n", "line 2: 'attack' has a value already, in line 1"),
        ("fairness:\n  margins: [G-rob]\n  'margins': []\n", "line 3: 'margins' has a value already, in line 2"),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_its_lines(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "twice.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"twice\.yaml, {message}"):
        load_yaml(tmp_path / "twice.yaml")


def test_the_same_key_in_two_sections_and_merged_keys_are_no_duplicates(tmp_path: Path) -> None:
    text = "attack: &a {steps: 3, eps: 0.1}\neval:\n  <<: *a\n  steps: 5\nloop: &l [*l]\n"
    (tmp_path / "fine.yaml").write_text(text)
    values = load_yaml(tmp_path / "fine.yaml")
    assert values["attack"] == {"steps": 3, "eps": 0.1}
    assert values["eval"] == {"steps": 5, "eps": 0.1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 43}, "model.options has 'num_classes', which the data decide; leave it out"),
        ({"in_chans": 3}, "model.options has 'in_chans', which the data decide; leave it out"),
        ({"mean": [0.5]}, "model.options has 'mean', which is a setting of its own beside options; leave it out"),
        ({"name": "mlp"}, "model.options has 'name', which fairtat sets itself; leave it out"),
        ({3: "mlp"}, "model.options has the key 3; expected the name of a keyword argument"),
    ],
)
def test_options_that_are_passed_anyway_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError) as caught:
        from_dict({"model": {"name": "mlp", "options": options}})
    assert str(caught.value) == f"config: {message}"
