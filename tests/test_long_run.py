"""The long run's bookkeeping, and a short one: models go with their programs, and results are written as they come."""

from __future__ import annotations

import json

import long_run
import pytest


def samples(*sizes):
    return [{"rss_bytes": size, "settled_calls": 10, "added_bytes": 5} for size in sizes]


def test_the_verdict_leaves_out_the_warm_up():
    flat = long_run.verdict(samples(10, 50, 90, *[100] * 6))
    assert flat["flat"]
    assert flat["growth"] == 0
    assert flat["bytes_per_settled_call"] == 0.5
    grows = long_run.verdict(samples(10, 50, 90, *range(100, 160, 10)))
    assert not grows["flat"]
    assert grows["growth"] == pytest.approx(145 / 105 - 1)
    assert long_run.verdict(samples(7))["flat"]


@pytest.mark.parametrize("leak", [0, 2000])
def test_a_leak_of_every_call_is_counted(monkeypatch, leak):
    kept = []
    monkeypatch.setattr(long_run.fairtat, "fast_targeted_pgd", lambda *args, **options: kept.append(bytearray(leak)))
    _, _, settled, added = long_run.attack_one(0, 200, [3, 5])
    assert settled == 200 - 2 * long_run.SETTLING
    assert leak * settled <= added <= (leak + 100) * settled


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
