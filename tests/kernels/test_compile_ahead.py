"""The Triton kernels compiled for GPUs that need not be there: what they use, and the arithmetic that they ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Script = Callable[..., list[dict[str, Any]]]

REGISTERS = 65536  # of a multiprocessor (NVIDIA) or a SIMD unit's lanes (AMD): a block must fit
SHARED = 48 * 1024  # bytes that every GPU grants without asking
# Kernels that divide no floating-point numbers: AMD's exact division is itself made of fused multiply-adds.
WITHOUT_DIVISION = (
    "pgd_step linf torch",
    "pgd_init linf uniform",
    "pgd_init linf zero",
    "sample_targets",
    "class_stats",
)


def check_resources(reports: list[dict[str, Any]]) -> None:
    for report in reports:
        assert report["spilled"] == 0, report
        assert report["registers"] * report["threads"] <= REGISTERS, report
        assert report["shared"] <= SHARED, report


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cuda:80", "cuda:90"])
def test_nvidia(script: Script, target: str) -> None:
    reports = script("compile_ahead.py", target)
    assert len(reports) > 60
    check_resources(reports)
    for report in reports:
        assert (report["fused"], report["flushed"], report["inexact"]) == (0, 0, 0), report


@pytest.mark.slow
def test_amd(script: Script) -> None:
    reports = script("compile_ahead.py", "hip:gfx942")
    check_resources(reports)
    divides = ("everything", "momentum")  # by std, or by a gradient's norm
    exact = [r for r in reports if r["call"].startswith(WITHOUT_DIVISION) and not any(w in r["call"] for w in divides)]
    assert len(exact) > 15
    assert [report for report in exact if report["fused"]] == []


FUSED = "pgd_init linf uniform huge"


@pytest.fixture(scope="module")
def reports(script: Script) -> dict[str, dict[str, Any]]:
    """The Linf step for each dtype, and a start with the contraction that launches forbid."""
    found = script("compile_ahead.py", "cuda:90", "--only", "pgd_step linf torch", "--fuse", FUSED)
    return {report["call"]: report for report in found}


@pytest.mark.slow
def test_the_linf_step_is_exact_and_moves_whole_vectors(reports: dict[str, dict[str, Any]]) -> None:
    steps = [report for call, report in reports.items() if call != FUSED]
    assert len(steps) == len(reports) - 1
    check_resources(steps)
    for report in steps:
        assert (report["fused"], report["flushed"], report["inexact"]) == (0, 0, 0), report
        assert report["extrema"] == 0, report  # min and max choose otherwise among NaN, +0 and -0
    for dtype, vectors in (("float32", 3), ("bfloat16", 2), ("float16", 2)):
        report = reports[f"pgd_step linf torch.{dtype}"]
        assert report["vector_loads"] == vectors, report  # x_adv, x and a float32 gradient, 16 bytes a thread
        assert report["shared"] == 0, report  # no exchange between threads


@pytest.mark.slow
def test_contraction_would_change_the_arithmetic(reports: dict[str, dict[str, Any]]) -> None:
    # Shows that the other tests would see it: without the option, eps * u + x is one fused operation.
    assert reports[FUSED]["fused"] > 0
