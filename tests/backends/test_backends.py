"""Which backend is chosen, and what is said of those that are not there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from fairtat import backends
from fairtat._version import __version__
from fairtat.backends import BACKENDS, OPS, auto, choose, describe, kernel, native_info, status

CPU, CUDA, META = torch.device("cpu"), torch.device("cuda", 0), torch.device("meta")
FLOAT, DOUBLE, LABELS = torch.float32, torch.float64, torch.int64

needs_core = pytest.mark.skipif(not status()["cpu"].available, reason="needs the compiled core")


@pytest.fixture(autouse=True)
def no_preference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAIRTAT_BACKEND", raising=False)


@pytest.fixture
def no_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairtat.backends.native.MISSING", "the compiled core is not installed (no compiler)")
    monkeypatch.setattr("fairtat.backends.native._core", None)


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU, a CUDA build and Triton, as far as choosing a backend goes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr("fairtat.backends.native.MISSING", None)
    monkeypatch.setattr("fairtat.backends.native.CUDA", True)
    monkeypatch.setattr(backends, "_cuda_trouble", {0: None})
    monkeypatch.setattr(backends, "_TRITON", True)
    monkeypatch.setattr(backends, "_triton_trouble", None)
    monkeypatch.setattr(backends, "_KERNELS", {**backends._KERNELS, "triton": {}})


def ordered(monkeypatch: pytest.MonkeyPatch, op: str, *names: str) -> None:
    monkeypatch.setitem(auto.ORDER, "cuda", {**auto.ORDER["cuda"], op: names})


@needs_core
@pytest.mark.parametrize("op", OPS)
def test_auto_takes_the_core_for_what_it_serves(op: str) -> None:
    for dtype in (FLOAT, torch.bfloat16, torch.float16, LABELS):
        assert choose(op, CPU, dtype) == "cpu"
    assert choose(op, CPU, DOUBLE) == "reference"
    assert choose(op, META, FLOAT) == "reference"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("op", OPS)
def test_a_gpu_tensor_without_a_gpu_is_the_references(op: str) -> None:
    # torch.compile and fake tensors ask about devices that are not there.
    assert choose(op, CUDA, FLOAT) == "reference"


@pytest.mark.usefixtures("a_gpu")
def test_auto_follows_the_order_of_each_op_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    ordered(monkeypatch, "pgd_step", "triton", "cuda", "reference")
    ordered(monkeypatch, "class_stats", "reference", "cuda", "triton")
    assert choose("pgd_step", CUDA, FLOAT) == "triton"
    assert choose("class_stats", CUDA, FLOAT) == "reference"
    assert choose("pgd_step", CUDA, DOUBLE) == "reference"


@pytest.mark.usefixtures("a_gpu")
@pytest.mark.parametrize("op", OPS)
def test_what_is_absent_is_passed_over(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ordered(monkeypatch, op, "cuda", "triton", "reference")
    assert choose(op, CUDA, FLOAT) == "cuda"
    monkeypatch.setattr("fairtat.backends.native.CUDA", False)
    assert choose(op, CUDA, FLOAT) == "triton"
    monkeypatch.setattr(backends, "_TRITON", False)
    assert choose(op, CUDA, FLOAT) == "reference"


@pytest.mark.usefixtures("a_gpu")
def test_the_cuda_kernels_are_not_for_amd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert choose("pgd_step", CUDA, FLOAT) == "triton"
    assert "AMD" in status()["cuda"].reason


@pytest.mark.usefixtures("a_gpu")
def test_cuda_kernels_that_cannot_run_leave_the_gpu_to_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def cuda_trouble(device: int) -> str:
        asked.append(device)
        if device == 2:
            raise RuntimeError("cudaGetDevice: unknown error")
        return "the driver is too old" if device == 0 else ""

    monkeypatch.setattr(backends, "_cuda_trouble", {})
    core = SimpleNamespace(cuda_trouble=cuda_trouble, isa=lambda: "some")
    monkeypatch.setattr("fairtat.backends.native._core", core)
    ordered(monkeypatch, "pgd_step", "cuda", "triton", "reference")
    for _ in range(2):
        assert choose("pgd_step", CUDA, FLOAT) == "triton"
        assert choose("pgd_step", torch.device("cuda", 1), FLOAT) == "cuda"  # each GPU is asked for itself
        assert choose("pgd_step", torch.device("cuda", 2), FLOAT) == "triton"
    assert asked == [0, 1, 2]
    assert status()["cuda"] == backends.Status(False, "the driver is too old")
    with pytest.raises(ValueError, match="backend='cuda' is not available: the driver is too old"):
        choose("pgd_step", CUDA, FLOAT, "cuda")
    with pytest.raises(ValueError, match=r"the kernels cannot run on GPU 2 \(cudaGetDevice: unknown error\)"):
        choose("pgd_step", torch.device("cuda", 2), FLOAT, "cuda")


@pytest.mark.usefixtures("a_gpu")
@pytest.mark.parametrize("broken", ["fairtat.backends.triton", "triton"])
def test_a_triton_that_does_not_work_leaves_the_gpu_to_the_reference(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fairtat.backends.native.CUDA", False)
    monkeypatch.delitem(backends._KERNELS, "triton")
    monkeypatch.delattr(backends, "triton", raising=False)  # as an earlier import would have left it
    monkeypatch.setitem(sys.modules, broken, None)  # importing it raises
    assert choose("pgd_step", CUDA, FLOAT) == "reference"
    assert "Triton does not work here (ModuleNotFoundError" in status()["triton"].reason
    with pytest.raises(ValueError, match="backend='triton' is not available: Triton does not work here"):
        choose("pgd_step", CUDA, FLOAT, "triton")


def test_triton_is_not_imported_before_it_is_needed() -> None:
    program = (
        "import sys, torch, fairtat\n"
        "fairtat.backends.describe()\n"
        "x = torch.rand(2, 3, 4, 4)\n"
        "fairtat.ops.pgd_step_(x.clone(), x - 0.5, x, 0.1, 0.1)\n"
        "print('triton' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env={"CUDA_VISIBLE_DEVICES": ""}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"


@pytest.mark.usefixtures("no_core")
@pytest.mark.parametrize("op", OPS)
def test_auto_takes_the_reference_without_a_core(op: str) -> None:
    assert choose(op, CPU, FLOAT) == "reference"


@pytest.mark.parametrize("device", [CPU, CUDA, META], ids=str)
@pytest.mark.parametrize("dtype", [FLOAT, DOUBLE], ids=str)
def test_the_reference_serves_everything_when_asked(device: torch.device, dtype: torch.dtype) -> None:
    assert choose("pgd_step", device, dtype, "reference") == "reference"


@needs_core
@pytest.mark.parametrize(
    ("device", "dtype", "objection"),
    [
        (CPU, DOUBLE, "float64 is served by the reference"),
        (CUDA, FLOAT, "serves CPU tensors, got cuda:0"),
        (META, FLOAT, "serves CPU tensors, got meta"),
    ],
)
def test_a_backend_that_cannot_serve_the_tensor_says_so(
    device: torch.device, dtype: torch.dtype, objection: str
) -> None:
    with pytest.raises(ValueError, match=rf"backend='cpu' cannot run pgd_init here: .*{objection}.*backend='auto'"):
        choose("pgd_init", device, dtype, "cpu")


@pytest.mark.parametrize("name", [name for name, state in status().items() if not state.available])
def test_an_absent_backend_says_why(name: str) -> None:
    with pytest.raises(ValueError, match=rf"backend='{name}' is not available: \w+"):
        choose("pgd_init", CPU, FLOAT, name)


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(ValueError, match="backend must be 'auto' or one of cuda, triton, cpu, reference, got 'gpu'"):
        choose("pgd_init", CPU, FLOAT, "gpu")


@pytest.mark.usefixtures("no_core")
def test_a_missing_core_says_why() -> None:
    with pytest.raises(ValueError, match=r"backend='cpu' is not available: .*not installed \(no compiler\)"):
        choose("pgd_init", CPU, FLOAT, "cpu")


def test_the_environment_decides_what_auto_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRTAT_BACKEND", "reference")
    assert choose("pgd_step", CPU, FLOAT) == "reference"
    monkeypatch.setenv("FAIRTAT_BACKEND", "auto")
    assert choose("pgd_step", CPU, DOUBLE) == "reference"
    monkeypatch.setenv("FAIRTAT_BACKEND", "")
    assert choose("pgd_step", CPU, DOUBLE) == "reference"


@needs_core
def test_the_environment_is_a_preference_not_a_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRTAT_BACKEND", "cpu")
    assert choose("pgd_step", CPU, FLOAT) == "cpu"
    assert choose("pgd_step", CPU, DOUBLE) == "reference"
    assert choose("pgd_step", CUDA, FLOAT) == "reference"
    monkeypatch.setenv("FAIRTAT_BACKEND", "reference")
    assert choose("pgd_step", CPU, FLOAT, "cpu") == "cpu"  # the argument goes first


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("numba", "FAIRTAT_BACKEND must be 'auto' or one of .*got 'numba'"),
        ("triton", "FAIRTAT_BACKEND='triton' is not available"),
    ],
)
def test_a_useless_environment_is_an_error(monkeypatch: pytest.MonkeyPatch, value: str, message: str) -> None:
    monkeypatch.setenv("FAIRTAT_BACKEND", value)
    with pytest.raises(ValueError, match=message):
        choose("pgd_step", CPU, FLOAT)


def test_every_backend_that_is_present_serves_every_op() -> None:
    present = [name for name, state in status().items() if state.available]
    assert "reference" in present
    kernels = {kernel(op, name) for name in present for op in OPS}
    assert len(kernels) == len(present) * len(OPS)
    assert all(callable(k) for k in kernels)


def test_status_gives_every_backend_a_reason() -> None:
    assert tuple(status()) == BACKENDS
    assert all(state.reason for state in status().values())


@pytest.mark.usefixtures("no_core")
def test_status_and_description_of_a_pure_python_install() -> None:
    assert not status()["cpu"].available
    assert native_info() is None
    text = describe()
    assert "not installed (no compiler)" in text
    assert "cpu, float32: reference" in text


def test_description_names_the_backends_and_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    text = describe()
    assert all(name in text for name in BACKENDS)
    assert f"cpu, float32: {choose('pgd_step', CPU, FLOAT)}" in text
    assert "cpu, float64: reference" in text
    assert "order on a GPU" in text
    assert "FAIRTAT_BACKEND" not in text
    monkeypatch.setenv("FAIRTAT_BACKEND", "reference")
    assert "FAIRTAT_BACKEND=reference" in describe()
    assert "cpu, float32: reference" in describe()


@pytest.mark.usefixtures("a_gpu")
def test_description_says_what_each_op_takes_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cuda, float64: reference" in describe()
    ordered(monkeypatch, "pgd_init", "triton", "cuda", "reference")
    line = next(line for line in describe().splitlines() if "cuda, float32" in line)
    assert "triton (pgd_init)" in line
    assert "cuda (pgd_step, logit_loss" in line


@needs_core
def test_the_core_tells_what_it_is() -> None:
    info = native_info()
    assert info is not None
    assert info["version"] == __version__
    assert info["isas"][0] == "baseline"
    assert info["isa"] in info["isas"]
    assert info["compiler"].split()[0] in ("gcc", "clang")
    assert {type(info["openmp"]), type(info["cuda"])} == {bool}
    assert f"{info['isa']} instructions" in status()["cpu"].reason


@pytest.fixture
def restored_isa() -> Iterator[SimpleNamespace]:
    core = backends.native.core()
    before = core.isa()
    yield core
    core.set_isa(before)


@needs_core
def test_an_instruction_set_can_be_forced(restored_isa: SimpleNamespace) -> None:
    for name in restored_isa.isas():
        restored_isa.set_isa(name)
        assert restored_isa.isa() == name
        assert f"{name} instructions" in describe()


@needs_core
def test_an_unknown_instruction_set_changes_nothing(restored_isa: SimpleNamespace) -> None:
    before = restored_isa.isa()
    with pytest.raises(ValueError, match="cannot run mmx"):
        restored_isa.set_isa("mmx")
    assert restored_isa.isa() == before
