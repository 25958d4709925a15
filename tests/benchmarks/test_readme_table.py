from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import method_cost
import pytest
import readme_table
from harness.records import write_json

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
    wider = [{**row("bare model", "floor", 2.0, 1.0), "peak_bytes": 3 << 19}]
    case = {"name": "MLP, L2", "headline": True, "baseline": "bare model", "contestants": wider}
    about = {"benchmark": "compare_attacks", "question": "Wider?", "processor_time": True, "cases": [case]}
    write_json(folder / "compare_attacks-cpu.json", {**shared, **about})
    engines = [row("fairtat, eager", "fairtat", 3.0, 1.0), row("fairtat, compiled", "fairtat", 2.7, 0.907)]
    case = {"name": "ResNet", "headline": True, "baseline": "fairtat, eager", "contestants": engines}
    write_json(folder / "engines-cpu.json", {**shared, "benchmark": "engines", "cases": [case]})
    growth = [row(f"x{f}", "fairtat", 1e-3, f**0.5) for f in (1, 2, 16)]
    cases = [
        {"name": name, "headline": True, "baseline": "x1", "contestants": growth[:end]}
        for name, end in (("N", 3), ("ranks", 2), ("threads", 1))
    ]
    write_json(folder / "scaling-cpu.json", {**shared, "benchmark": "scaling", "question": "?", "cases": cases})
    training = [row("Trainer, eager", "fairtat", 4.2, 1.04), row("sum of the parts, eager", "floor", 4.0, 1.0)]
    case = {"name": "digits", "headline": True, "baseline": "sum of the parts, eager", "contestants": training}
    write_json(folder / "training-cpu.json", {**shared, "benchmark": "training", "question": "?", "cases": [case]})
    networks = {
        network: {
            "over_at": {name: {"operations": 1.125, "time": slower} for name in method_cost.METHODS},
            "over_base_and_teacher": {
                name: {"base": base, "operations": 1.0, "time": slower} for name, base in method_cost.DISTILLING.items()
            },
            "trix_over_trades": {"operations": 1.0, "time": 1.5},
            "faal_inner_share_of_step": 0.0085,
        }
        for network, slower in (("CNN", 1.25), ("ResNet", 1.75))
    }
    suite = [
        {**row("the original", "published", 16.0, 1.0), "left": 35},
        {"name": "pyautoattack", "role": "peer", "missing": "not installed: pyautoattack"},
        {**row("fairtat, compiled", "fairtat", 8.0, 0.512), "left": 34},
    ]
    case = {"name": "CNN", "headline": True, "baseline": "the original", "contestants": suite}
    write_json(folder / "autoattack-cpu.json", {**shared, "benchmark": "autoattack", "cases": [case]})
    write_json(folder / "method_cost-cpu.json", {**shared, "benchmark": "method_cost", "networks": networks})
    return folder


def gpu_check(folder: Path, *, date: str = "2026-02-03", **more: Any) -> Path:
    """What a GPU check leaves behind."""
    step = [
        row("fairtat, cuda", "fairtat", 4.7e-4, 1.0),
        row("fairtat, triton", "fairtat", 5.17e-4, 1.1),
        row("fairtat, reference", "eager", 4.7e-3, 10.0),
        row("torch.compile, in place", "compile", 4.935e-4, 1.05),
        row("copy of as many bytes", "floor", 4.23e-4, 0.9),
    ]
    last = "bf16 channels_last"
    attack = [
        row(f"bare model, {last}", "floor", 5e-3, 1.0),
        row(f"fairtat graph, {last}", "fairtat", 5.1e-3, 1.02),
        row("torchattacks, fp32", "peer", 2.5e-2, 5.0),
    ]
    cases = {
        "pgd_step": {"name": "(448, 3, 224, 224), 257 MiB tensors", "contestants": step},
        "attack": {"name": "PreActResNet-18, 128x3x32x32", "contestants": attack},
    }
    path = folder / f"some-gpu-{date}.json"
    check = {
        "format": 1, "kind": "gpu-check", "device": "Some GPU",
        "environment": {
            "driver": "580", "cuda": "13.0", "torch": "2.11", "triton": "3.6", "python": "3.12", "commit": "abc",
            "date": date,
        },
        "phases": [{"name": name, "result": {"cases": [case]}} for name, case in cases.items()],
    }  # fmt: skip
    write_json(path, check | more)
    return path


def pages(root: Path, gpu: str = "") -> Path:
    """The two pages, as they are before anything was measured; returns the one with all tables."""
    (root / "docs").mkdir(exist_ok=True)
    for name, blocks in readme_table.PAGES.items():
        parts = [
            f"<!-- {block}: begin -->\n{gpu if block == 'gpu' else 'an old table'}\n<!-- {block}: end -->"
            for block in blocks
        ]
        (root / name).write_text("# Title\n\n" + "\n\nBetween.\n\n".join(parts) + "\n\nThe rest.\n")
    return root / "docs" / "performance.md"


def cells(text: str, *begin: str) -> list[str]:
    """The cells of the one table row that begins with these."""
    (line,) = [line for line in text.splitlines() if line.startswith("| " + " | ".join(begin) + " |")]
    return [cell.strip() for cell in line.strip("|").split("|")][len(begin) :]


def test_the_tables_hold_the_figures_of_the_files(results: Path) -> None:
    text = readme_table.render(results)
    assert "| `pgd_step` | (128, 3, 32, 32) | 47.0 us | 9.45x | 6.4x | 2.13x | - | - |" in text
    assert "not shown" not in text
    assert "| bare model | 1.50 s = 1 |" in text
    assert "| fairtat | 1.01 |" in text
    assert "| ART | - |" in text
    assert "Chip, 2 threads, avx2; torch 2.13, Python 3.11; fairtat 0.1.0, 2026-01-02" in text
    assert "`attack-cpu.json` at abc" in text
    assert cells(text, "fairtat, compiled") == ["0.91"]
    assert "| bare model | 2.00 s = 1 |" in text
    assert "| bare model | 1.5 |" in text
    assert "in processor time on Chip" in text
    assert cells(text, "N") == ["1.00 ms", "4.00", "0.50"]
    assert cells(text, "ranks") == ["1.00 ms", "1.41 (x2)", "0.50"]
    assert cells(text, "threads") == ["1.00 ms", "-", "-"]


def test_the_cost_of_autoattack_beside_what_it_leaves(results: Path) -> None:
    times, left = readme_table.render_autoattack(results).split("Images that no attack fooled:")
    assert "| the original | 16.0 s = 1 |" in times
    assert "| pyautoattack | - |" in times
    assert "| fairtat, compiled | 0.51 |" in times
    assert "| fairtat, compiled | 34 |" in left
    assert "`autoattack-cpu.json` at abc" in left


def test_the_costs_of_methods(results: Path) -> None:
    text = readme_table.render_methods(results)
    assert cells(text, "Fair-ARD") == ["1.12", "1.25", "1.12", "1.75"]
    assert cells(text, "Fair-ARD over AT and the teacher's pass") == ["1.00", "1.25", "1.00", "1.75"]
    assert cells(text, "ABSLD over TRADES") == ["1.00", "1.25", "1.00", "1.75"]
    assert cells(text, "TRIX over TRADES") == ["1.00", "1.50", "1.00", "1.50"]
    assert "inner problem takes 0.9% and 0.9% of a step" in text
    assert "| CNN: operations | CNN: time | ResNet: operations | ResNet: time |" in text


def test_without_a_gpu_every_row_says_so(results: Path) -> None:
    text = readme_table.render_gpu(results)
    rows = [line for line in text.splitlines() if line.startswith("|") and "---" not in line]
    unmeasured = [line for line in rows if "not measured yet" in line]
    assert len(unmeasured) == len(rows) - 4  # four tables with a head each
    for op in readme_table.OPS:
        assert any(line.startswith(f"| `{op}` |") for line in unmeasured)
    assert "make gpu-check" in text


def test_a_gpu_check_fills_its_rows_and_leaves_the_others(results: Path) -> None:
    gpu_check(results)
    text = readme_table.render_gpu(results)
    step = cells(text, "`pgd_step`", "(448, 3, 224, 224), 257 MiB tensors")
    assert step == ["470 us", "1.1x", "10x", "1.05x", "0.9x"]
    assert cells(text, "`pgd_step`", "(128, 3, 32, 32), cold L2")[0] == "not measured yet"
    assert cells(text, "PreActResNet-18, 128x3x32x32") == ["5.00 ms = 1", "1.02", "-", "-", "5.00", "-"]
    assert cells(text, "50,000x3x32x32, PreActResNet-18")[0] == "not measured yet"
    assert "Some GPU, driver 580, CUDA 13.0; torch 2.11, triton 3.6, Python 3.12; fairtat at abc, 2026-02-03" in text
    assert "`some-gpu-2026-02-03.json`" in text


def test_the_newest_check_counts(results: Path) -> None:
    gpu_check(results, date="2026-02-03")
    newest = gpu_check(results, date="2026-03-01")
    gpu_check(results, date="2026-04-01", kind="another")
    assert readme_table.newest_check(results) == newest


def test_without_cuda_kernels_triton_is_what_others_are_compared_with(results: Path) -> None:
    path = gpu_check(results)
    check = json.loads(path.read_text())
    step = next(phase for phase in check["phases"] if phase["name"] == "pgd_step")["result"]["cases"][0]
    step["contestants"][0] = {"name": "fairtat, cuda", "role": "fairtat", "missing": "built without CUDA"}
    write_json(path, check)
    text = readme_table.render_gpu(results)
    assert cells(text, "`pgd_step`", step["name"]) == ["-", "517 us", "9.09x", "0.955x", "0.818x"]


def test_write_then_check(results: Path, tmp_path: Path) -> None:
    performance = pages(tmp_path)
    assert readme_table.main([], results, tmp_path) == 1
    assert readme_table.main(["--write"], results, tmp_path) == 0
    assert readme_table.main([], results, tmp_path) == 0
    for page in (performance, tmp_path / "README.md"):
        text = page.read_text()
        assert text.startswith("# Title\n\n<!--")
        assert text.endswith("-->\n\nThe rest.\n")
        assert "an old table" not in text


def test_the_readme_has_a_case_of_each_op_and_the_engines(results: Path, tmp_path: Path) -> None:
    pages(tmp_path)
    readme_table.main(["--write"], results, tmp_path)
    text = (tmp_path / "README.md").read_text()
    for op in readme_table.OPS:
        assert cells(text, f"`{op}`") == ["(128, 3, 32, 32)", "47.0 us", "9.45x", "2.13x"]
    assert cells(text, "fairtat, compiled") == ["0.91"]


@pytest.mark.parametrize(
    ("page", "figure"), [("docs/performance.md", "9.45x"), ("docs/performance.md", "470 us"), ("README.md", "0.91")]
)
def test_one_changed_figure_fails_the_check(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], page: str, figure: str
) -> None:
    pages(tmp_path)
    gpu_check(results)
    assert readme_table.main(["--write"], results, tmp_path) == 0
    text = (tmp_path / page).read_text()
    assert figure in text
    (tmp_path / page).write_text(text.replace(figure, "12.34x", 1))
    assert readme_table.main([], results, tmp_path) == 1
    assert "12.34x" in capsys.readouterr().err


def test_a_gpu_check_is_put_into_its_own_block(tmp_path: Path) -> None:
    page = pages(tmp_path)
    readme_table.write_gpu(page, gpu_check(tmp_path / "elsewhere"))
    text = page.read_text()
    before, _, inside = text.partition("<!-- gpu: begin -->")
    assert "<!-- benchmarks: begin -->\nan old table\n<!-- benchmarks: end -->" in before
    assert "470 us" in inside.partition("<!-- gpu: end -->")[0]


def test_a_page_without_markers_is_refused(results: Path, tmp_path: Path) -> None:
    pages(tmp_path)
    (tmp_path / "README.md").write_text("nothing here")
    with pytest.raises(SystemExit, match=r"README\.md: no ops block"):
        readme_table.main([], results, tmp_path)


def test_a_quick_run_or_a_missing_file_makes_no_table(results: Path) -> None:
    step = results / "pgd_step-cpu.json"
    step.write_text(step.read_text().replace('"quick": false', '"quick": true'))
    with pytest.raises(SystemExit, match="--quick"):
        readme_table.render(results)
    step.unlink()
    with pytest.raises(SystemExit, match=r"missing; run pytest benchmarks/ops/bench_pgd_step\.py"):
        readme_table.render(results)


def test_the_pages_state_what_was_measured() -> None:
    assert readme_table.main([]) == 0
