"""Puts a GPU check's figures in their places: docs/performance.md's GPU tables and the order behind backend="auto".

python benchmarks/gpu_apply.py benchmarks/results/<device>-<date>.json
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import auto_table
import readme_table

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    readme_table.write_gpu(PAGE, Path(arguments[0]))
    return auto_table.main([arguments[0], "--write"])


if __name__ == "__main__":
    sys.exit(main())
