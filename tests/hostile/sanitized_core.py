"""A plugin of `make sanitize`: the core in the folder FAIRTAT_SANITIZED stands in for the installed one."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import torch  # noqa: F401 (first: the core shares the OpenMP runtime that PyTorch has loaded)

(path,) = Path(os.environ["FAIRTAT_SANITIZED"]).glob("_C*.so")
spec = importlib.util.spec_from_file_location("fairtat._C", path)
assert spec is not None
assert spec.loader is not None
core = importlib.util.module_from_spec(spec)
sys.modules["fairtat._C"] = core
spec.loader.exec_module(core)


def pytest_report_header() -> str:
    from fairtat.backends import native

    assert native.core() is core, "another core is in use"
    return f"compiled core: {path}"
