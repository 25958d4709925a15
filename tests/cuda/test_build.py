"""The CUDA sources compile without a warning for every architecture that a release ships, and spill nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fairtat import backends

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def shipped_architectures() -> list[str]:
    """The list of CMakeLists.txt, such as ["75-real", ..., "90", ...]."""
    (found,) = re.findall(r'set\(CMAKE_CUDA_ARCHITECTURES "([^"]+)"\)', (ROOT / "CMakeLists.txt").read_text())
    return found.split(";")


@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="no CUDA compiler on this machine")
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_no_warning_and_no_spill(source: Path, tmp_path: Path) -> None:
    assert NVCC is not None
    numbers = [entry.removesuffix("-real") for entry in shipped_architectures()]
    targets = [f"-gencode=arch=compute_{n},code=sm_{n}" for n in numbers]
    result = subprocess.run(
        [
            *(NVCC, "-std=c++17", "-O3", "--fmad=false", "-Xptxas", "-v", "-Werror=all-warnings", "--threads", "2"),
            *("-Xcompiler=-Wall,-Wextra,-Werror", f"-I{ROOT / 'csrc'}", *targets),
            *("-c", str(source), "-o", str(tmp_path / "kernel.o")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    report = result.stdout + result.stderr
    spills = [int(n) for n in re.findall(r"(\d+) bytes spill (?:stores|loads)", report)]
    has_kernels = "__global__" in source.read_text(encoding="utf-8")
    assert len(spills) >= 2 * len(numbers) * has_kernels
    assert sum(spills) == 0
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", report)]
    assert len(registers) >= len(numbers) * has_kernels
    assert all(n <= 128 for n in registers)  # 256 threads a block: two blocks fit a multiprocessor


def test_a_build_with_cuda_imports_without_a_driver() -> None:
    info = backends.native_info()
    if info is None or not info["cuda"]:
        pytest.skip("this build has no CUDA kernels")
    state = backends.status()["cuda"]
    assert state.available or state.reason == "PyTorch sees no GPU"
