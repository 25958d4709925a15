"""The benchmark of host time: every op has its row, and the three ways that it times are different ways of one call."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import host_time
import pytest

from fairtat import backends
from fairtat.backends import native

pytestmark = pytest.mark.skipif(native.MISSING is not None, reason="needs the compiled core")


def test_every_op_has_its_row(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["host_time.py", "--rounds", "1"])
    monkeypatch.setattr("torch.set_num_threads", lambda n: None)  # the other tests keep theirs
    host_time.main()
    rows = capsys.readouterr().out.splitlines()[2:]
    assert {row.split()[0] for row in rows} == set(backends.OPS)


@pytest.mark.parametrize("op", backends.OPS)
def test_the_checks_in_python_run_where_they_are_timed(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = importlib.import_module(f"fairtat.ops.{op}")
    registered = module._op
    _, public = host_time.calls()[op]
    checked = []

    def seen(name: str, check: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            checked.append(name)
            return check(*arguments)

        return call

    for name in [name for name in vars(module) if name.startswith("check_")]:
        monkeypatch.setattr(module, name, seen(name, getattr(module, name)))
    with host_time.checks_in_python(op):
        public()
    assert checked
    assert module._op is registered
