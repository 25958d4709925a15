"""Thirty planted faults, and whether the tests notice: ``make mutants``.

    python tests/mutants.py                      # all of them, a line each; JSON with --out FILE
    python tests/mutants.py --only sign,wilson   # some
    python tests/mutants.py -- -m "not slow"     # what comes after -- goes to pytest

Each mutant is one edit in a copy of the tree, judged by the tests of the folders beside it. A mutant that survives is a
hole in the tests. A line that no longer stands in its file exactly once is an error: the table follows the code.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path(__file__).with_suffix(".yaml")


@dataclass(frozen=True)
class Mutant:
    """``before`` becomes ``after`` in ``file``; ``tests`` are the folders or files whose tests should fail."""

    name: str
    file: str
    before: str
    after: str
    tests: str


def planted() -> list[Mutant]:
    return [Mutant(**values) for values in yaml.safe_load(TABLE.read_text(encoding="utf-8"))]


def judge(mutant: Mutant, pytest_options: Sequence[str]) -> tuple[bool, float]:
    """Whether a test failed, and the seconds it took."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        tree = Path(folder) / "tree"
        files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in filter(None, files.split("\0")):
            source, copy = ROOT / name, tree / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy, follow_symlinks=False)
        edit(tree / mutant.file, mutant)
        environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
        if mutant.file.startswith("csrc/"):
            build(tree)
        else:
            for core in (ROOT / "fairtat").glob("_C*.so"):
                shutil.copy2(core, tree / "fairtat")
        started = time.monotonic()
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", mutant.tests, *pytest_options]
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
        if done.returncode not in (0, 1):
            raise SystemExit(f"{mutant.name}: pytest did not run the tests\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.returncode == 1, time.monotonic() - started


def read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def edit(file: Path, mutant: Mutant) -> None:
    text = read(file)
    if text.count(mutant.before) != 1:
        raise SystemExit(f"{mutant.name}: {mutant.before!r} stands {text.count(mutant.before)} times in {mutant.file}")
    file.write_text(text.replace(mutant.before, mutant.after), encoding="utf-8")


def build(tree: Path) -> None:
    """The compiled core of ``tree``, in place, for the CPU."""
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=tree, check=True, capture_output=True, env={**os.environ, "FAIRTAT_NATIVE": "1", "FAIRTAT_CUDA": "0"},
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    split = words.index("--") if "--" in words else len(words)
    own, rest = words[:split], words[split + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAME,...", help="these mutants")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the verdicts as JSON, after each mutant")
    parser.add_argument("--check", action="store_true", help="only look whether every edit still fits the code")
    options = parser.parse_args(own)
    chosen = [mutant for mutant in planted() if options.only is None or mutant.name in options.only.split(",")]
    if options.check:
        misfits = [each.name for each in chosen if read(ROOT / each.file).count(each.before) != 1]
        print(f"{len(chosen) - len(misfits)} of {len(chosen)} mutants fit the code", *misfits)
        return int(bool(misfits))
    verdicts: dict[str, dict[str, object]] = {}
    for mutant in chosen:
        died, seconds = judge(mutant, rest)
        verdicts[mutant.name] = {"died": died, "seconds": round(seconds, 1)}
        print(f"{mutant.name:<16} {'died' if died else 'SURVIVED':<9} {seconds:6.1f} s  {mutant.file}", flush=True)
        if options.out is not None:
            options.out.write_text(json.dumps(verdicts, indent=1) + "\n", encoding="utf-8")
    survivors = [name for name, verdict in verdicts.items() if not verdict["died"]]
    print(
        f"{len(verdicts) - len(survivors)} of {len(verdicts)} died", *(["; survived:", *survivors] if survivors else [])
    )
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
