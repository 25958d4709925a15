from __future__ import annotations

from typing import Any

import pytest
import torch
from harness import Case, CaseSpec, Contestant, Entrant, Measurement, Mismatch, Settings, Target, Unavailable, equal_to
from harness.runner import Effort, failures, judge, run_case

EFFORT = Effort(budget=0.0, min_rounds=2, max_rounds=2, sample_seconds=0.0)


def entrant() -> Entrant:
    return Entrant(lambda: None, lambda: {"a": torch.ones(1)})


def not_there() -> Entrant:
    raise ModuleNotFoundError("No module named 'rare'", name="rare")


def run(
    *contestants: Contestant, skip: tuple[str, ...] = (), keep_going: bool = False, rehearsal: bool = False, **more: Any
) -> dict[str, Any]:
    case = Case(contestants, baseline="ours", verify=equal_to({"a": torch.ones(1)}), rule="equal", **more)
    settings = Settings(rehearsal=rehearsal)
    result, _ = run_case(CaseSpec("a case", lambda settings: case), settings, EFFORT, skip, keep_going=keep_going)
    return result


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
    with pytest.raises(RuntimeError, match="baseline 'ours' must take part"):
        run(OURS, Contestant("peer", "peer", entrant), skip=("ours",))


def test_bytes_over_the_median_time_are_the_bandwidth() -> None:
    result = run(OURS, bytes_moved=10**9)
    row = result["contestants"][0]
    assert row["gb_per_s"] == pytest.approx(1.0 / row["seconds"]["median"], rel=1e-3)


def absent() -> Entrant:
    raise Unavailable("PyTorch sees no GPU")


def broken() -> Entrant:
    raise RuntimeError("out of memory\nwith a long trace")


def wrong() -> Entrant:
    return Entrant(lambda: pytest.fail("timed"), lambda: {"a": torch.zeros(1)})


def test_what_cannot_run_here_says_why_and_is_no_failure() -> None:
    result = run(OURS, Contestant("cuda", "fairtat", absent))
    assert result["contestants"][1] == {"name": "cuda", "role": "fairtat", "missing": "PyTorch sees no GPU"}
    assert failures(result) == []


@pytest.mark.parametrize(
    ("build", "remark"),
    [
        (broken, "RuntimeError: out of memory"),
        (wrong, "does not compute the same thing: 1 of 1 elements of a differ"),
        (lambda: Entrant(lambda: None, broken), "RuntimeError: out of memory"),
    ],
)
def test_a_case_that_keeps_going_leaves_out_who_fails_and_says_so(build: Any, remark: str) -> None:
    peer = Contestant("peer", "peer", build)
    result = run(OURS, peer, keep_going=True, targets=(Target("ours", ("peer",), "faster", 2.0),))
    assert result["contestants"][1] == {"name": "peer", "role": "peer", "failed": remark}
    assert "seconds" in result["contestants"][0]
    assert result["targets"] == []
    assert failures(result) == [f"a case: peer: {remark}"]
    with pytest.raises((RuntimeError, Mismatch)):
        run(OURS, peer)


def test_a_baseline_that_fails_ends_the_case() -> None:
    with pytest.raises(RuntimeError, match="baseline 'ours' must take part: RuntimeError: out of memory"):
        run(Contestant("ours", "fairtat", broken), keep_going=True)


def test_what_does_a_share_of_the_work_is_charged_for_the_whole() -> None:
    def busy(share: float) -> Entrant:
        return Entrant(lambda: sum(range(200_000)), share=share)

    whole, half = run(OURS, Contestant("a", "peer", lambda: busy(1.0)), Contestant("b", "peer", lambda: busy(1e-3)))[
        "contestants"
    ][1:]
    assert half["seconds"]["median"] > 50 * whole["seconds"]["median"]


def test_a_rehearsal_claims_nothing() -> None:
    target = Target("ours", (), "seconds", 100.0)
    assert run(OURS, targets=(target,))["targets"][0]["met"] is True
    assert run(OURS, targets=(target,), rehearsal=True)["targets"] == []


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


@pytest.mark.parametrize(("limit", "met"), [(1.0, True), (0.9, False)])
def test_a_target_may_be_a_time(limit: float, met: bool) -> None:
    verdict = judge(Target("ours", (), "seconds", limit), TIMED)
    assert verdict is not None
    assert verdict["seconds"]["median"] == 1.0
    assert verdict["met"] is met
    assert verdict["text"] == f"ours in at most {'1.00 s' if limit == 1.0 else '900 ms'}"
