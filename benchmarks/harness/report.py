"""Results for people (a table) and for files (JSON)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonfile import write_json

__all__ = ["FORMAT", "RESULTS", "duration", "read_json", "result_path", "show_case", "write_json"]

FORMAT = 1
RESULTS = Path(__file__).resolve().parents[1] / "results"

_SHOWN = ("seconds", "ratio", "gb_per_s", "name", "role", "note", "missing", "calls")


def show_case(case: Mapping[str, Any]) -> None:
    """Print one case: times, ratios to the baseline, bandwidth where bytes are known, and the targets."""
    with_bytes = "bytes_moved" in case
    lines = [("contestant", "median", f"x {case['baseline']}", "quartiles", *(("GB/s",) if with_bytes else ()), "")]
    for row in case["contestants"]:
        why_not = row.get("missing") or row.get("failed")
        if why_not:
            lines.append((row["name"], "-", "-", "-", *(("-",) if with_bytes else ()), why_not))
            continue
        facts = [f"{key}={value:.3g}" for key, value in row.items() if key not in _SHOWN]
        ratio = row["ratio"]
        lines.append(
            (
                row["name"],
                duration(row["seconds"]["median"]),
                f"{ratio['median']:.2f}",
                f"{ratio['q1']:.2f}-{ratio['q3']:.2f}",
                *((f"{row['gb_per_s']:.1f}",) if with_bytes else ()),
                ", ".join([*([row["note"]] if "note" in row else []), *facts]),
            )
        )
    print(case["name"])
    print(_aligned(lines))
    print(f"  {case['rounds']} rounds; equality: {case['equality']}")
    for name, facts_of in case.get("observed", {}).items():
        print(f"  {name}: " + ", ".join(f"{key} {value}" for key, value in facts_of.items()))
    for target in case["targets"]:
        figure = target.get("ratio") or target["seconds"]
        shown = "{:.2f}x ({:.2f}-{:.2f})" if "ratio" in target else "{:.3g} s ({:.3g}-{:.3g})"
        spread = shown.format(figure["median"], figure["q1"], figure["q3"])
        print(f"  {'met' if target['met'] else 'NOT MET'}: {target['text']}: {spread}")
    print(flush=True)


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns: the first and the last to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = []
    for line in lines:
        cells = [text.rjust(width) for text, width in zip(line, widths, strict=True)]
        cells[0], cells[-1] = line[0].ljust(widths[0]), line[-1]
        rows.append("  ".join(cells).rstrip())
    return "\n".join(rows)


def duration(seconds: float) -> str:
    """Three digits in the unit that fits."""
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * factor >= 1.0 or unit == "us":
            value = seconds * factor
            return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"
    raise AssertionError


def result_path(folder: Path, benchmark: str, device: str = "cpu") -> Path:
    """Where a benchmark's result lies: one file for each device kind, so that the README can name it."""
    return folder / f"{benchmark}-{device}.json"


def read_json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if value.get("format") != FORMAT:
        raise SystemExit(f"{path}: format {value.get('format')!r}, expected {FORMAT}; run the benchmark again")
    return value
