from __future__ import annotations

import json

import pytest

from fairtat.errors import UserError
from fairtat.evaluation import AttackSettings, Defaults, parse_attack
from fairtat.evaluation.attacks.kinds import AUTOATTACK
from fairtat.evaluation.attacks.settings import at_eps, radius, stages_of

DEFAULTS = Defaults(eps=8 / 255)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pgd", {"attack": "pgd", "steps": 20, "step_size": 2 / 255, "norm": "linf", "eps": 8 / 255, "restarts": 1}),
        ("PGD-50x5", {"attack": "pgd", "steps": 50, "restarts": 5}),
        ("cw-7@4/255", {"attack": "cw", "steps": 7, "eps": 4 / 255, "step_size": 1 / 255}),
        ("pgd-20:l2@0.5", {"norm": "l2", "eps": 0.5, "step_size": 0.125}),
        ("fgsm", {"attack": "fgsm", "steps": 1, "step_size": None}),
        ("apgd-ce", {"attack": "apgd-ce", "steps": 100, "step_size": None}),
        ("apgd-t-9", {"attack": "apgd-t", "steps": 9}),
        ("square-100", {"attack": "square", "steps": 100}),
        ("mt-7x2@4/255", {"attack": "mt", "steps": 7, "step_size": 1 / 255, "restarts": 2}),
        ("deepfool", {"attack": "deepfool", "steps": 50, "step_size": None, "norm": "linf"}),
        ("cw-l2@0.5", {"attack": "cw-l2", "steps": 1000, "norm": "l2", "eps": 0.5}),
        ("cw-l2-80:l2@1", {"attack": "cw-l2", "steps": 80, "norm": "l2", "eps": 1.0}),
    ],
)
def test_a_name_stands_for_settings(text: str, expected: dict[str, object]) -> None:
    settings = parse_attack(text, DEFAULTS)
    assert {name: getattr(settings, name) for name in expected} == expected
    assert stages_of(settings) == (settings,)


def test_what_a_name_leaves_open_comes_from_the_defaults() -> None:
    settings = parse_attack("pgd", Defaults(0.1, "l2", 7, 0.03, 3, seed=5, active_set=False))
    assert settings == AttackSettings("pgd", 0.1, "l2", 7, 0.03, 3, 5, False)
    # A step size belongs to its radius; in another norm it says nothing.
    assert parse_attack("pgd@0.2", Defaults(0.1, step_size=0.03)).step_size == pytest.approx(0.06)
    assert parse_attack("pgd:l2@0.2", Defaults(0.1, step_size=0.03)).step_size == pytest.approx(0.05)


def test_a_plus_makes_a_suite_and_autoattack_is_one() -> None:
    suite = parse_attack("pgd-5+square-10@0.1", DEFAULTS)
    assert [stage.name for stage in suite.stages] == ["pgd-5", "square-10"]
    assert {stage.eps for stage in suite.stages} == {suite.eps} == {0.1}
    assert suite.name == "pgd-5+square-10"
    auto = parse_attack("autoattack", DEFAULTS)
    assert tuple(stage.attack for stage in auto.stages) == AUTOATTACK
    assert auto.name == "autoattack"
    assert str(auto) == "AutoAttack, linf, eps 8/255"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pdg-20", "no attack is called 'pdg'; did you mean 'pgd'?"),
        ("autoatack", "did you mean 'autoattack'?"),
        ("pgd-20:l1@3", "norm is 'l1'"),
        ("pgd-20:l2", "a radius in l2 is needed too"),
        ("cw-l2", "a radius in l2 is needed too"),
        ("cw-l2:linf@0.1", "norm is 'linf', but one of its attacks works in l2 alone"),
        ("deepfoolx3", "DeepFool draws no random numbers"),
        ("pgd@eight", "radius is 'eight'; expected a number"),
        ("fgsm-3", "the iterated one is pgd-3"),
        ("@0.1", "expected NAME"),
    ],
)
def test_a_wrong_name_is_explained(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_attack(text, DEFAULTS)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eps": -1.0}, "eps must be"),
        ({"step_size": -1.0}, "step_size"),
        ({"steps": -1}, "steps.*-1"),
        ({"restarts": 0}, "restarts"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttackSettings("pgd", **{"eps": 0.1, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["pgd-20", "fgsm", "pgd-50x5", "autoattack", "cw-3+square-10", "apgd-ce"])
def test_settings_survive_json_and_their_name_parses_to_them(text: str) -> None:
    settings = parse_attack(text, DEFAULTS)
    assert AttackSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    assert parse_attack(settings.name, DEFAULTS) == settings
    assert hash(settings) == hash(parse_attack(text, DEFAULTS))


def test_another_radius_takes_the_steps_along() -> None:
    changed = at_eps(parse_attack("pgd-5+apgd-ce", DEFAULTS), 4 / 255)
    assert changed.eps == 4 / 255
    assert changed.stages[0].step_size == pytest.approx(1 / 255)
    assert changed.stages[1].step_size is None


@pytest.mark.parametrize(
    ("eps", "shown"),
    [(8 / 255, "8/255"), (0.1, "0.1"), (0.0, "0"), (1.0, "1"), (0.2, "0.2"), (0.5, "0.5"), (1 / 3, "85/255")],
)
def test_radii_are_shown_as_the_field_writes_them(eps: float, shown: str) -> None:
    assert radius(eps) == shown
