"""What a user installs: the core loads, the sdist is whole, and a machine without a compiler still works."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from check_wheel import check
from op_files import OWN_FILES, SHARED_FILES, contributors_list, forgotten, kernels_of_the_core, public_modules

import fairtat
from fairtat import backends
from fairtat.backends import OPS

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str, cwd: Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if check:
        assert result.returncode == 0, result.stdout + result.stderr
    return result


def install(source: Path, target: Path, *, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(
        *(sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "-v"),
        *("--target", str(target), str(source)),
        cwd=target.parent,
        check=check,
        **environment,
    )


# An editable installation finds modules of the checkout that the copy under test lacks.
ONLY_THE_COPY = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"


def ask(site: Path, program: str) -> str:
    """Run a program against the copy installed in ``site``, away from the checkout."""
    return run(sys.executable, "-c", ONLY_THE_COPY + program, cwd=site.parent, PYTHONPATH=str(site)).stdout.strip()


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(out), cwd=ROOT)
    (archive,) = out.glob("*.tar.gz")
    return archive


def test_the_compiled_core_is_loaded_here() -> None:
    state = backends.status()["cpu"]
    assert state.available, state.reason
    info = backends.native_info()
    assert info is not None
    assert info["version"] == fairtat.__version__
    assert info["openmp"]


def test_import_stays_light() -> None:
    heavy = ["matplotlib", "sklearn", "mlxtend", "pandas", "triton", "jsonargparse", "rich", "yaml"]
    program = f"import fairtat, sys; print([m for m in {heavy!r} if m in sys.modules])"
    assert run(sys.executable, "-c", program, cwd=ROOT.parent).stdout.strip() == "[]"


def test_the_table_of_ops_is_that_of_the_files() -> None:
    assert set(OPS) == public_modules(ROOT) == kernels_of_the_core(ROOT)
    assert [op for op, definition in OPS.items() if not hasattr(torch.ops.fairtat, definition.name)] == []


@pytest.mark.parametrize("op", OPS)
def test_every_op_is_in_every_layer(op: str) -> None:
    assert forgotten(ROOT, op, OPS[op].name) == []


def test_the_list_for_contributors_is_complete() -> None:
    new, edited = contributors_list(ROOT)
    assert set(new) == {file.format(op="my_op") for file in OWN_FILES}
    assert set(edited) == set(SHARED_FILES)


def test_the_core_includes_no_framework_header() -> None:
    sources = [p for p in (ROOT / "csrc").rglob("*") if p.suffix in {".h", ".cpp", ".cu"}]
    assert len(sources) > 10
    includes = [line for p in sources for line in p.read_text().splitlines() if line.startswith("#include")]
    assert not [line for line in includes if "torch" in line or "ATen" in line or "c10" in line]


@pytest.mark.slow
def test_the_sdist_holds_what_a_build_needs(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"CMakeLists.txt", "setup.py", "csrc/bindings.cpp", "csrc/ops.def", "csrc/cpu/pgd_step.cpp"}
    wanted |= {"kernels/__init__.py", "fairtat/_version.py", "fairtat/py.typed", "LICENSE", "README.md"}
    assert wanted <= names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]


@pytest.mark.slow
def test_the_sdist_builds_and_its_core_works(sdist: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install(sdist, site, FAIRTAT_NATIVE="1", FAIRTAT_CUDA="0")
    program = (
        "import torch, fairtat, fairtat.kernels\n"
        "x = torch.rand(2, 3, 5, 5)\n"
        "a = fairtat.ops.pgd_init(x, 0.1, seed=1, backend='cpu')\n"
        "b = fairtat.ops.pgd_init(x, 0.1, seed=1, backend='reference')\n"
        "print(fairtat.__file__, torch.equal(a, b))"
    )
    path, equal = ask(site, program).split()
    assert Path(path).is_relative_to(site)
    assert equal == "True"


@pytest.mark.slow
def test_a_wheel_serves_beside_pytorch_alone(sdist: Path, tmp_path: Path) -> None:
    run(
        *(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(sdist)),
        cwd=tmp_path,
        FAIRTAT_NATIVE="1",
        FAIRTAT_CUDA="0",
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert check(wheel).endswith("core and reference agree")


@pytest.mark.slow
def test_build_isolation_needs_no_pytorch(tmp_path: Path) -> None:
    for name in ("site", "again"):  # by then the first build's environment is gone
        site = tmp_path / name
        run(
            *(sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(site), str(ROOT)),
            cwd=tmp_path,
            FAIRTAT_NATIVE="1",
            FAIRTAT_CUDA="0",
        )
    assert ask(site, "import fairtat; print(fairtat.backends.status()['cpu'].available)") == "True"


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{"FAIRTAT_NATIVE": "0"}, {"FAIRTAT_NATIVE": "auto", "CXX": "/bin/false"}])
def test_without_a_compiler_the_reference_serves(sdist: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    site = tmp_path / "site"
    install(sdist, site, **environment)
    program = (
        "import torch, fairtat\n"
        "state = fairtat.backends.status()['cpu']\n"
        "model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))\n"
        "x = torch.rand(4, 3, 2, 2)\n"
        "x_adv = fairtat.fast_targeted_pgd(model, x, torch.tensor([0, 1, 2, 0]), eps=0.1, steps=2, seed=0)\n"
        "print(state.available, (x_adv - x).abs().max().item() <= 0.1 + 1e-6, state.reason)"
    )
    answer = ask(site, program)
    assert answer.startswith("False True")
    assert "compile" in answer  # the reason says what is missing


@pytest.mark.slow
def test_a_required_core_that_cannot_be_built_fails_loudly(sdist: Path, tmp_path: Path) -> None:
    result = install(sdist, tmp_path / "site", check=False, FAIRTAT_NATIVE="1", CXX="/bin/false")
    assert result.returncode != 0
    assert "FAIRTAT_NATIVE=1" in result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("name", "value"), [("FAIRTAT_NATIVE", "yes"), ("FAIRTAT_CUDA", "2")])
def test_an_unknown_switch_value_is_refused(sdist: Path, tmp_path: Path, name: str, value: str) -> None:
    result = install(sdist, tmp_path / "site", check=False, **{name: value})
    assert result.returncode != 0
    assert f"{name} must be auto, 0 or 1" in result.stdout + result.stderr
