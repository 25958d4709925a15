from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import readme_table
from harness.report import write_json

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    "cpu": "Chip", "threads": 2, "isa": "avx2", "torch": "2.13", "python": "3.11", "fairtat": "0.1.0",
    "commit": "abc", "date": "2026-01-02",
}  # fmt: skip


def row(name: str, role: str, seconds: float, ratio: float) -> dict[str, Any]:
    spread = {"q1": ratio, "median": ratio, "q3": ratio}
    return {"name": name, "role": role, "seconds": {"q1": seconds, "median": seconds, "q3": seconds}, "ratio": spread}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Files as the scripts write them, with figures that are easy to find again."""
    folder = tmp_path / "results"
    shared = {"format": 1, "device": "cpu", "quick": False, "environment": ENVIRONMENT, "settings": {"steps": 10}}
    contestants = [
        row("fairtat", "fairtat", 4.7e-5, 1.0),
        row("eager", "eager", 4.44e-4, 9.447),
        row("eager, out=", "eager", 3e-4, 6.4),
        row("torch.compile", "compile", 1e-4, 2.13),
    ]
    for name in readme_table.OPS:
        headline = {"name": "(128, 3, 32, 32)", "headline": True, "baseline": "fairtat", "contestants": contestants}
        other = {"name": "not shown", "headline": False, "baseline": "fairtat", "contestants": contestants}
        write_json(folder / f"{name}-cpu.json", {**shared, "benchmark": name, "cases": [headline, other]})
    attacks = [
        row("bare model", "floor", 1.5, 1.0),
        row("fairtat", "fairtat", 1.51, 1.01),
        {"name": "ART", "role": "peer", "missing": "not installed: art"},
    ]
    case = {"name": "ResNet", "headline": True, "baseline": "bare model", "contestants": attacks}
    write_json(folder / "attack-cpu.json", {**shared, "benchmark": "attack", "cases": [case]})
    return folder


def readme(tmp_path: Path, block: str) -> Path:
    path = tmp_path / "README.md"
    path.write_text(f"# Title\n\n{readme_table.BEGIN}\n{block}\n{readme_table.END}\n\nThe rest.\n")
    return path


def test_the_tables_hold_the_figures_of_the_files(results: Path) -> None:
    text = readme_table.render(results)
    assert "| `pgd_step` | (128, 3, 32, 32) | 47.0 us | 9.45x | 6.4x | 2.13x | - | - |" in text
    assert "not shown" not in text
    assert "| bare model | 1.50 s = 1 |" in text
    assert "| fairtat | 1.01 |" in text
    assert "| ART | - |" in text
    assert "Chip, 2 threads, avx2; torch 2.13, Python 3.11; fairtat 0.1.0 at abc, 2026-01-02" in text
    assert "`attack-cpu.json`" in text


def test_write_then_check(results: Path, tmp_path: Path) -> None:
    path = readme(tmp_path, "an old table")
    arguments = ["--results", str(results)]
    assert readme_table.main([*arguments, "--check", str(path)]) == 1
    assert readme_table.main([*arguments, "--write", str(path)]) == 0
    assert readme_table.main([*arguments, "--check", str(path)]) == 0
    text = path.read_text()
    assert text.startswith("# Title\n\n<!--")
    assert text.endswith("-->\n\nThe rest.\n")


def test_one_changed_figure_fails_the_check(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = readme(tmp_path, readme_table.render(results).replace("9.45x", "9.95x", 1))
    assert readme_table.main(["--results", str(results), "--check", str(path)]) == 1
    assert "9.95x" in capsys.readouterr().err


def test_a_readme_without_markers_is_refused(results: Path, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("nothing here")
    with pytest.raises(SystemExit, match="no benchmark block"):
        readme_table.main(["--results", str(results), "--check", str(path)])


def test_a_quick_run_or_a_missing_file_makes_no_table(results: Path) -> None:
    step = results / "pgd_step-cpu.json"
    step.write_text(step.read_text().replace('"quick": false', '"quick": true'))
    with pytest.raises(SystemExit, match="--quick"):
        readme_table.render(results)
    step.unlink()
    with pytest.raises(SystemExit, match=r"missing; run python benchmarks/bench_pgd_step\.py"):
        readme_table.render(results)


@pytest.mark.skipif(not list((ROOT / "benchmarks" / "results").glob("*.json")), reason="nothing measured yet")
def test_the_readme_states_what_was_measured() -> None:
    assert readme_table.main(["--check", str(ROOT / "README.md")]) == 0
