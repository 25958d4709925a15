"""The notebook runs from top to bottom, and is kept without outputs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"


@pytest.fixture
def notebook() -> Any:
    return pytest.importorskip("nbformat").read(NOTEBOOK, as_version=4)


def test_the_notebook_is_kept_without_outputs(notebook: Any) -> None:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)


@pytest.mark.slow
def test_every_cell_runs(notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("sklearn", "matplotlib", "ipykernel"):
        pytest.importorskip(package)
    client = pytest.importorskip("nbclient").NotebookClient
    kernels = pytest.importorskip("jupyter_client")
    # This Python, whatever kernels the machine knows by name.
    spec = kernels.kernelspec.KernelSpec(argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])
    manager = kernels.manager.AsyncKernelManager()
    manager._kernel_spec = spec
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where the notebook puts its runs

    client(notebook, timeout=300, km=manager, resources={"metadata": {"path": str(tmp_path)}}).execute()

    text = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert re.search(r"largest change 0\.100, target reached by \d+%", text)
    assert re.search(r"fair-tat: clean [\d.]+%, robust [\d.]+%, worst class \d", text)
    assert "Robust accuracy over all images went from " in text
    assert "image/png" in str(notebook.cells)
    assert len(list(tmp_path.glob("*/report.html"))) == 1
