"""The long run's bookkeeping, and a short one: models go with their programs, and results are written as they come."""

from __future__ import annotations

import json

import long_run
import pytest


def samples(*sizes, grown=0):
    return [{"rss_bytes": size, "grown_bytes": grown} for size in sizes]


def test_the_verdict_leaves_out_the_warm_up_and_tells_calls_from_programs():
    flat = long_run.verdict(samples(10, 50, 90, *[1000] * 6))
    assert flat["flat"]
    assert flat["growth"] == flat["bytes_per_program"] == 0
    builds = long_run.verdict(samples(10, 50, 90, *range(1000, 1300, 50)))
    assert builds["flat"]
    assert builds["growth"] == pytest.approx(0.25)
    assert builds["bytes_per_program"] == pytest.approx(50 / long_run.PROGRAMS_A_MODEL)
    grows = long_run.verdict(samples(10, 50, 90, *range(1000, 1300, 50), grown=50))
    assert not grows["flat"]
    assert grows["growth_by_calls"] == pytest.approx(0.25)
    assert grows["bytes_per_program"] == 0
    assert long_run.verdict(samples(7))["flat"]


@pytest.mark.slow
def test_a_short_run(tmp_path):
    out = tmp_path / "long-run.json"
    # Too short to judge by memory, so no exit status is asserted.
    long_run.main(["--calls", "22", "--models", "2", "--out", str(out)])
    result = json.loads(out.read_text())
    assert result["complete"]
    assert result["all_dropped"]
    assert [sample["calls"] for sample in result["samples"]] == [11, 22]
    assert all(1 < sample["programs"] <= long_run.MAX_SIZES for sample in result["samples"])
    assert all(sample["rss_bytes"] > 2**20 for sample in result["samples"])
