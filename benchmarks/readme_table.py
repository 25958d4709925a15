"""The benchmark tables of README.md and docs/performance.md, made from benchmarks/results/*.json.

A figure in these pages comes from a file of results and from nowhere else: ``--write`` puts the tables between the
markers; without it the exit code says whether the tables there are those of the files.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.records import RESULTS, ROOT, duration, read_json, result_path
from harness.scripts import load, scripts

OPS = ("pgd_step", "pgd_init", "logit_loss", "sample_targets", "class_stats")
ENGINES = (
    *("fairtat, eager", "fairtat, compiled", "fairtat, compiled, bf16"),
    *("torch.compile of the model", "torchattacks"),
)
LAST = "bf16 channels_last"
# The columns of a GPU's table, and whose time stands there.
GPU_ATTACK = {
    "bare model": f"bare model, {LAST}",
    "fairtat, graph": f"fairtat graph, {LAST}",
    "fairtat, eager": f"fairtat eager, {LAST}",
    "torchattacks, same precision": f"torchattacks, {LAST}",
    "torchattacks, fp32": "torchattacks, fp32",
    "published loop, tf32": "published loop, tf32",
}
GPU_ENGINES = {
    "bare model": f"bare model, {LAST}",
    "eager": "fairtat eager",
    "graph": "fairtat graph",
    "compiled": "fairtat compiled",
    "compiled_graph": "fairtat compiled_graph",
    "torch.compile(model), graph": "torch.compile of the model, in a graph",
}
GPU_TRAINING = {"the parts": "sum of the parts", "fairtat": "fairtat", "published loop, tf32": "published loop"}
ROLES = ("eager", "compile", "published", "floor")
NONE, UNMEASURED = "-", "not measured yet"
Row = Mapping[str, Any]


def render(results: Path) -> str:
    """The CPU's tables and what they were measured on, as markdown.

    Raises:
        SystemExit: a file is missing, of another format, or from a --quick run.
    """
    ops = [_load(results, name) for name in OPS]
    attack, wider, engines, training, scaling = others = [
        _load(results, name) for name in ("attack", "compare_attacks", "engines", "training", "scaling")
    ]
    head = ("op", "input", "fairtat", "eager PyTorch", "its fastest form", "torch.compile", "published loop", "a copy")
    parts = [
        "How fast is one operation? fairtat's time, and how many times as long the others take; the floor is a copy of "
        "the bytes that must move:",
        _markdown(head, [row for result in ops for row in _ops_rows(result)], left=2),
        "What does a targeted PGD-10 cost? Time relative to the floor, the bare model's "
        f"{attack['settings']['steps']} x (forward + input gradient) with frozen parameters:",
        _relative_table(attack),
        f"{wider['question']} Time relative to the floor, and the most memory at a time beyond images and weights in "
        "MiB; every attack here reaches as many targets as the others, within half a point or one image:",
        _relative_table(wider),
        _cases_table(wider, _mebibytes),
        "How much faster is it as one compiled graph, and in bfloat16? Time relative to fairtat's eager engine; the "
        "floor of eager float32 is the bare model:",
        _relative_table(engines),
        f"{training['question']} Time relative to {training['cases'][0]['baseline']}:",
        _relative_table(training),
        f"{scaling['question']} Time at the smallest size, how many times as long 16 times the size takes, and the "
        "slope of log time over log size, 1 being in proportion:",
        _markdown(("work", "smallest", "x16", "slope"), [_growth(case) for case in _shown(scaling)], left=1),
        _origin([*ops, *others]),
    ]
    return "\n\n".join(parts)


def render_ops(results: Path) -> str:
    """The README's table of ops: the first case of each."""
    rows = [_ops_rows(_load(results, op))[0] for op in OPS]
    head = ("op", "input", "fairtat", "eager PyTorch", "torch.compile")
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
    check: dict[str, Any] = {"phases": ()} if file is None else read_json(file)
    measured = {phase["name"]: phase.get("result") for phase in check["phases"]}
    origin = "Nothing here was measured yet: `make gpu-check` on a machine with a GPU fills these tables."
    if file is not None:
        e = check["environment"]
        origin = (
            f"Medians of interleaved rounds by CUDA events on {check['device']}, driver {e['driver']}, CUDA "
            f"{e['cuda']}; torch {e['torch']}, triton {e['triton']}, Python {e['python']}; fairtat at "
            f"{e['commit'] or 'an unknown commit'}, {e['date']} (benchmarks/results: `{file.name}`)."
        )
    return "\n\n".join(
        (
            "How fast is one operation in a CUDA graph? The time of the CUDA kernel, and how many times as long the "
            "others take; the floor is a copy of the bytes that must move:",
            _gpu_ops_table(measured),
            "What does a targeted PGD-10 cost? Time relative to the floor, the bare model's 10 x (forward + input "
            "gradient) in one CUDA graph, in bfloat16 and channels_last:",
            _gpu_table("attack", measured, "model, batch", GPU_ATTACK),
            "How do the engines compare? Time relative to the same floor:",
            _gpu_table("engines", measured, "model, batch", GPU_ENGINES),
            "What does an epoch of FAIR-TAT with PGD-10 cost? Time relative to its parts measured separately, "
            "attacks and one training pass:",
            _gpu_table("training", measured, "", GPU_TRAINING),
            origin,
        )
    )


def render_methods(results: Path) -> str:
    """What an epoch of each method costs on each network, and the ratios that methods are held to."""
    file = result_path(results, "method_cost")
    result = _load(results, "method_cost", how=f"python benchmarks/method_cost.py --json {file}")
    networks: Mapping[str, Any] = result["networks"]
    rows = [
        (name, *(f"{cost[name][kind]:.2f}" for cost in _costs(networks, "over_at") for kind in ("operations", "time")))
        for name in importlib.import_module("method_cost").METHODS
        if all(name in cost for cost in _costs(networks, "over_at"))
    ]
    heads = [f"{network}: {kind}" for network in networks for kind in ("operations", "time")]
    held = {
        **{
            f"{name} over {base} and the teacher's pass" if base == "AT" else f"{name} over {base}": [
                cost[name] for cost in _costs(networks, "over_base_and_teacher")
            ]
            for name, base in importlib.import_module("method_cost").DISTILLING.items()
        },
        "TRIX over TRADES": _costs(networks, "trix_over_trades"),
    }
    ratios = [
        (name, *(f"{cost[kind]:.2f}" for cost in costs for kind in ("operations", "time")))
        for name, costs in held.items()
    ]
    inner = " and ".join(f"{100 * share:.1f}%" for share in _costs(networks, "faal_inner_share_of_step"))
    return "\n\n".join(
        (
            _markdown(("method", *heads), rows, left=1),
            _markdown(("ratio", *heads), ratios, left=1),
            f"FAAL's inner problem takes {inner} of a step. {_origin([result])} Processor time of one thread of a busy "
            "machine: good for ratios only.",
        )
    )


def render_autoattack(results: Path) -> str:
    """What AutoAttack's standard version costs beside the authors' code, and how many images each contestant leaves."""
    how = f"python benchmarks/autoattack_cost.py --json {result_path(results, 'autoattack')}"
    result = _load(results, "autoattack", how=how)

    def left(case: Mapping[str, Any], row: Row) -> str:
        return str(row["left"])

    parts = (_relative_table(result), "Images that no attack fooled:", _cases_table(result, left), _origin([result]))
    return "\n\n".join(parts)


def _costs(networks: Mapping[str, Any], key: str) -> list[Any]:
    """One entry of each network's costs."""
    return [cost[key] for cost in networks.values()]


# Page -> the blocks that stand between markers on it.
PAGES = {
    "docs/fairness.md": {"methods": render_methods},
    "docs/attacks.md": {"autoattack": render_autoattack},
    "README.md": {"ops": render_ops, "engines": render_engines},
    "docs/performance.md": {"benchmarks": render, "gpu": render_gpu},
}


def newest_check(results: Path) -> Path | None:
    """The latest file of a GPU check on a GPU."""
    found = []
    for path in results.glob("*.json"):
        value = json.loads(path.read_text(encoding="utf-8"))
        if value.get("kind") == "gpu-check":
            found.append((value["environment"]["date"], path.name, path))
    return max(found)[2] if found else None


def replaced(text: str, page: Path, block: str, tables: str) -> str:
    """A page's text with other tables between the markers of a block."""
    begin, end = f"<!-- {block}: begin -->", f"<!-- {block}: end -->"
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise SystemExit(f"{page}: no {block} block; put {begin} and {end} on lines of their own")
    return f"{before}{begin}\n{tables}\n{end}{after}"


def write_gpu(page: Path, file: Path) -> None:
    """Put the tables of one GPU check into a page."""
    text = page.read_text(encoding="utf-8")
    page.write_text(replaced(text, page, "gpu", render_gpu(file.parent, file)), encoding="utf-8")


def _load(results: Path, name: str, how: str | None = None) -> dict[str, Any]:
    path = result_path(results, name)
    if not path.is_file():
        how = how or f"pytest {scripts()[name].relative_to(ROOT)} --results {results}"
        raise SystemExit(f"{path}: missing; run {how}")
    result = read_json(path)
    if result["quick"]:
        raise SystemExit(f"{path}: from a --quick run, whose figures mean nothing; run it in full")
    return result


def _timed(case: Mapping[str, Any]) -> list[Row]:
    return [row for row in case.get("contestants", ()) if "seconds" in row]


def _shown(result: Mapping[str, Any]) -> list[Row]:
    return [case for case in result["cases"] if case["headline"]]


def _ops_rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for case in _shown(result):
        timed = _timed(case)
        ours = next(row for row in timed if row["name"] == case["baseline"])
        by_role = {role: [r["ratio"]["median"] for r in timed if r["role"] == role] for role in ROLES}
        others = (by_role["eager"][:1], *by_role.values())
        times = (f"{min(ratios):.3g}x" if ratios else NONE for ratios in others)
        rows.append((f"`{result['benchmark']}`", case["name"], duration(ours["seconds"]["median"]), *times))
    return rows


def _relative_table(result: Mapping[str, Any], only: Sequence[str] | None = None) -> str:
    """A column for each case, a row for each contestant (of ``only``): time relative to the baseline."""

    def cell(case: Mapping[str, Any], row: Row) -> str:
        own = row["name"] == case["baseline"]
        return f"{duration(row['seconds']['median'])} = 1" if own else f"{row['ratio']['median']:.2f}"

    return _cases_table(result, cell, only)


def _mebibytes(case: Mapping[str, Any], row: Row) -> str:
    return f"{row['peak_bytes'] / 2**20:.3g}"


def _growth(case: Mapping[str, Any]) -> tuple[str, ...]:
    """Name, time at the baseline, its multiple at the largest size, and the least-squares slope in log-log."""
    grown = {int(row["name"][1:]): row["ratio"]["median"] for row in _timed(case)}
    smallest = duration(next(row["seconds"]["median"] for row in _timed(case)))
    if len(grown) < 2:
        return (case["name"], smallest, NONE, NONE)
    slope = statistics.linear_regression([math.log(f) for f in grown], [math.log(r) for r in grown.values()]).slope
    most = max(grown)  # threads and ranks end where the processor's cores do
    return (case["name"], smallest, f"{grown[most]:.2f}" + ("" if most == 16 else f" (x{most})"), f"{slope:.2f}")


def _cases_table(
    result: Mapping[str, Any], show: Callable[[Mapping[str, Any], Row], str], only: Sequence[str] | None = None
) -> str:
    cases = _shown(result)
    names = list(dict.fromkeys(row["name"] for case in cases for row in case["contestants"]))
    if only is not None:
        names = [name for name in only if name in names]

    def cell(case: Mapping[str, Any], name: str) -> str:
        row = next((row for row in _timed(case) if row["name"] == name), None)
        return NONE if row is None else show(case, row)

    rows = [(name, *(cell(case, name) for case in cases)) for name in names]
    return _markdown(("", *(case["name"] for case in cases)), rows, left=1)


def gpu_cases(script: str) -> list[str]:
    """The names of a script's cases for a GPU that the pages show."""
    cases = load(script).BENCHMARK.cases
    return [case.name for case in cases if case.device == "cuda" and case.headline]


def _timed_in(result: Row | None, name: str) -> list[Row]:
    return [row for case in (result or {}).get("cases", ()) if case["name"] == name for row in _timed(case)]


def _gpu_ops_table(measured: Mapping[str, Row | None]) -> str:
    head = ("op", "input", "CUDA", "Triton", "eager PyTorch, fastest form", "torch.compile", "a copy")
    rows = []
    for op, name in [(script, case) for script in OPS for case in gpu_cases(script)]:
        timed = _timed_in(measured.get(op), name)
        seconds = {row["name"]: row["seconds"]["median"] for row in timed}
        cuda, triton = seconds.get("fairtat, cuda"), seconds.get("fairtat, triton")
        ours = cuda or triton
        if ours is None:
            rows.append((f"`{op}`", name, UNMEASURED, *[NONE] * 4))
            continue
        cells = [duration(cuda), _ratio(triton, cuda)] if cuda else [NONE, duration(ours)]
        for role in ("eager", "compile", "floor"):
            fastest = min((row["seconds"]["median"] for row in timed if row["role"] == role), default=None)
            cells.append(_ratio(fastest, ours))
        rows.append((f"`{op}`", name, *cells))
    return _markdown(head, rows, left=2)


def _ratio(seconds: float | None, ours: float) -> str:
    return NONE if seconds is None else f"{seconds / ours:.3g}x"


def _gpu_table(script: str, measured: Mapping[str, Row | None], corner: str, columns: Mapping[str, str]) -> str:
    """A row for each case: the time of the first column's contestant, and the others relative to it."""
    rows = []
    for name in gpu_cases(script):
        seconds = {row["name"]: row["seconds"]["median"] for row in _timed_in(measured.get(script), name)}
        floor, *others = (seconds.get(contestant) for contestant in columns.values())
        if floor is None:
            rows.append((name, UNMEASURED, *[NONE] * len(others)))
        else:
            rows.append((name, f"{duration(floor)} = 1", *(f"{s / floor:.2f}" if s else NONE for s in others)))
    return _markdown((corner, *columns), rows, left=1)


def _origin(results: Sequence[Mapping[str, Any]]) -> str:
    """One line for each machine: what, when, the files, and the commit of each."""
    groups: dict[str, list[str]] = {}
    for result in results:
        e = result["environment"]
        where = (
            f"{e['cpu']}, {e['threads']} thread{'s' * (e['threads'] != 1)}, {e['isa']}; torch {e['torch']}, "
            f"Python {e['python']}; fairtat {e['fairtat']}, {e['date']}"
        )
        file = result_path(Path(), result["benchmark"], result["device"])
        clock = " in processor time" if result.get("processor_time") else ""
        groups.setdefault(f"{clock} on {where}", []).append(f"`{file}` at {e['commit']}")
    return "\n".join(
        f"Medians of interleaved rounds{where} (benchmarks/results: {', '.join(files)})."
        for where, files in groups.items()
    )


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    rule = ["---"] * left + ["--:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def main(argv: Sequence[str] | None = None, results: Path = RESULTS, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description="Are the benchmark tables of the pages those of benchmarks/results?")
    parser.add_argument("--write", action="store_true", help="put them between the pages' markers")
    write = parser.parse_args(argv).write
    stale = 0
    for page, blocks in ((root / name, blocks) for name, blocks in PAGES.items()):
        text = wanted = page.read_text(encoding="utf-8")
        for block, rendered in blocks.items():
            wanted = replaced(wanted, page, block, rendered(results))
        if write:
            page.write_text(wanted, encoding="utf-8")
        elif text != wanted:
            stale = 1
            differing = [line for line in text.splitlines() if line not in wanted.splitlines()]
            print(f"{page} differs: {''.join(differing[:1])}\nrun {sys.argv[0]} --write", file=sys.stderr)
    return stale


if __name__ == "__main__":
    sys.exit(main())
