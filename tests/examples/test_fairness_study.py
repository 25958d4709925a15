"""The page of the studies has the figures that the results files give."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairtat.study import Results, load_study, write_report

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "examples" / "fairness_study"
RESULTS = sorted(FOLDER.glob("*-results.json"))


def rows(text: str) -> set[str]:
    return {line for line in text.splitlines() if line.startswith("|")}


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem.removesuffix("-results"))
def test_every_row_and_the_origin_are_those_of_the_report(path: Path, tmp_path: Path) -> None:
    name = path.stem.removesuffix("-results")
    write_report(Results(load_study(FOLDER / f"{name}.yaml"), path), tmp_path)
    report = (tmp_path / "report.md").read_text()
    page = (FOLDER / "README.md").read_text()
    (section,) = [s for s in page.split("\n## ") if f"study report examples/fairness_study/{name}.yaml" in s]
    assert len(rows(section)) > 10
    assert rows(section) <= rows(report)
    assert report.strip().splitlines()[-1] in section
