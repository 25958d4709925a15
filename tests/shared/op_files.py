"""Where an op is: its own files, and the text that names it in the files that name every op."""

from __future__ import annotations

import re
from pathlib import Path

# CONTRIBUTING.md has the same list.
OWN_FILES = (
    *("fairtat/reference/{op}.py", "csrc/math/{op}.h", "csrc/cpu/{op}.cpp", "csrc/cuda/{op}.cu", "kernels/{op}.py"),
    *("fairtat/ops/{op}.py", "tests/ops/test_{op}.py", "benchmarks/ops/bench_{op}.py"),
)
SHARED_FILES = {
    "fairtat/reference/__init__.py": "Definition({kernel}, ",
    "csrc/ops.def": "\nOP({op}, ",
    "fairtat/backends/native.py": "\ndef {kernel}(",
    "fairtat/backends/triton.py": "\ndef {kernel}(",
    "fairtat/ops/__init__.py": '"{kernel}"',
    "fairtat/cli/selftest.py": '"{op}": ',
    "tests/shared/op_calls.py": "\ndef {op}(",
    "tests/hostile/test_fuzz_ops.py": "\ndef test_{op}(",
    "docs/api/ops.md": "::: fairtat.ops.{kernel}\n",
}


def forgotten(root: Path, op: str, kernel: str) -> list[str]:
    """Files of a tree that lack the op."""
    missing = [file for file in (name.format(op=op) for name in OWN_FILES) if not (root / file).is_file()]
    for file, text in SHARED_FILES.items():
        if text.format(op=op, kernel=kernel) not in (root / file).read_text():
            missing.append(file)
    return missing


def public_modules(root: Path) -> set[str]:
    return {path.stem for path in (root / "fairtat" / "ops").glob("*.py") if not path.stem.startswith("_")}


def kernels_of_the_core(root: Path) -> set[str]:
    return set(re.findall(r"^OP\((\w+),", (root / "csrc" / "ops.def").read_text(), re.MULTILINE))


def contributors_list(root: Path) -> tuple[list[str], list[str]]:
    """CONTRIBUTING.md's new files and edited files of an op ``my_op``, as its two tables have them."""
    section = (root / "CONTRIBUTING.md").read_text().partition("## Adding an op\n")[2].partition("\n## ")[0]
    tables = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert len(tables) == 2
    new, edited = (re.findall(r"`([^`]+)`", "".join(row.split("|")[1] for row in t.splitlines())) for t in tables)
    return new, edited
