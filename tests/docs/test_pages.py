"""The pages of the documentation: their examples run, their links lead somewhere, and the README stays short."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from fairtat.models import build
from fairtat.training import from_dict
from fairtat.training.distributed import World
from fairtat.training.setup import make_trainer

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# A block marked ``python`` runs, after those before it on the same page; ``py`` marks an excerpt.
EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)|src=\"([^\"]+)\"")

WITH_EXAMPLES = [page for page in PAGES if EXAMPLE.search(page.read_text(encoding="utf-8"))]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=name_of)
def test_examples_run(page: Path) -> None:
    namespace: dict[str, Any] = {}
    for block in EXAMPLE.findall(page.read_text(encoding="utf-8")):
        exec(compile(block, name_of(page), "exec"), namespace)


def recipes() -> list[Any]:
    """The YAML under "Common recipes"."""
    text = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    section = text.partition("## Common recipes")[2].partition("\n## ")[0]
    return [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)]


@pytest.mark.parametrize("values", recipes(), ids=str)
def test_recipes_train(values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = {"options": {"width": 4}} | values.get("model", {})
    if "weights" in model:  # of a run on other classes
        Path(model["weights"]).mkdir(parents=True)
        other = build(model["name"], 7, 1, (8, 8), width=4)
        save_file(other.state_dict(), Path(model["weights"]) / "model.safetensors")
    values = {**values, "model": model}
    small = {"data": {"name": "digits", "val": 0.05, "test": 0.8}, "device": "cpu"}
    attack = {"eps": 0.1, "step_size": 0.05, "steps": 2} | values.get("attack", {})
    config = from_dict({**small, **values, "attack": attack})
    trainer = make_trainer(config, torch.device("cpu"), World())
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    steps = trainer.train_steps()
    next(steps)
    next(steps)
    moved = [not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True)]
    assert any(moved)
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
    assert all(moved) == ("freeze" not in values.get("optim", {}))


def test_there_are_examples() -> None:
    assert {"README.md", "docs/quickstart.md", "docs/fairness.md", "docs/extending.md"} <= set(
        map(name_of, WITH_EXAMPLES)
    )


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page: Path) -> None:
    found = [a or b for a, b in LINK.findall(page.read_text(encoding="utf-8"))]
    missing = [link for link in found if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
