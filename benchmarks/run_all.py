"""Run every benchmark, one process after another; arguments are handed on to each.

python benchmarks/run_all.py                  everything, into benchmarks/results
python benchmarks/run_all.py --threads 2      the same on two threads
python benchmarks/run_all.py --quick          does every script run?
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent


def scripts() -> list[Path]:
    return sorted(HERE.glob("bench_*.py"))


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "-h" in arguments or "--help" in arguments:
        print(__doc__)
        print("scripts: " + ", ".join(script.name for script in scripts()))
        return 0
    failed = []
    for script in scripts():
        # A process each: compiled graphs, thread pools and memory of one must not colour the next.
        if subprocess.run([sys.executable, str(script), *arguments], check=False).returncode != 0:
            failed.append(script.name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
