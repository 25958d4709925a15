"""Settings that every test shares."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

# The processes of a parallel run share the cores; what they start inherits this. Before torch is imported.
if (processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))

# The benchmark scripts and the tests are not packages; both import what they share from folders.
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent / "shared"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import faults
import pytest
import torch
from harness.torchvision_beside_cpu import make_importable

make_importable()

# The tests for a GPU also run where little else is installed.
if find_spec("hypothesis") is not None:
    from hypothesis import settings

    # The same examples in every run, and no verdict from the clock: machines are shared.
    settings.register_profile("fairtat", deadline=None, derandomize=True, database=None, max_examples=40)
    # `make fuzz`: 10,000 examples for each op, others in every run.
    settings.register_profile("fuzz", deadline=None, database=None, max_examples=2000, print_blob=True)
    settings.load_profile("fairtat")


def pytest_collection_finish(session: pytest.Session) -> None:
    """What thousands of collected tests hold is not searched for garbage again and again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    faults.finish(exitstatus)


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    faults.note(item, call)


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Fresh tensors hold NaN (or the largest integer): what a kernel forgets to write cannot pass for a zero."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture(scope="session")
def timm() -> ModuleType:
    """timm, or a skip that says what is missing."""
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    return pytest.importorskip("timm", reason="timm is not installed")
