"""What a study says of training: operations of a step, radii and targets by class."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairtat.cli.main import main as fairtat
from fairtat.files import sealed_json
from fairtat.study import load_study
from fairtat.study.cost import passes_of_a_step
from fairtat.study.results import _drawn
from fairtat.training import from_dict
from tests.study.test_plan import written
from tests.study.test_runs import TINY, Here

# An MLP of two products, forward, back to the weights and back to the input, which training needs of the second alone.
WIDTH = 16
SECOND = WIDTH * 10 / (64 * WIDTH + WIDTH * 10)
TRAINED = 1 + 1 + SECOND


@pytest.mark.parametrize(
    ("more", "passes"),
    [
        ({}, 3 * 2 + TRAINED),
        ({"fairness": {"targets": "random"}}, 3 * 2 + TRAINED),
        ({"attack": {"steps": 0}}, TRAINED),
        ({"batch_size": 64, "accumulate": 4, "amp": "bf16"}, 3 * 2 + TRAINED),
        # The clean images' logits for the attack, and clean images in training.
        ({"objective": {"name": "trades"}}, 1 + 3 * 2 + 2 * TRAINED),
    ],
)
def test_the_passes_of_a_step_are_counted(more: dict[str, Any], passes: float) -> None:
    model = {"name": "mlp", "options": {"width": WIDTH}}
    config = from_dict({"data": {"name": "digits"}, "model": model, "attack": {"steps": 3}, **more})
    assert passes_of_a_step(config) == pytest.approx(passes)


def test_a_model_without_products_has_no_passes_to_count_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scaled_mean.py").write_text(
        "import torch\n"
        "class Make(torch.nn.Module):\n"
        "    def __init__(self, **_):\n"
        "        super().__init__()\n"
        "        self.scale = torch.nn.Parameter(torch.arange(10.0))\n"
        "    def forward(self, x):\n"
        "        return x.flatten(1).mean(1, keepdim=True) * self.scale\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = from_dict({"data": {"name": "digits"}, "model": {"name": "scaled_mean:Make"}, "attack": {"steps": 3}})
    assert passes_of_a_step(config) is None


def test_a_class_is_drawn_as_often_as_the_sampler_draws_it() -> None:
    random = np.random.default_rng(0)
    assert _drawn(None) is None
    for weights in (random.random(5), random.random((5, 5))):
        labels = np.repeat(np.arange(5), 40_000)
        found = np.zeros(5)
        for label in range(5):
            p = (weights if weights.ndim == 1 else weights[label]).copy()
            p[label] = 0
            found += random.multinomial((labels == label).sum(), p / p.sum())
        assert _drawn(weights.tolist()) == pytest.approx(found / len(labels), abs=0.005)


def test_a_report_has_radii_targets_and_passes_and_older_results_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, *TINY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fairtat.study.runs.launch", Here())
    assert fairtat(["study", "run", str(file)]) == 0
    report, results = tmp_path / "study-report", tmp_path / "study-results.json"
    (last,) = (
        json.loads(path.read_text().splitlines()[-1])
        for path in (tmp_path / "runs/small").glob("fairtat*/metrics.jsonl")
    )
    with (report / "training.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 3 * 10
    mine = [row for row in rows if row["arm"] == "fairtat"]
    assert [float(row["radius"]) for row in mine] == last["class_eps"]
    assert sum(float(row["target share"]) for row in mine) == pytest.approx(1, abs=1e-5)
    assert {row["target share"] for row in rows if row["arm"] == "at"} == {""}
    text = (report / "report.md").read_text()
    at, fair = (cell.config for cell in load_study(file).cells() if cell.name in ("at@1-0", "fairtat@1-0"))
    assert f"| AT | 1 | 0.15 | 0.15 | - | - | {passes_of_a_step(at):.1f} |" in text
    assert f"| {passes_of_a_step(fair):.1f} |" in text
    before = {path.name: path.read_bytes() for path in (results, *report.iterdir())}

    content = json.loads(results.read_text())
    del content["passes"]
    for cell in content["cells"].values():
        del cell["class_radius"], cell["targets"]
    results.write_bytes(sealed_json(content))
    assert fairtat(["study", "report", str(file)]) == 0
    text = (report / "report.md").read_text()
    assert "smallest radius" not in text
    monkeypatch.setattr("fairtat.study.runs.launch", again := Here())
    assert fairtat(["study", "run", str(file)]) == 0
    assert again.commands == []
    assert {path.name: path.read_bytes() for path in (results, *report.iterdir())} == before
