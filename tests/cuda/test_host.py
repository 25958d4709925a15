"""The host's side of a launch, over an emulated runtime: the device guard, and the probe of driver and architecture."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = """
#include "cuda/probe.cu"

extern "C" int launch_on(int target, int current, bool context, int* made_current) {
  emulator::host = emulator::Host{};
  emulator::host.device = current;
  emulator::host.context = context;
  {
    const fairtat::cuda::DeviceGuard guard(target);
    if (emulator::host.device != target) return -1;
  }
  int n = 0;
  for (int device : emulator::host.made_current) made_current[n++] = device;
  return n;
}

extern "C" void trouble_on(int device, int driver, int image, char* text) {
  emulator::host = emulator::Host{};
  emulator::host.driver = driver;
  emulator::host.image = image;
  strcpy(text, fairtat::cuda::trouble(device).c_str());
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("host")
    (folder / "host.cpp").write_text(SOURCE)
    includes = [f"-I{path}" for path in (ROOT / "tests" / "cuda" / "emulator", ROOT / "csrc")]
    command = [
        "g++",
        "-std=c++17",
        "-fPIC",
        "-shared",
        *includes,
        str(folder / "host.cpp"),
        "-o",
        str(folder / "host.so"),
    ]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(folder / "host.so"))


@pytest.mark.parametrize(
    ("target", "current", "context", "made_current"),
    [
        (3, 3, True, []),
        (3, 3, False, []),
        (3, 1, True, [3, 1]),
        (3, 0, False, [3]),  # a thread of rank 3 that has not used CUDA: GPU 0 stays untouched
    ],
)
def test_a_launch_creates_no_context_elsewhere(
    library: ctypes.CDLL, target: int, current: int, context: bool, made_current: list[int]
) -> None:
    devices = (ctypes.c_int * 4)()
    n = library.launch_on(target, current, ctypes.c_bool(context), devices)
    assert list(devices[:n]) == made_current


@pytest.mark.parametrize(
    ("driver", "image", "reason"),
    [
        (13000, 0, ""),
        (13020, 0, ""),
        (14000, 0, ""),
        (12080, 0, "the driver serves CUDA 12.8, older than the CUDA 13.0 that the kernels were built with"),
        (0, 0, "no CUDA driver is installed"),
        (13000, 209, "the kernels were not built for GPU 2 (emulated error)"),
    ],
)
def test_what_cannot_run_says_why(library: ctypes.CDLL, driver: int, image: int, reason: str) -> None:
    text = ctypes.create_string_buffer(500)
    library.trouble_on(2, driver, image, text)
    assert text.value.decode().startswith(reason)
    assert bool(text.value) == bool(reason)
