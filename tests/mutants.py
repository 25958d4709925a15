"""Thirty planted faults, and whether the tests notice: ``make mutants``.

    python tests/mutants.py                       # all of them, a line each; JSON with --out FILE, after each
    python tests/mutants.py --only sign,newcombe  # some
    python tests/mutants.py -- -m "not slow"      # what comes after -- goes to pytest

Each mutant is one edit in a copy of the tree, judged by the tests of the folders beside it. It died if a test fails
that passes in an unedited copy. A mutant that survives is a hole in the tests. A line that no longer stands in its file
exactly once is an error: the table follows the code.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml
from trees import ROOT, build_core, copy_tree, run_tests

TABLE = Path(__file__).with_suffix(".yaml")


@dataclass(frozen=True)
class Mutant:
    """``before`` becomes ``after`` in ``file``; ``tests`` are the folders or files whose tests should fail."""

    name: str
    file: str
    before: str
    after: str
    tests: str


@dataclass(frozen=True)
class Verdict:
    """``outcome`` is died, SURVIVED, or why neither can be said; ``test`` is the first that failed."""

    outcome: str
    seconds: float
    test: str = ""


def planted() -> list[Mutant]:
    return [Mutant(**values) for values in yaml.safe_load(TABLE.read_text(encoding="utf-8"))]


def judge(mutant: Mutant, unedited: Path, pytest_options: Sequence[str]) -> Verdict:
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        tree = Path(folder) / "tree"
        copy_tree(tree)
        edit(tree / mutant.file, mutant)
        if mutant.file.startswith("csrc/"):
            build_core(tree)
        started = time.monotonic()
        done = run_tests(tree, "-x", mutant.tests, *pytest_options)
    seconds = round(time.monotonic() - started, 1)
    if done.returncode == 0:
        return Verdict("SURVIVED", seconds)
    failed = re.search(r"^(?:FAILED|ERROR) (\S+?::.*?)(?: - .*)?$", done.stdout, re.MULTILINE)
    if done.returncode != 1 or failed is None:
        return Verdict(f"pytest ended with {done.returncode}: {(done.stdout + done.stderr)[-500:]}", seconds)
    if run_tests(unedited, failed[1]).returncode != 0:
        return Verdict("the test fails in an unedited copy too", seconds, failed[1])
    return Verdict("died", seconds, failed[1])


def read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def edit(file: Path, mutant: Mutant) -> None:
    text = read(file)
    if text.count(mutant.before) != 1:
        raise SystemExit(f"{mutant.name}: {mutant.before!r} stands {text.count(mutant.before)} times in {mutant.file}")
    file.write_text(text.replace(mutant.before, mutant.after), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    split = words.index("--") if "--" in words else len(words)
    own, rest = words[:split], words[split + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAME,...", help="these mutants")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the verdicts as JSON, after each mutant")
    parser.add_argument("--check", action="store_true", help="only look whether every edit still fits the code")
    options = parser.parse_args(own)
    mutants = {mutant.name: mutant for mutant in planted()}
    names = list(mutants) if options.only is None else options.only.split(",")
    if unknown := [name for name in names if name not in mutants]:
        parser.error(f"--only names {', '.join(unknown)}; the mutants are {', '.join(mutants)}")
    chosen = [mutants[name] for name in names]
    if options.check:
        misfits = [each.name for each in chosen if read(ROOT / each.file).count(each.before) != 1]
        print(f"{len(chosen) - len(misfits)} of {len(chosen)} mutants fit the code", *misfits)
        return int(bool(misfits))
    verdicts: dict[str, Verdict] = {}
    with tempfile.TemporaryDirectory(prefix="unedited-") as folder:
        copy_tree(unedited := Path(folder) / "tree")
        for mutant in chosen:
            verdict = verdicts[mutant.name] = judge(mutant, unedited, rest)
            print(f"{mutant.name:<16} {verdict.outcome:<9} {verdict.seconds:7.1f} s  {verdict.test}", flush=True)
            if options.out is not None:
                found = {name: asdict(each) for name, each in verdicts.items()}
                options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    others = [name for name, verdict in verdicts.items() if verdict.outcome != "died"]
    print(f"{len(verdicts) - len(others)} of {len(verdicts)} died", *(["; not:", *others] if others else []))
    return int(bool(others))


if __name__ == "__main__":
    sys.exit(main())
