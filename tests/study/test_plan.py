"""A study's file: what it describes, and what each mistake is answered with."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairtat.errors import UserError
from fairtat.study import load_study

pytest.importorskip("sklearn")
CONFIGS = Path(__file__).parents[2] / "configs"

TEXT = """
name: small
title: A small study
configs: [CONFIGS/digits.yaml]
settings: {epochs: 3, attack: {steps: 2}}
seeds: 2
judge: {attacks: "pgd-5,cw-5"}
arms:
  at: {title: AT, eps_factors: [1, 1/2, 2]}
  fairtat: {title: FAIR-TAT, configs: CONFIGS/methods/fairtat.yaml, settings: {fairness: {tau: 20}}}
contrasts:
  - {arm: fairtat, against: at, equal: clean accuracy, figure: robust worst}
  - {arm: fairtat, against: at, figure: clean average}
margin: 2
"""


def written(folder: Path, *changes: tuple[str, str]) -> Path:
    text = TEXT
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    file = folder / "study.yaml"
    file.write_text(text.replace("CONFIGS", str(CONFIGS)))
    return file


def test_arms_stack_their_files_and_settings_on_the_studys(tmp_path: Path) -> None:
    study = load_study(written(tmp_path))
    assert [cell.name for cell in study.cells()] == [
        *("at@0.5-0", "at@1-0", "at@2-0", "fairtat@1-0"),
        *("at@0.5-1", "at@1-1", "at@2-1", "fairtat@1-1"),
    ]
    half, _, double, fair = (cell.config for cell in study.cells()[:4])
    assert [float(c.attack.eps) for c in (half, double, fair)] == pytest.approx([0.075, 0.3, 0.15])
    assert float(half.attack.step_size) == pytest.approx(0.0375 / 2)
    assert (fair.fairness.targets, float(fair.fairness.tau), fair.attack.steps, fair.epochs) == ("cfps", 20, 2, 3)
    assert half.fairness.targets == "none"
    assert [cell.config.seed for cell in study.cells()] == [0] * 4 + [1] * 4
    assert (study.judge.attacks, float(study.judge.eps), study.judge.norm) == (("pgd-5", "cw-5"), 0.15, "linf")
    assert [(c.condition, c.measure, c.equal) for c in study.contrasts] == [
        ("robust", "worst", "clean accuracy"),
        ("clean", "average", "factor"),
    ]
    assert study.margin == 2


def test_attacks_are_named_as_an_evaluation_names_them(tmp_path: Path) -> None:
    study = load_study(written(tmp_path, ("pgd-5,cw-5", "PGD-5@0.15,cw-5@.150,pgd-5@0.3")))
    assert study.judge.attacks == ("pgd-5", "cw-5", "pgd-5@0.3")


def test_a_judge_may_corrupt_images_and_attack_a_part_of_them(tmp_path: Path) -> None:
    more = "pgd-5, corruptions: 'fog,contrast', severities: [1, 3], subset: {attacks: autoattack, per_class: 5}"
    study = load_study(
        written(tmp_path, ('"pgd-5,cw-5"', more), ("figure: clean average", "figure: corrupted worst_fifth"))
    )
    corrupted = ("fog/1", "fog/3", "contrast/1", "contrast/3")
    assert study.judge.conditions == ("clean", "robust", "pgd-5", "corrupted", *corrupted, "autoattack")
    assert (study.contrasts[1].condition, study.contrasts[1].measure) == ("corrupted", "worst_fifth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seeds: 2", "seed: 2"), "unknown key 'seed'; did you mean 'seeds'?"),
        (("seeds: 2", "seeds: [1, 1]"), "seeds is [1, 1]; expected how many, or a list of different whole numbers"),
        (("seeds: 2", "seeds: 0"), "seeds is 0; expected how many"),
        (("arms:", "arms: 3\nother:"), "unknown key 'other'"),
        (("[1, 1/2, 2]", "[1, 0]"), "arms.at.eps_factors holds 0; expected numbers above 0"),
        (("[1, 1/2, 2]", "[1, x]"), "arms.at.eps_factors holds 'x'; expected numbers above 0"),
        (("[1, 1/2, 2]", "[1, 1]"), "arms.at.eps_factors holds a number twice"),
        (("[1, 1/2, 2]", "2"), "arms.at.eps_factors is 2; expected a list of numbers"),
        (("title: AT,", "titel: AT,"), "unknown key 'arms.at.titel'; did you mean 'title'?"),
        (("{tau: 20}", "{tua: 20}"), "arm fairtat: unknown key 'fairness.tua'; did you mean 'fairness.tau'?"),
        (("epochs: 3,", "epochs: 3, seed: 1,"), "settings has seed, which the study chooses for each model"),
        (("methods/fairtat.yaml", "methods/fairtatt.yaml"), "no such file"),
        (("pgd-5,cw-5", "pgd-5,cv-5"), "judge: "),
        (('"pgd-5,cw-5"', "pgd-5, amp: fp8"), "judge.amp is 'fp8'; expected one of none, bf16"),
        (('"pgd-5,cw-5"', "pgd-5, engine: fast"), "judge.engine is 'fast'; expected one of auto, "),
        (('"pgd-5,cw-5"', "pgd-5, active_set: 2"), "judge.active_set is 2; expected one of True, False"),
        (('"pgd-5,cw-5"', "pgd-5, corruptions: fogg"), "judge: no corruption is called 'fogg'; did you mean 'fog'?"),
        (('"pgd-5,cw-5"', "pgd-5, corruptions: fog, severities: [1, 6]"), "severity of fog is 6; expected 1 to 5"),
        (('"pgd-5,cw-5"', "pgd-5, corruptions: fog, severities: mild"), "severities holds 'mild'; expected 1 to 5"),
        (('"pgd-5,cw-5"', "pgd-5, severities: [1, 3]"), "judge: severities without corruptions"),
        (('"pgd-5,cw-5"', "pgd-5, corruptions: [fog, fog]"), "corruptions names one twice: fog, fog"),
        (('"pgd-5,cw-5"', "pgd-5, corruptions: fog, severities: [3, 3]"), "severities names one twice: 3, 3"),
        (('"pgd-5,cw-5"', "pgd-5, subset: fab"), "judge: subset is 'fab'; expected attacks and per_class"),
        (('"pgd-5,cw-5"', "pgd-5, subset: {per_clas: 5}"), "unknown key 'judge.subset.per_clas'; did you mean"),
        (('"pgd-5,cw-5"', "pgd-5, subset: {per_class: 0}"), "expected attacks, and per_class of 1 or more"),
        (('"pgd-5,cw-5"', "pgd-5, subset: {per_class: 5, attacks: pgd-5}"), "subset names an attack of all images"),
        (("arm: fairtat, against: at, equal", "arm: fairtta, against: at, equal"), "did you mean 'fairtat'?"),
        (("figure: clean average", "figure: clean mean"), "figure is 'clean mean'; expected one of clean, robust"),
        (("equal: clean accuracy", "equal: accuracy"), "equal is 'accuracy'"),
        (("[1, 1/2, 2]", "[1]"), "equal clean accuracy needs a curve: give one arm several eps_factors"),
        (("[1, 1/2, 2]", "[1/2, 2]"), "the arms have no factor in common"),
        (("margin: 2", "margin: 0"), "margin is 0; expected points of accuracy between 0 and 100"),
        (("name: small", "name: ../x"), "name is '../x'; expected letters, digits"),
        (("  fairtat: {", "  'a/b': {"), "'a/b' is not a name"),
        (("margin: 2", "margin: 2\nmargin: 3"), "'margin' has a value already"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_one_line(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_study(written(tmp_path, change))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "file", sorted((CONFIGS.parent / "examples" / "fairness_study").glob("*.yaml")), ids=lambda f: f.stem
)
def test_the_studies_that_come_along_are_valid(file: Path) -> None:
    study = load_study(file)
    assert study.name == file.stem
    assert study.contrasts[0].equal == "clean accuracy"
    assert len({cell.name for cell in study.cells()}) == len(study.cells()) >= 15
