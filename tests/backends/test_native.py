"""The compiled core: how it is found, and that neither threads nor instruction sets change a bit."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor

import fairtat
from fairtat import backends
from fairtat.backends import kernel, native
from fairtat.ops import pgd_init, target_table
from fairtat.reference.class_stats import HEADER

needs_core = pytest.mark.skipif(native.MISSING is not None, reason="needs the compiled core")


def imported_beside(monkeypatch: pytest.MonkeyPatch, core: object) -> ModuleType:
    """A second copy of fairtat.backends.native, imported where ``fairtat._C`` is ``core`` (None: it is not there)."""
    monkeypatch.setitem(sys.modules, "fairtat._C", core)  # type: ignore[arg-type]
    if core is None:
        monkeypatch.delattr(fairtat, "_C", raising=False)
    else:
        monkeypatch.setattr(fairtat, "_C", core, raising=False)
    assert native.__file__ is not None
    spec = importlib.util.spec_from_file_location("native_again", native.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_core_was_built() -> None:
    # A build that silently left it out would pass every other test on the reference.
    if os.environ.get("FAIRTAT_NATIVE") == "0":
        pytest.skip("built without the core on purpose")
    assert native.MISSING is None


def test_an_install_without_the_core_imports_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    module = imported_beside(monkeypatch, None)
    assert "the compiled core is not installed" in module.MISSING
    with pytest.raises(AssertionError, match="not installed"):
        module.core()


def test_a_core_of_another_version_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    module = imported_beside(monkeypatch, SimpleNamespace(__version__="0.0.1", cuda=False))
    assert f"version 0.0.1, not {fairtat.__version__}: reinstall fairtat" in module.MISSING


def test_a_core_of_this_version_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    core = SimpleNamespace(__version__=fairtat.__version__, cuda=False)
    module = imported_beside(monkeypatch, core)
    assert module.MISSING is None
    assert module.core() is core


def images(seed: int, shape: tuple[int, ...] = (9, 3, 47, 31)) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def start(init: str, norm: str) -> tuple[Tensor, ...]:
    x = images(0).contiguous(memory_format=torch.channels_last)
    out = torch.empty_like(x)
    kernel("pgd_init", "cpu")(out, x, torch.linspace(0, 1, 9), 0.0, torch.arange(9) - 4, -7, 3, init, norm, 0.0, 1.0)
    return (out,)


def step(norm: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
    x_adv, grad, x = images(0), (images(1) - 0.5).to(dtype), images(2)
    model_input, count = torch.empty_like(x, dtype=torch.bfloat16), torch.zeros(9, dtype=torch.int64)
    grad[4] = 0.0
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    kernel("pgd_step", "cpu")(
        x_adv, grad, x, torch.linspace(0, 1, 9), 0.0, torch.linspace(1, 0, 9), 0.0, True, norm, 0.0, 1.0,
        model_input, mean, std, count,
    )  # fmt: skip
    return x_adv, model_input.float(), count


def loss(kind: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
    z = ((images(3, (401, 101)) - 0.5) * 40).to(dtype)
    clean = images(4, (401, 101)) * 9
    index = torch.arange(401) % 101
    y = (index + 1) % 101 if kind == "dlr" else None
    return kernel("logit_loss", "cpu")(z, index, kind, y, clean if kind == "kl" else None)


def targets() -> tuple[Tensor, ...]:
    table = target_table(images(5, (50, 50)))
    return (kernel("sample_targets", "cpu")(torch.arange(50), table, torch.arange(50) - 25, 11, 2),)


def counts() -> tuple[Tensor, ...]:
    buffer, index = torch.zeros(HEADER + 10, 10, dtype=torch.int64), torch.arange(1000)
    kernel("class_stats", "cpu")(buffer, index * 7 % 10, index % 10, images(6, (1000,)) * 9, index * 3 % 10)
    return (buffer,)


INITS, NORMS, KINDS = ("uniform", "normal", "zero"), ("linf", "l2"), ("ce", "margin", "dlr", "kl")
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
WORK: dict[str, Callable[[], tuple[Tensor, ...]]] = {
    **{f"pgd_init {i} {n}": lambda i=i, n=n: start(i, n) for i in INITS for n in NORMS},
    **{f"pgd_step {n} {d}": lambda n=n, d=d: step(n, d) for n in NORMS for d in FLOATS},
    **{f"logit_loss {k} {d}": lambda k=k, d=d: loss(k, d) for k in KINDS for d in FLOATS},
    "sample_targets": targets,
    "class_stats": counts,
}  # fmt: skip


def assert_same(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.fixture
def thread_count() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@needs_core
@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
def test_threads_change_no_bit(work: Callable[[], tuple[Tensor, ...]], thread_count: Callable[[int], None]) -> None:
    thread_count(1)
    expected = work()
    for threads in (2, 3, 7):
        thread_count(threads)
        assert_same(work(), expected)


@needs_core
@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
def test_instruction_sets_change_no_bit(work: Callable[[], tuple[Tensor, ...]]) -> None:
    core = backends.native.core()
    before = core.isa()
    try:
        core.set_isa("baseline")
        expected = work()
        for isa in core.isas():
            core.set_isa(isa)
            assert_same(work(), expected)
    finally:
        core.set_isa(before)


@needs_core
def test_calls_from_several_python_threads_do_not_meet() -> None:
    expected = start("uniform", "linf")
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: start("uniform", "linf"), range(12)):
            assert_same(result, expected)


@needs_core
def test_more_dimensions_than_the_core_walks_are_refused() -> None:
    x = torch.rand(2, *[2] * 9).permute(0, *range(9, 0, -1))
    with pytest.raises(ValueError, match="x has too many dimensions"):
        pgd_init(x, 0.1, seed=0, backend="cpu")
    # The same image stored in order is one run of memory.
    plain = pgd_init(x.contiguous(), 0.1, seed=0, backend="cpu")
    torch.testing.assert_close(plain, pgd_init(x, 0.1, seed=0, backend="reference"), rtol=0, atol=0)
