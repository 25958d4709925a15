"""Benchmarks under pytest-benchmark: interleaved rounds, equality first, and a file of results for each script.

Each case is one test. Each contestant's rounds become one entry of pytest-benchmark, in a group by the case's name.
``extra_info`` has its role, the ratio to the baseline with quartiles, bandwidth and what the proof of equality found.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import records
from harness.case import Case, Device, Settings
from harness.runner import QUICK, Effort, Measurement, failures, run_case
from pytest_benchmark.fixture import BenchmarkFixture
from pytest_benchmark.stats import Metadata

RESULTS_KEY = pytest.StashKey[dict[str, dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fairtat benchmarks")
    group.addoption("--quick", action="store_true", help="a few small cases, two rounds each: the figures mean nothing")
    group.addoption("--device", choices=("cpu", "cuda"), default="cpu", help="whose cases to run (default: cpu)")
    group.addoption("--rehearse", action="store_true", help="run a GPU's cases on the CPU with small inputs")
    group.addoption("--skip", action="append", default=[], metavar="GLOB", help="leave out contestants; repeatable")
    group.addoption("--threads", type=int, metavar="N", help="threads of PyTorch and fairtat")
    group.addoption("--processor-time", action="store_true", help="for a busy machine; needs --threads 1")
    group.addoption("--results", type=Path, metavar="DIR", help="write DIR/<benchmark>-<device>.json")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RESULTS_KEY] = {}
    threads = config.getoption("threads")
    if threads is not None and threads < 1:
        raise pytest.UsageError(f"--threads must be at least 1, got {threads}")
    if threads is not None:
        torch.set_num_threads(threads)
    if config.getoption("processor_time") and threads != 1:
        raise pytest.UsageError("--processor-time adds up the times of all threads: it needs --threads 1")
    if settings_of(config).place == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("--device cuda needs a GPU that PyTorch can use; --rehearse runs its cases on the CPU")


def settings_of(config: pytest.Config) -> Settings:
    rehearsal, quick = config.getoption("rehearse"), config.getoption("quick")
    device: Device = "cuda" if rehearsal else config.getoption("device")
    return Settings(device, quick or rehearsal, rehearsal, config.getoption("processor_time"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        settings = settings_of(metafunc.config)
        cases = [c for c in metafunc.module.BENCHMARK.cases if c.device == settings.device]
        chosen = [c for c in cases if c.quick or not settings.quick]
        chosen = [c for c in chosen if not (c.in_other_processes and settings.processor_time)]
        metafunc.parametrize("case", chosen, ids=[c.name for c in chosen])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Drop the empty parameter sets: a script may have no cases for this device."""
    items[:] = [item for item in items if not item.name.endswith("[NOTSET]")]


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info["fairtat"] = records.describe(settings_of(config).place)


@pytest.fixture
def compare(request: pytest.FixtureRequest) -> Callable[[Case[Any]], None]:
    """Prove that a case's contestants agree, then time them in turn, round by round."""
    config, settings = request.config, settings_of(request.config)
    options = config._benchmarksession.options  # type: ignore[attr-defined]
    effort = QUICK if settings.quick else Effort(float(options["max_time"]), options["min_rounds"])

    def run(case: Case[Any]) -> None:
        result: dict[str, Any] = {"name": case.name, "headline": case.headline}
        try:
            result, timed = run_case(request.module.BENCHMARK, case, settings, effort, config.getoption("skip"))
            add_entries(request, result, timed, effort)
        except ModuleNotFoundError as error:
            result["missing"] = str(error)
            pytest.skip(str(error))
        except Exception as error:
            result["failed"] = f"{type(error).__name__}: {error}"
            raise
        finally:
            keep(request, effort, result)
        for row in result["contestants"]:
            if "missing" in row:
                warnings.warn(f"{case.name}: {row['name']} is left out: {row['missing']}", stacklevel=1)
        if wrong := failures(result):
            pytest.fail("\n".join(wrong), pytrace=False)

    return run


def add_entries(request: pytest.FixtureRequest, case: dict[str, Any], timed: Measurement, effort: Effort) -> None:
    """Hand each contestant's rounds to pytest-benchmark."""
    session = request.config._benchmarksession  # type: ignore[attr-defined]
    for row in case["contestants"]:
        if "seconds" not in row:
            continue
        # pytest-benchmark has one entry per test; a case has one per contestant.
        fixture = BenchmarkFixture(
            request.node, add_stats=session.benchmarks.append, logger=session.logger, warner=request.node.warn,
            disabled=False, group=f"{request.module.BENCHMARK.name}: {case['name']}", **session.options,
        )  # fmt: skip
        fixture.name, fixture.fullname = row["name"], f"{request.node.nodeid}::{row['name']}"
        fixture.params = None  # the case itself is not a JSON value
        fixture.extra_info = {key: value for key, value in row.items() if key not in ("name", "seconds")}
        entry = Metadata(fixture, iterations=row["calls"], options=asdict(effort))
        for seconds in timed.seconds[row["name"]]:
            entry.update(seconds * row["calls"])
        session.benchmarks.append(entry)


def keep(request: pytest.FixtureRequest, effort: Effort, case: dict[str, Any]) -> None:
    """Add a case to its script's results; the file is written at once, since a long run may be cut off."""
    config, benchmark = request.config, request.module.BENCHMARK
    settings = settings_of(config)
    result = config.stash[RESULTS_KEY].setdefault(
        benchmark.name,
        {
            "format": records.FORMAT, "benchmark": benchmark.name, "question": benchmark.question, "cases": [],
            "device": settings.device, "quick": settings.quick, "environment": records.describe(settings.place),
            "processor_time": settings.processor_time, "effort": asdict(effort), "settings": benchmark.settings,
        },
    )  # fmt: skip
    result["cases"].append(case)
    folder = config.getoption("results")
    if folder is not None:
        records.write_json(records.result_path(folder, benchmark.name, result["device"]), result)
