"""Results for people (a table) and for files (JSON)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

FORMAT = 1
RESULTS = Path(__file__).resolve().parents[1] / "results"

_SHOWN = ("seconds", "ratio", "gb_per_s", "name", "role", "note", "missing", "calls")


def console() -> Console:
    """A console wide enough for the tables when the output goes to a file or a pipe."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=140)


def show_case(out: Console, case: Mapping[str, Any]) -> None:
    """Print one case: times, ratios to the baseline, bandwidth where bytes are known, and the targets."""
    with_bytes = "bytes_moved" in case
    table = Table(title=case["name"], title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("contestant")
    table.add_column("median", justify="right")
    table.add_column(f"x {case['baseline']}", justify="right")
    table.add_column("quartiles", justify="right")
    if with_bytes:
        table.add_column("GB/s", justify="right")
    table.add_column("")
    for row in case["contestants"]:
        if "missing" in row:
            table.add_row(row["name"], "-", "-", "-", *(["-"] if with_bytes else []), row["missing"])
            continue
        facts = [f"{key}={value:.3g}" for key, value in row.items() if key not in _SHOWN]
        ratio = row["ratio"]
        table.add_row(
            row["name"],
            duration(row["seconds"]["median"]),
            f"{ratio['median']:.2f}",
            f"{ratio['q1']:.2f}-{ratio['q3']:.2f}",
            *([f"{row['gb_per_s']:.1f}"] if with_bytes else []),
            ", ".join([*([row["note"]] if "note" in row else []), *facts]),
        )
    out.print(table)
    out.print(f"  {case['rounds']} rounds; equality: {case['equality']}")
    for name, facts_of in case.get("observed", {}).items():
        out.print(f"  {name}: " + ", ".join(f"{key} {value}" for key, value in facts_of.items()))
    for target in case["targets"]:
        word = "[green]met[/]" if target["met"] else "[red]not met[/]"
        ratio = target["ratio"]
        out.print(f"  {word}: {target['text']}: {ratio['median']:.2f}x ({ratio['q1']:.2f}-{ratio['q3']:.2f})")
    out.print()


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


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Put ``value`` in the place of ``path`` in one step, with sorted keys so that two runs can be diffed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if value.get("format") != FORMAT:
        raise SystemExit(f"{path}: format {value.get('format')!r}, expected {FORMAT}; run the benchmark again")
    return value
