"""Builds the compiled core with CMake and Ninja; everything else is in pyproject.toml.

FAIRTAT_NATIVE=auto|0|1   the core: when a compiler is found (auto), never, or fail without it
FAIRTAT_CUDA=auto|0|1     its CUDA part, likewise
FAIRTAT_WERROR=0|1        warnings are errors (the development build)
CMAKE_CUDA_ARCHITECTURES or TORCH_CUDA_ARCH_LIST narrow the CUDA architectures.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def switch(name: str) -> str:
    value = os.environ.get(name, "").strip().lower() or "auto"
    if value not in ("auto", "0", "1"):
        raise SystemExit(f"{name} must be auto, 0 or 1, got {value!r}")
    return value


def find_nvcc() -> str | None:
    """nvcc by its usual places. Whether a GPU is visible is no question for a build."""
    homes = [os.environ.get(name) for name in ("CUDACXX", "CUDA_HOME", "CUDA_PATH")]
    for home in homes:
        if home and Path(home).is_file():
            return home
        if home and (Path(home) / "bin" / "nvcc").is_file():
            return str(Path(home) / "bin" / "nvcc")
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def cuda_architectures() -> str | None:
    """The caller's architectures in CMake's form, or None for the list in CMakeLists.txt."""
    given = os.environ.get("CMAKE_CUDA_ARCHITECTURES")
    if given:
        return given
    torch_list = os.environ.get("TORCH_CUDA_ARCH_LIST")
    if not torch_list:
        return None
    names = []
    for entry in re.split(r"[ ;,]+", torch_list.strip()):
        digits = entry.removesuffix("+PTX").replace(".", "")
        names.append(digits if entry.endswith("+PTX") else f"{digits}-real")
    return ";".join(names)


class CMakeBuild(build_ext):
    def run(self) -> None:
        native = switch("FAIRTAT_NATIVE")
        if native == "0":
            self.extensions: list[Extension] = []
            super().run()
            return
        try:
            super().run()
        except (subprocess.CalledProcessError, OSError) as error:
            if native == "1":
                raise SystemExit(f"FAIRTAT_NATIVE=1, but the compiled core did not build: {error}") from error
            self.warn(f"the compiled core did not build ({error}); installing fairtat as pure Python")
            self.extensions = []

    def build_extension(self, ext: Extension) -> None:
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        output.unlink(missing_ok=True)  # a failed build must not leave an older core behind
        cuda = switch("FAIRTAT_CUDA")
        nvcc = find_nvcc() if cuda != "0" else None
        if cuda == "1" and nvcc is None:
            raise SystemExit("FAIRTAT_CUDA=1, but nvcc was not found; set CUDA_HOME")
        if nvcc is None:
            self.cmake(output, None)
            return
        try:
            self.cmake(output, nvcc)
        except subprocess.CalledProcessError as error:
            if cuda == "1":
                raise
            self.warn(f"the CUDA part did not build ({error}); building the core without it")
            self.cmake(output, None)

    def cmake(self, output: Path, nvcc: str | None) -> None:
        # One folder for each (Python, kind): rebuilds stay incremental and a cached "no compiler" cannot stick.
        kind = "cuda" if nvcc else "cpu"
        build = ROOT / "build" / f"cmake-{sysconfig.get_platform()}-{sys.implementation.cache_tag}-{kind}"
        pybind11_dir = subprocess.run(
            [sys.executable, "-m", "pybind11", "--cmakedir"], check=True, capture_output=True, text=True
        ).stdout.strip()
        options = {
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": str(output.parent),
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11_dir,
            "FAIRTAT_WERROR": "ON" if os.environ.get("FAIRTAT_WERROR", "0") == "1" else "OFF",
            "FAIRTAT_CUDA": "ON" if nvcc else "OFF",
        }
        if nvcc:
            options["CMAKE_CUDA_COMPILER"] = nvcc
            architectures = cuda_architectures()
            if architectures:
                options["CMAKE_CUDA_ARCHITECTURES"] = architectures
        ninja = shutil.which("ninja")
        if ninja:  # of an isolated build before this one CMake would remember a program that is gone
            options["CMAKE_MAKE_PROGRAM"] = ninja
        flags = [f"-D{name}={value}" for name, value in options.items()]
        subprocess.run(["cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja", *flags], check=True)
        subprocess.run(["cmake", "--build", str(build)], check=True)


setup(
    # kernels/ is a folder of its own in the tree and fairtat.kernels once installed. In a checkout
    # fairtat/kernels links to it, for type checkers; the sdist has no links.
    packages=[*find_packages(include=["fairtat", "fairtat.*"], exclude=["fairtat.kernels*"]), "fairtat.kernels"],
    package_dir={"fairtat.kernels": "kernels"},
    ext_modules=[Extension("fairtat._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
