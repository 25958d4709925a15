"""The order in which backend="auto" tries the kernels on a GPU, from what a GPU check measured.

For each op a backend's time is taken relative to the reference's, as the geometric mean over the op's cases; the
fastest goes first. A backend that did not run keeps its place behind those that did.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.gpu import contestant_name
from harness.report import read_json
from jsonfile import write_json

from fairtat.backends import auto

UNMEASURED_ORDER = ("cuda", "triton", "reference")


def table_from(check: Mapping[str, Any]) -> dict[str, Any]:
    """The table as fairtat/backends/auto.json holds it.

    Raises:
        SystemExit: an op was not measured.
    """
    results = {phase["name"]: phase.get("result") for phase in check["phases"]}
    order = {op: order_of(op, results.get(op)) for op in auto.OPS}
    environment = check["environment"]
    measured = {"device": check["device"], "date": environment["date"], "commit": environment["commit"] or "unknown"}
    table = {"measured": measured, "order": order}
    auto.parse(table)
    return table


def order_of(op: str, result: Mapping[str, Any] | None) -> list[str]:
    cases = [case for case in (result or {}).get("cases", []) if "failed" not in case]
    relative: dict[str, list[float]] = {backend: [] for backend in UNMEASURED_ORDER}
    for case in cases:
        seconds = {row["name"]: row["seconds"]["median"] for row in case["contestants"] if "seconds" in row}
        for backend, ratios in relative.items():
            name = contestant_name(backend)
            if name in seconds:
                ratios.append(seconds[name] / seconds[contestant_name("reference")])
    if not any(ratios for backend, ratios in relative.items() if backend != "reference"):
        raise SystemExit(f"no kernel of {op} was measured, so there is no order to write")
    # A backend that failed in some cases is not to be the first choice in any.
    whole = {b: ratios for b, ratios in relative.items() if len(ratios) == len(cases)}
    fastest = sorted(whole, key=lambda b: math.fsum(map(math.log, whole[b])) / len(whole[b]))
    return [*fastest, *(b for b in UNMEASURED_ORDER if b not in whole)]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example:\n  python benchmarks/auto_table.py benchmarks/results/<device>-<date>.json --write",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", type=Path, metavar="FILE", help="what make gpu-check wrote")
    parser.add_argument("--write", action="store_true", help="put the table in its place instead of printing it")
    parser.add_argument("--table", type=Path, default=auto.PATH, metavar="FILE", help="default: %(default)s")
    arguments = parser.parse_args(argv)
    check = read_json(arguments.results)
    if check.get("kind") != "gpu-check" or check.get("rehearsal"):
        raise SystemExit(f"{arguments.results}: not the result of a GPU check")
    table = table_from(check)
    if arguments.write:
        write_json(arguments.table, table)
        print(f"wrote {arguments.table}")
    else:
        print(json.dumps(table, indent=1, sort_keys=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
