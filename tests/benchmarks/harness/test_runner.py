from __future__ import annotations

from typing import Any

import pytest
import torch
from harness import Case, CaseSpec, Contestant, Entrant, Measurement, Settings, Target, equal_to
from harness.runner import Effort, judge, run_case

EFFORT = Effort(budget=0.0, min_rounds=2, max_rounds=2, sample_seconds=0.0)


def entrant() -> Entrant:
    return Entrant(lambda: None, lambda: {"a": torch.ones(1)})


def not_there() -> Entrant:
    raise ModuleNotFoundError("No module named 'rare'", name="rare")


def run(*contestants: Contestant, skip: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    case = Case(contestants, baseline="ours", verify=equal_to({"a": torch.ones(1)}), rule="equal", **more)
    return run_case(CaseSpec("a case", lambda settings: case), Settings(), EFFORT, skip)


OURS = Contestant("ours", "fairtat", entrant)


def test_a_peer_that_is_not_installed_is_reported_and_nothing_fails() -> None:
    target = Target("ours", ("peer",), "faster", 2.0)
    result = run(OURS, Contestant("peer", "peer", not_there), targets=(target,))
    ours, peer = result["contestants"]
    assert "seconds" in ours
    assert peer == {"name": "peer", "role": "peer", "missing": "not installed: rare"}
    assert result["targets"] == []  # nothing is claimed of what did not run


def test_an_import_that_is_broken_inside_is_no_absence() -> None:
    def broken() -> Entrant:
        raise ImportError("undefined symbol")

    with pytest.raises(ImportError, match="undefined symbol"):
        run(OURS, Contestant("peer", "peer", broken))


def test_a_skipped_contestant_is_not_built() -> None:
    result = run(OURS, Contestant("peer, slow", "peer", lambda: pytest.fail("built")), skip=("peer*",))
    assert [row["name"] for row in result["contestants"]] == ["ours"]


def test_the_baseline_cannot_be_skipped() -> None:
    with pytest.raises(SystemExit, match="baseline 'ours' must take part"):
        run(OURS, Contestant("peer", "peer", entrant), skip=("ours",))


def test_bytes_over_the_median_time_are_the_bandwidth() -> None:
    result = run(OURS, bytes_moved=10**9)
    row = result["contestants"][0]
    assert row["gb_per_s"] == pytest.approx(1.0 / row["seconds"]["median"], rel=1e-3)


TIMED = Measurement({"ours": [1.0] * 3, "slow": [4.0] * 3, "quick": [2.0] * 3}, {"ours": 1, "slow": 1, "quick": 1})


@pytest.mark.parametrize(
    ("target", "ratio", "met"),
    [
        (Target("ours", ("slow", "quick"), "faster", 2.0), 2.0, True),  # the fastest of the others counts
        (Target("ours", ("slow", "quick"), "faster", 2.1), 2.0, False),
        (Target("slow", ("ours",), "within", 4.0), 4.0, True),
        (Target("slow", ("ours", "quick"), "within", 3.9), 4.0, False),
    ],
)
def test_targets_are_judged_on_the_hardest_rival(target: Target, ratio: float, met: bool) -> None:
    verdict = judge(target, TIMED)
    assert verdict is not None
    assert verdict["ratio"]["median"] == ratio
    assert verdict["met"] is met
