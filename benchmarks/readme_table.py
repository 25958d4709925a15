"""The benchmark tables of README.md and docs/performance.md, made from benchmarks/results/*.json.

A figure in these pages comes from a file of results and from nowhere else: ``--write`` puts the tables between the
markers, ``--check`` says whether the tables there are those of the files.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import Benchmark
from harness.gpu import CUDA, TRITON
from records import RESULTS, duration, read_json, result_path

ROOT = Path(__file__).resolve().parents[1]
OPS = ("pgd_step", "pgd_init", "logit_loss", "sample_targets", "class_stats")
ENGINES = (
    "fairtat, eager",
    "fairtat, compiled",
    "fairtat, compiled, bf16",
    "torch.compile of the model",
    "torchattacks",
)
NONE, UNMEASURED = "-", "not measured yet"

# Page -> the blocks that stand between markers on it.
PAGES = {"README.md": ("ops", "engines"), "docs/performance.md": ("benchmarks", "gpu")}


def begin_of(block: str) -> str:
    return f"<!-- {block}: begin -->"


def end_of(block: str) -> str:
    return f"<!-- {block}: end -->"


def render(results: Path) -> str:
    """The CPU's tables and what they were measured on, as markdown.

    Raises:
        SystemExit: a file is missing, of another format, or from a --quick run.
    """
    ops = [_load(results, name) for name in OPS]
    attack, engines = _load(results, "attack"), _load(results, "engines")
    training = [_load(results, "training")] if result_path(results, "training").is_file() else []
    parts = [
        "How fast is one operation? fairtat's time, and how many times as long the others take; the floor is a copy of "
        "the bytes that must move:",
        _ops_table(ops),
        "What does a targeted PGD-10 cost? Time relative to the floor, the bare model's "
        f"{attack['settings']['steps']} x (forward + input gradient) with frozen parameters:",
        _relative_table(attack),
        "How much faster is it as one compiled graph, and in bfloat16? Time relative to fairtat's eager engine; the "
        "floor of eager float32 is the bare model:",
        _relative_table(engines),
        *(part for result in training for part in (_question(result), _relative_table(result))),
        _origin([*ops, attack, engines, *training]),
    ]
    return "\n\n".join(parts)


def render_ops(results: Path) -> str:
    """The README's table of ops: the first case of each."""
    head = ("op", "input", "fairtat", "eager PyTorch", "torch.compile")
    rows = [_ops_rows(_load(results, op))[0] for op in OPS]
    return _markdown(head, [(*row[:4], row[5]) for row in rows], left=2)


def render_engines(results: Path) -> str:
    """The README's table of attacks: the engines, and what a user has without fairtat."""
    return _relative_table(_load(results, "engines"), ENGINES)


def render_gpu(results: Path, file: Path | None = None) -> str:
    """The GPU's tables, from ``file`` or the newest result of a GPU check; without one, every row says so.

    Raises:
        SystemExit: a file of another format.
    """
    file = file or newest_check(results)
    check = None if file is None else read_json(file)
    measured = {} if check is None else {phase["name"]: phase.get("result") for phase in check["phases"]}
    parts = [
        "How fast is one operation in a CUDA graph? The time of the CUDA kernel, and how many times as long the others "
        "take; the floor is a copy of the bytes that must move:",
        _gpu_ops_table(measured),
        "What does a targeted PGD-10 cost? Time relative to the floor, the bare model's 10 x (forward + input "
        "gradient) in one CUDA graph, in bfloat16 and channels_last:",
        _gpu_attack_table(measured.get("attack_gpu")),
        "What does an epoch of FAIR-TAT with PGD-10 cost? Time relative to its parts by themselves, attacks and one "
        "training pass:",
        _gpu_training_table(measured.get("training")),
    ]
    if check is None or file is None:
        parts.append("Nothing here was measured yet: `make gpu-check` on a machine with a GPU fills these tables.")
    else:
        e = check["environment"]
        parts.append(
            f"Medians of interleaved rounds by CUDA events on {check['device']}, driver {e['driver']}, CUDA "
            f"{e['cuda']}; torch {e['torch']}, triton {e['triton']}, Python {e['python']}; fairtat at "
            f"{e['commit'] or 'an unknown commit'}, {e['date']} (benchmarks/results: `{file.name}`)."
        )
    return "\n\n".join(parts)


def newest_check(results: Path) -> Path | None:
    """The latest file of a GPU check on a GPU."""
    found = []
    for path in results.glob("*.json"):
        value = json.loads(path.read_text(encoding="utf-8"))
        if value.get("kind") == "gpu-check" and not value["rehearsal"]:
            found.append((value["environment"]["date"], path.name, path))
    return max(found)[2] if found else None


def block_of(readme: str, where: str, block: str) -> str:
    """What stands between a block's markers."""
    _, begin, rest = readme.partition(begin_of(block))
    inside, end, _ = rest.partition(end_of(block))
    if not begin or not end:
        raise SystemExit(f"{where}: no {block} block; put {begin_of(block)} and {end_of(block)} on lines of their own")
    return inside.strip("\n")


def replaced(readme: str, where: str, block: str, tables: str) -> str:
    block_of(readme, where, block)
    before, begin, rest = readme.partition(begin_of(block))
    _, end, after = rest.partition(end_of(block))
    return f"{before}{begin}\n{tables}\n{end}{after}"


def write_gpu(page: Path, file: Path) -> None:
    """Put the tables of one GPU check into a page."""
    text = page.read_text(encoding="utf-8")
    page.write_text(replaced(text, str(page), "gpu", render_gpu(file.parent, file)), encoding="utf-8")


def _load(results: Path, name: str) -> dict[str, Any]:
    path = result_path(results, name)
    if not path.is_file():
        raise SystemExit(f"{path}: missing; run python benchmarks/bench_{name}.py")
    result = read_json(path)
    if result["quick"]:
        raise SystemExit(f"{path}: from a --quick run, whose figures mean nothing; run it in full")
    return result


def _ops_table(results: Sequence[Mapping[str, Any]]) -> str:
    head = ("op", "input", "fairtat", "eager PyTorch", "its fastest form", "torch.compile", "published loop", "a copy")
    return _markdown(head, [row for result in results for row in _ops_rows(result)], left=2)


def _ops_rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for case in result["cases"]:
        if not case["headline"]:
            continue
        timed = [row for row in case["contestants"] if "seconds" in row]
        ours = next(row for row in timed if row["name"] == case["baseline"])
        eager = [row for row in timed if row["role"] == "eager"]
        rows.append(
            (
                f"`{result['benchmark']}`",
                case["name"],
                duration(ours["seconds"]["median"]),
                _times(eager[:1]),
                _times(eager),
                *(_times([row for row in timed if row["role"] == role]) for role in ("compile", "published", "floor")),
            )
        )
    return rows


def _times(rows: Sequence[Mapping[str, Any]]) -> str:
    """The fastest of these, relative to the baseline."""
    if not rows:
        return NONE
    return f"{min(row['ratio']['median'] for row in rows):.3g}x"


def _question(result: Mapping[str, Any]) -> str:
    baseline = result["cases"][0]["baseline"]
    return f"{result['question']} Time relative to {baseline}:"


def _relative_table(result: Mapping[str, Any], only: Sequence[str] | None = None) -> str:
    """A column for each case, a row for each contestant (of ``only``): time relative to the baseline."""
    cases = [case for case in result["cases"] if case["headline"]]
    names = list(dict.fromkeys(row["name"] for case in cases for row in case["contestants"]))
    if only is not None:
        names = [name for name in only if name in names]
    rows = []
    for name in names:
        cells = []
        for case in cases:
            row = next((r for r in case["contestants"] if r["name"] == name and "ratio" in r), None)
            if row is None:
                cells.append(NONE)
            elif name == case["baseline"]:
                cells.append(f"{duration(row['seconds']['median'])} = 1")
            else:
                cells.append(f"{row['ratio']['median']:.2f}")
        rows.append((name, *cells))
    return _markdown(("", *(case["name"] for case in cases)), rows, left=1)


def _gpu_ops_table(measured: Mapping[str, Mapping[str, Any] | None]) -> str:
    head = ("op", "input", "CUDA", "Triton", "eager PyTorch, fastest form", "torch.compile", "a copy")
    rows = []
    for op in OPS:
        for name in gpu_cases(op):
            seconds = _seconds_of(measured.get(op), name)
            ours = seconds.get(CUDA, seconds.get(TRITON))
            if ours is None:
                rows.append((f"`{op}`", name, UNMEASURED, *[NONE] * (len(head) - 3)))
                continue
            roles = _roles_of(measured.get(op), name)
            eager, compiled, copied = (
                min((s for n, s in seconds.items() if roles[n] == role), default=None)
                for role in ("eager", "compile", "floor")
            )
            own = duration(seconds[CUDA]) if CUDA in seconds else NONE
            triton = _ratio(seconds.get(TRITON), ours) if CUDA in seconds else duration(ours)
            rows.append((f"`{op}`", name, own, triton, *(_ratio(other, ours) for other in (eager, compiled, copied))))
    return _markdown(head, rows, left=2)


def _gpu_attack_table(result: Mapping[str, Any] | None) -> str:
    last = "bf16 channels_last"
    columns = {
        "bare model": f"bare model, {last}",
        "fairtat, graph": f"fairtat graph, {last}",
        "fairtat, eager": f"fairtat eager, {last}",
        "torchattacks, same precision": f"torchattacks, {last}",
        "torchattacks, fp32": "torchattacks, fp32",
        "published loop, tf32": "published loop, tf32",
    }
    return _gpu_cases_table("attack_gpu", result, "model, batch", columns)


def _gpu_training_table(result: Mapping[str, Any] | None) -> str:
    columns = {"the parts": "sum of the parts", "fairtat": "fairtat", "published loop, tf32": "published loop"}
    return _gpu_cases_table("training", result, "", columns)


def _gpu_cases_table(script: str, result: Mapping[str, Any] | None, corner: str, columns: Mapping[str, str]) -> str:
    """A row for each case: the time of the first column's contestant, and the others relative to it."""
    rows = []
    for name in gpu_cases(script):
        seconds = _seconds_of(result, name)
        floor, *others = (seconds.get(contestant) for contestant in columns.values())
        if floor is None:
            rows.append((name, UNMEASURED, *[NONE] * len(others)))
        else:
            rows.append((name, f"{duration(floor)} = 1", *(f"{s / floor:.2f}" if s else NONE for s in others)))
    return _markdown((corner, *columns), rows, left=1)


def gpu_cases(script: str) -> list[str]:
    """The names of a script's cases for a GPU that the README shows."""
    benchmark: Benchmark = importlib.import_module(f"bench_{script}").BENCHMARK
    return [spec.name for spec in benchmark.cases if spec.device == "cuda" and spec.headline]


def _rows_of(result: Mapping[str, Any] | None, case: str) -> list[Mapping[str, Any]]:
    cases = [c for c in (result or {}).get("cases", ()) if c["name"] == case]
    return [row for c in cases for row in c.get("contestants", ()) if "seconds" in row]


def _seconds_of(result: Mapping[str, Any] | None, case: str) -> dict[str, float]:
    return {row["name"]: row["seconds"]["median"] for row in _rows_of(result, case)}


def _roles_of(result: Mapping[str, Any] | None, case: str) -> dict[str, str]:
    return {row["name"]: row["role"] for row in _rows_of(result, case)}


def _ratio(seconds: float | None, ours: float) -> str:
    return NONE if seconds is None else f"{seconds / ours:.3g}x"


def _origin(results: Sequence[Mapping[str, Any]]) -> str:
    """One line for each machine: what, when, the files, and the commit of each."""
    groups: dict[str, list[str]] = {}
    for result in results:
        e = result["environment"]
        where = (
            f"{e['cpu']}, {e['threads']} threads, {e['isa']}; torch {e['torch']}, Python {e['python']}; "
            f"fairtat {e['fairtat']}, {e['date']}"
        )
        file = result_path(Path(), result["benchmark"], result["device"])
        groups.setdefault(where, []).append(f"`{file}` at {e['commit']}")
    return "\n".join(
        f"Medians of interleaved rounds on {where} (benchmarks/results: {', '.join(files)})."
        for where, files in groups.items()
    )


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    rule = ["---"] * left + ["--:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def rendered(results: Path, root: Path) -> dict[Path, str]:
    """Each page as it should be."""
    render_block = {"ops": render_ops, "engines": render_engines, "benchmarks": render, "gpu": render_gpu}
    pages = {}
    for name, blocks in PAGES.items():
        page = root / name
        text = page.read_text(encoding="utf-8")
        for block in blocks:
            text = replaced(text, name, block, render_block[block](results))
        pages[page] = text
    return pages


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Print the benchmark tables of README.md and docs/performance.md, made from the files of results.",
        epilog=f"A table stands between markers such as {begin_of('ops')} and {end_of('ops')}.",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="default: benchmarks/results")
    parser.add_argument(
        "--root", type=Path, default=ROOT, metavar="DIR", help="where the pages lie (default: the project)"
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true", help="exit 1 unless the pages hold these tables")
    action.add_argument("--write", action="store_true", help="put the tables between the pages' markers")
    arguments = parser.parse_args(argv)
    if not (arguments.check or arguments.write):
        print(render(arguments.results), render_gpu(arguments.results), sep="\n\n")
        return 0
    stale = 0
    for page, wanted in rendered(arguments.results, arguments.root).items():
        text = page.read_text(encoding="utf-8")
        if text == wanted:
            continue
        if arguments.write:
            page.write_text(wanted, encoding="utf-8")
            continue
        stale = 1
        differing = [line for line in text.splitlines() if line not in wanted.splitlines()]
        first = f"; the first differing line: {differing[0]}" if differing else ""
        print(
            f"{page}: the benchmark tables are not those of {arguments.results}{first}\n"
            "run python benchmarks/readme_table.py --write",
            file=sys.stderr,
        )
    return stale


if __name__ == "__main__":
    sys.exit(main())
