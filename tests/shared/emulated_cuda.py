"""The CUDA kernels' own source, compiled for the CPU with an emulated runtime: their logic is proved without a GPU."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType

import pybind11
import pytest

from fairtat.backends import native

ROOT = Path(__file__).resolve().parents[2]
EMULATOR = ROOT / "tests" / "cuda" / "emulator"
CPU_SOURCES = sorted({path.stem for path in (ROOT / "csrc" / "cpu").glob("*.cpp")} - {"dispatch"})

# kernel<Types><<<grid, threads, shared, stream>>>(a);  ->  emulator::launch([=] { kernel<Types>(a); }, grid, ...);
LAUNCH = re.compile(r"(\w+(?:<[^<>;]*>)?)<<<(.*?)>>>\((.*?)\);", re.DOTALL)
# The thread sanitizer's calls before each access, which recorder.cpp answers.
RECORD = ["-fsanitize=thread", "--param", "tsan-instrument-func-entry-exit=0", "-fno-tree-sra"]
RECORD += ["-DFAIRTAT_RECORD"]
DYNAMIC_SHARED = re.compile(r"extern __shared__ (\w+) (\w+)\[\];")


def as_cpp(source: str) -> str:
    """A .cu file without the two pieces of syntax that a C++ compiler does not know."""
    source = LAUNCH.sub(r"emulator::launch([=] { \1(\3); }, \2);", source)
    return DYNAMIC_SHARED.sub(r"\1* \2 = emulator::dynamic_shared<\1>();", source)


def build(folder: Path, *, record: bool = False) -> ModuleType:
    """A build of fairtat._C whose CUDA device is the CPU: device pointers are ordinary pointers."""
    sources = [ROOT / "csrc" / name for name in ("bindings.cpp", "signature.cpp", "cpu/dispatch.cpp")]
    sources += [ROOT / "csrc" / "cpu" / f"{name}.cpp" for name in CPU_SOURCES]
    flags = ["-std=c++17", "-O1", "-fPIC", "-ffp-contract=off", "-Wno-unknown-pragmas", "-fvisibility=hidden"]
    flags += [f"-I{path}" for path in (EMULATOR, ROOT / "csrc", pybind11.get_include(), sysconfig.get_path("include"))]
    flags += ['-DFAIRTAT_VERSION="0"', "-DFAIRTAT_CUDA=1"]
    kernels = []
    for kernel in sorted((ROOT / "csrc" / "cuda").glob("*.cu")):
        kernels.append(folder / f"{kernel.stem}_cuda.cpp")
        kernels[-1].write_text(as_cpp(kernel.read_text()))
    # The CPU kernels are the baseline's; the CUDA sources keep their own namespace.
    jobs = [(source, ["-DFAIRTAT_ISA=baseline"] if source.stem in CPU_SOURCES else []) for source in sources]
    jobs += [(source, RECORD if record else []) for source in kernels]
    if record:
        jobs.append((EMULATOR / "recorder.cpp", []))
    objects = []
    for source, own in jobs:
        objects.append(folder / f"{source.stem}_{source.parent.name}.o")
        command = ["g++", *flags, *own, "-c", str(source), "-o", str(objects[-1])]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
    library = folder / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    subprocess.run(["g++", "-shared", "-o", str(library), *map(str, objects)], check=True)
    # pybind11 keeps one module of each full name: the folder's name tells two builds in a process apart.
    spec = importlib.util.spec_from_file_location(f"{folder.name}._C", library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.__file__ == str(library)
    return module


def use(core: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on ``backends.kernel(op, "cuda")`` runs its kernels, on CPU tensors."""
    monkeypatch.setattr(native, "_core", core)
    monkeypatch.setattr(native, "_place", lambda t: (0, 0))
