"""The benchmark tables of the README, made from benchmarks/results/*.json.

A figure in the README comes from a file of results and from nowhere else: ``--write`` puts the tables between the
markers, ``--check`` says whether what stands there is what the files hold.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.report import RESULTS, duration, read_json, result_path

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
OPS = ("pgd_step", "pgd_init", "logit_loss", "sample_targets", "class_stats")
NONE = "-"


def render(results: Path) -> str:
    """Both tables and what they were measured on, as markdown.

    Raises:
        SystemExit: a file is missing, of another format, or from a --quick run.
    """
    ops = [_load(results, name) for name in OPS]
    attack = _load(results, "attack")
    parts = [
        "Time of an operation, and how many times as long the others take:",
        _ops_table(ops),
        f"A targeted PGD-10, time relative to the bare model's {attack['settings']['steps']} x (forward + input "
        "gradient) with frozen parameters:",
        _attack_table(attack),
        _origin([*ops, attack]),
    ]
    return "\n\n".join(parts)


def block_of(readme: str, where: str) -> str:
    """What stands between the markers."""
    _, begin, rest = readme.partition(BEGIN)
    block, end, _ = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{where}: no benchmark block; put {BEGIN} and {END} on lines of their own")
    return block.strip("\n")


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
    rows = []
    for result in results:
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
                    _times([row for row in timed if row["role"] == "compile"]),
                    _times([row for row in timed if row["role"] == "published"]),
                    _times([row for row in timed if row["role"] == "floor"]),
                )
            )
    return _markdown(head, rows, left=2)


def _times(rows: Sequence[Mapping[str, Any]]) -> str:
    """The fastest of these, relative to the baseline."""
    if not rows:
        return NONE
    return f"{min(row['ratio']['median'] for row in rows):.3g}x"


def _attack_table(result: Mapping[str, Any]) -> str:
    cases = [case for case in result["cases"] if case["headline"]]
    names = list(dict.fromkeys(row["name"] for case in cases for row in case["contestants"]))
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


def _origin(results: Sequence[Mapping[str, Any]]) -> str:
    """One line for each machine and commit: what, where, when, and the files."""
    groups: dict[str, list[str]] = {}
    for result in results:
        e = result["environment"]
        where = (
            f"{e['cpu']}, {e['threads']} threads, {e['isa']}; torch {e['torch']}, Python {e['python']}; "
            f"fairtat {e['fairtat']} at {e['commit']}, {e['date']}"
        )
        groups.setdefault(where, []).append(f"`{result_path(Path(), result['benchmark'], result['device'])}`")
    return "\n".join(
        f"Medians of interleaved rounds on {where} (benchmarks/results: {', '.join(files)})."
        for where, files in groups.items()
    )


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    rule = ["---"] * left + ["--:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Print the README's benchmark tables, made from the files of results.",
        epilog=f"The tables stand between {BEGIN} and {END}.",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="default: benchmarks/results")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", type=Path, metavar="README", help="exit 1 unless README holds these tables")
    action.add_argument("--write", type=Path, metavar="README", help="put the tables between README's markers")
    arguments = parser.parse_args(argv)
    tables = render(arguments.results)
    readme: Path | None = arguments.check or arguments.write
    if readme is None:
        print(tables)
        return 0
    text = readme.read_text(encoding="utf-8")
    block = block_of(text, str(readme))
    if block == tables:
        return 0
    if arguments.check:
        differing = [line for line in block.splitlines() if line not in tables.splitlines()]
        first = f"; the first differing line: {differing[0]}" if differing else ""
        print(
            f"{readme}: the benchmark tables are not those of {arguments.results}{first}\n"
            f"run python benchmarks/readme_table.py --write {readme}",
            file=sys.stderr,
        )
        return 1
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    readme.write_text(f"{before}{BEGIN}\n{tables}\n{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
