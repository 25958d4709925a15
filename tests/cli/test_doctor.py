from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fairtat import backends
from fairtat.cli import packages
from fairtat.cli.packages import Package

Command = Callable[..., Any]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imports take seconds each: tests/cli/test_packages.py has them."""
    monkeypatch.setattr(packages, "look", lambda: {})


def test_json_reports_versions_backends_and_every_self_test(fairtat: Command) -> None:
    code, out, err = fairtat("doctor", "--json")
    report = json.loads(out)
    assert (code, err, report["ok"]) == (0, "", True)
    assert report["versions"]["torch"] == torch.__version__
    assert report["threads"]["torch"] == torch.get_num_threads()
    status = backends.status()
    assert {name: entry["available"] for name, entry in report["backends"].items()} == {
        name: state.available for name, state in status.items()
    }
    assert all(entry["reason"] for entry in report["backends"].values())
    assert report["core"] == backends.native_info()
    tested = {(check["op"], check["backend"]) for check in report["selftest"]}
    assert tested == {(op, name) for op in backends.OPS for name, state in status.items() if state.available}


def test_text_says_what_is_there_and_why_not(fairtat: Command) -> None:
    code, out, _ = fairtat("doctor")
    assert code == 0
    for name, state in backends.status().items():
        assert any(line.split()[:1] == [name] and state.reason in line for line in out.splitlines())
    assert "self-tests passed" in out


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_is_told_native_from_emulated(fairtat: Command, monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": native})
    assert json.loads(fairtat("doctor", "--json").out)["bf16"]["cpu"] is native
    (line,) = (line for line in fairtat("doctor").out.splitlines() if line.startswith("bfloat16"))
    assert ("native" in line, "emulated" in line) == (native, not native)


def test_a_missing_extra_comes_with_its_command(fairtat: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "look", lambda: {"matplotlib": Package("eval", None)})
    out = fairtat("doctor").out
    assert "matplotlib not installed" in out
    assert "pip install 'fairtat[eval]'" in [line.strip() for line in out.splitlines()]
    assert json.loads(fairtat("doctor", "--json").out)["optional"]["matplotlib"]["version"] is None


def test_a_package_that_does_not_load_is_told(fairtat: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Package("vision", "0.28.0", "RuntimeError: operator torchvision::nms does not exist")
    monkeypatch.setattr(packages, "look", lambda: {"torchvision": broken, "timm": Package("vision", "1.0")})
    code, out, _ = fairtat("doctor")
    assert code == 0  # the kernels are right
    assert "torchvision 0.28.0 (does not load), timm 1.0" in out
    assert "torchvision: RuntimeError: operator torchvision::nms does not exist" in out
    assert json.loads(fairtat("doctor", "--json").out)["optional"]["torchvision"]["error"] == broken.error


def test_a_machine_without_the_core_is_described(fairtat: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.native, "MISSING", "no compiler was found")
    code, out, _ = fairtat("doctor")
    assert code == 0
    assert "no compiler was found" in out
    assert f"{len(backends.OPS)} of {len(backends.OPS)} self-tests passed" in out


def test_a_wrong_kernel_fails_the_command_and_is_named(fairtat: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def lazy(*arguments: object) -> None:
        """Does nothing."""

    monkeypatch.setitem(backends._KERNELS["reference"], "class_stats", lazy)
    code, out, _ = fairtat("doctor")
    assert code == 1
    assert "FAILED class_stats on reference: wrong: known confusion" in out
    code, out, _ = fairtat("doctor", "--json")
    assert code == 1
    report = json.loads(out)
    assert report["ok"] is False
    assert {"op": "class_stats", "backend": "reference", "passed": False} in [
        {key: check[key] for key in ("op", "backend", "passed")} for check in report["selftest"]
    ]
