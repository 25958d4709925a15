"""The compiled core: how it is found, and that neither threads nor instruction sets change a bit."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from op_calls import CALLS, check, run
from torch import Tensor

import fairtat
from fairtat import backends
from fairtat.backends import OPS, native
from fairtat.ops import pgd_init

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


CASES = [pytest.param(op, arguments, id=name) for op in OPS for name, arguments in CALLS[op]().items()]


def assert_same(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.fixture
def thread_count() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@needs_core
@pytest.mark.parametrize(("op", "arguments"), CASES)
def test_threads_change_no_bit(op: str, arguments: tuple[Any, ...], thread_count: Callable[[int], None]) -> None:
    thread_count(1)
    expected = run(op, "cpu", arguments)
    for threads in (2, 3, 7):
        thread_count(threads)
        assert_same(run(op, "cpu", arguments), expected)


@needs_core
@pytest.mark.parametrize(("op", "arguments"), CASES)
def test_instruction_sets_change_no_bit(op: str, arguments: tuple[Any, ...]) -> None:
    core = backends.native.core()
    before = core.isa()
    try:
        core.set_isa("baseline")
        expected = run(op, "cpu", arguments)
        for isa in core.isas():
            core.set_isa(isa)
            assert_same(run(op, "cpu", arguments), expected)
    finally:
        core.set_isa(before)


@needs_core
@pytest.mark.parametrize(("op", "arguments"), CASES)
def test_every_kernel_meets_the_reference(request: pytest.FixtureRequest, op: str, arguments: tuple[Any, ...]) -> None:
    check(request.node.callspec.id, run(op, "cpu", arguments), run(op, "reference", arguments))


@needs_core
def test_calls_from_several_python_threads_do_not_meet() -> None:
    arguments = CALLS["pgd_init"]()["pgd_init uniform linf"]
    expected = run("pgd_init", "cpu", arguments)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: run("pgd_init", "cpu", arguments), range(12)):
            assert_same(result, expected)


@needs_core
def test_more_dimensions_than_the_core_walks_are_refused() -> None:
    x = torch.rand(2, *[2] * 9).permute(0, *range(9, 0, -1))
    with pytest.raises(ValueError, match="x has too many dimensions"):
        pgd_init(x, 0.1, seed=0, backend="cpu")
    # The same image stored in order is one run of memory.
    plain = pgd_init(x.contiguous(), 0.1, seed=0, backend="cpu")
    torch.testing.assert_close(plain, pgd_init(x, 0.1, seed=0, backend="reference"), rtol=0, atol=0)
