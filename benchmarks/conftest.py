"""Benchmarks under pytest-benchmark: interleaved rounds, equality first, and a file of results for each script.

Each case is one test. Each contestant's rounds become one entry of pytest-benchmark, in a group by the case's name.
``extra_info`` has its role, the ratio to the baseline with quartiles, bandwidth and what the proof of equality found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import Benchmark, CaseSpec, Device, Measurement, Settings, Unavailable, environment
from harness.runner import Effort, failures, run_case
from pytest_benchmark.fixture import BenchmarkFixture
from pytest_benchmark.stats import Metadata
from records import FORMAT, result_path, write_json

RESULTS_KEY = pytest.StashKey[dict[str, dict[str, Any]]]()
MACHINE_KEY = pytest.StashKey[dict[str, Any]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fairtat benchmarks")
    group.addoption("--quick", action="store_true", help="a few small cases, two rounds each: the figures mean nothing")
    group.addoption("--device", choices=("cpu", "cuda"), default="cpu", help="whose cases to run (default: cpu)")
    group.addoption("--rehearse", action="store_true", help="run a GPU's cases on the CPU with small inputs")
    group.addoption("--skip", action="append", default=[], metavar="GLOB", help="leave out contestants; repeatable")
    group.addoption("--threads", type=int, metavar="N", help="threads of PyTorch and fairtat")
    group.addoption("--results", type=Path, metavar="DIR", help="write DIR/<benchmark>-<device>.json")
    group.addoption(
        "--keep-going", action="store_true",
        help="time the other contestants if one fails or disagrees; the case still fails",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RESULTS_KEY] = {}
    threads = config.getoption("threads")
    if threads is not None and threads < 1:
        raise pytest.UsageError(f"--threads must be at least 1, got {threads}")
    if config.getoption("benchmark_min_rounds") < 1:
        raise pytest.UsageError("--benchmark-min-rounds must be at least 1")
    if threads is not None:
        torch.set_num_threads(threads)
    if settings_of(config).device == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("--device cuda needs a GPU that PyTorch can use; --rehearse runs its cases on the CPU")


def settings_of(config: pytest.Config) -> Settings:
    rehearsal = config.getoption("rehearse")
    device: Device = "cpu" if rehearsal else config.getoption("device")
    return Settings(quick=config.getoption("quick") or rehearsal, device=device, rehearsal=rehearsal)


def device_of(config: pytest.Config) -> str:
    """Whose cases are run; a rehearsal runs a GPU's."""
    return "cuda" if config.getoption("rehearse") else config.getoption("device")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "spec" in metafunc.fixturenames:
        quick, device = settings_of(metafunc.config).quick, device_of(metafunc.config)
        specs = [s for s in metafunc.module.BENCHMARK.cases if s.device == device and (s.quick or not quick)]
        metafunc.parametrize("spec", specs, ids=[s.name for s in specs])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Drop the empty parameter sets: a script may have no cases for this device."""
    items[:] = [item for item in items if not item.name.endswith("[NOTSET]")]


def machine(config: pytest.Config) -> dict[str, Any]:
    """The environment, measured once and before everything else."""
    if MACHINE_KEY not in config.stash:
        config.stash[MACHINE_KEY] = environment.describe(settings_of(config).device)
    return config.stash[MACHINE_KEY]


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info["fairtat"] = machine(config)


@pytest.fixture
def compare(request: pytest.FixtureRequest) -> Callable[[CaseSpec], None]:
    """Prove that a case's contestants agree, then time them in turn, round by round."""
    config, benchmark = request.config, request.module.BENCHMARK
    settings = settings_of(config)
    options = config._benchmarksession.options  # type: ignore[attr-defined]
    effort = Effort.quick() if settings.quick else Effort(float(options["max_time"]), options["min_rounds"])
    keep_going = config.getoption("keep_going")
    machine(config)

    def run(spec: CaseSpec) -> None:
        result: dict[str, Any] = {"name": spec.name, "headline": spec.headline}
        try:
            result, timed = run_case(spec, settings, effort, config.getoption("skip"), keep_going=keep_going)
            add_entries(request, result, timed, asdict(effort))
        except (ModuleNotFoundError, Unavailable) as error:
            result["missing"] = str(error)
            pytest.skip(str(error))
        except Exception as error:
            result["failed"] = f"{type(error).__name__}: {error}"
            raise
        finally:
            keep(config, benchmark, effort, result)
        if wrong := failures(result):
            pytest.fail("\n".join(wrong), pytrace=False)

    return run


def add_entries(
    request: pytest.FixtureRequest, case: dict[str, Any], timed: Measurement, effort: dict[str, Any]
) -> None:
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
        fixture.params = None  # the case itself is no JSON value
        fixture.extra_info = {key: value for key, value in row.items() if key not in ("name", "seconds")}
        entry = Metadata(fixture, iterations=row["calls"], options=effort)
        for seconds in timed.seconds[row["name"]]:
            entry.update(seconds * row["calls"])
        session.benchmarks.append(entry)


def keep(config: pytest.Config, benchmark: Benchmark, effort: Effort, case: dict[str, Any]) -> None:
    """Add a case to its script's results; the file is written at once, since a long run may be cut off."""
    settings = settings_of(config)
    result = config.stash[RESULTS_KEY].setdefault(
        benchmark.name,
        {
            "format": FORMAT, "benchmark": benchmark.name, "question": benchmark.question, "cases": [],
            "device": device_of(config), "quick": settings.quick, "environment": machine(config),
            "effort": asdict(effort), "settings": benchmark.settings,
        },
    )  # fmt: skip
    result["cases"].append(case)
    folder = config.getoption("results")
    if folder is not None:
        write_json(result_path(folder, benchmark.name, result["device"]), result)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Targets, met or not met: they are stated and never enforced."""
    for result in config.stash[RESULTS_KEY].values():
        for case in result["cases"]:
            for target in case.get("targets", ()):
                figure = target.get("ratio") or target["seconds"]
                shown = "{median:.3g} ({q1:.3g}-{q3:.3g})".format(**figure)
                verdict = "met" if target["met"] else "NOT MET"
                terminalreporter.write_line(f"{verdict}: {case['name']}: {target['text']}: {shown}")
            for name, row in {row["name"]: row for row in case.get("contestants", ())}.items():
                if "missing" in row:
                    terminalreporter.write_line(f"left out: {case['name']}: {name}: {row['missing']}")
