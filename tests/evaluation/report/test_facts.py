# ruff: noqa: RUF001 - the page's own minus signs and dashes
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import yaml

from fairtat.evaluation.report import RunRecord, facts

Record = Callable[..., RunRecord]


def test_every_setting_on_which_a_figure_depends_is_told(record: Record) -> None:
    found = {fact.name: fact.values for fact in facts.facts([record("at"), record("fair")])}
    assert found["attack: eps"] == ("0.0313725", "0.0313725")
    assert found["attack: seed"] == ("0", "0")
    assert found["attack: active_set"] == ("yes", "yes")
    assert found["images"] == ("80", "80")
    assert found["trained: torch"] == ("2.13.0", "2.13.0")
    assert found["evaluated: data"] == ("hand-made", "hand-made")
    assert "trained: cuda" not in found  # neither run knows it


def test_only_what_differs_is_listed_and_not_the_folders(record: Record) -> None:
    runs = [record("at"), record("fair")]
    runs = [replace(run, config={**(run.config or {}), "output": run.name}) for run in runs]
    assert [(f.name, f.values) for f in facts.differing_settings(runs)] == [("fairness.targets", ("none", "cfps"))]


def test_a_run_of_unknown_training_differs_by_dashes(record: Record) -> None:
    found = facts.differing_settings([record("at"), replace(record("fair"), config=None)])
    assert {fact.name: fact.values[1] for fact in found} == {"attack.eps": "–", "fairness.targets": "–"}
    assert facts.config_text(replace(record(), config=None)) is None


def test_the_configuration_can_be_read_back(record: Record) -> None:
    run = record()
    assert yaml.safe_load(facts.config_text(run) or "") == run.config


def test_conditions_of_any_run_are_rows_and_corruptions_are_not(record: Record) -> None:
    rows = facts.condition_rows([record("a", sweep=False), record("b", extras=True)])
    assert [row.title for row in rows][:2] == ["clean images", "PGD-20, linf, eps 8/255, step 2/255"]
    assert len(rows) == 2 + 3
    assert [figures is None for figures in rows[-1].figures] == [True, False]
