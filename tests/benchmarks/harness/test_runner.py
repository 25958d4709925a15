from __future__ import annotations

from typing import Any

import pytest
import torch
from harness.case import Benchmark, Case, Contestant, Entrant, Settings, Unavailable
from harness.equality import equal_to
from harness.runner import QUICK, failures, run_case


def entrant(inputs: object = None) -> Entrant:
    return Entrant(lambda: None, lambda: {"a": torch.ones(1)})


def not_there(inputs: object) -> Entrant:
    raise ModuleNotFoundError("No module named 'rare'", name="rare")


def run(
    *contestants: Contestant[object], skip: tuple[str, ...] = (), settings: Settings | None = None, **more: Any
) -> dict[str, Any]:
    case: Case[object] = Case("a case", lambda settings, seed: object())
    benchmark = Benchmark(
        "it", "?", contestants, {"cpu": "ours", "cuda": "ours"}, lambda inputs: equal_to({"a": torch.ones(1)}),
        "equal", (case,), **more,
    )  # fmt: skip
    result, _ = run_case(benchmark, case, settings or Settings(), QUICK, skip)
    return result


OURS: Contestant[object] = Contestant("ours", "fairtat", entrant)


def test_a_peer_that_is_not_installed_is_reported_and_nothing_fails() -> None:
    result = run(OURS, Contestant("peer", "peer", not_there))
    ours, peer = result["contestants"]
    assert "seconds" in ours
    assert peer == {"name": "peer", "role": "peer", "missing": "not installed: rare"}
    assert failures(result) == []


def test_an_import_that_is_broken_inside_is_a_failure() -> None:
    def broken(inputs: object) -> Entrant:
        raise ImportError("undefined symbol")

    result = run(OURS, Contestant("peer", "peer", broken))
    assert failures(result) == ["a case: peer: ImportError: undefined symbol"]


@pytest.mark.parametrize(
    "contestant",
    [
        Contestant("peer, slow", "peer", lambda inputs: pytest.fail("made")),
        Contestant("other", "peer", lambda inputs: pytest.fail("made"), on=("cuda",)),
        Contestant("other", "peer", lambda inputs: pytest.fail("made"), when=lambda settings, inputs: False),
    ],
)
def test_who_does_not_take_part_is_not_made(contestant: Contestant[object]) -> None:
    result = run(OURS, contestant, skip=("peer*",))
    assert [row["name"] for row in result["contestants"]] == ["ours"]


def test_the_baseline_cannot_be_skipped() -> None:
    with pytest.raises(RuntimeError, match="baseline 'ours' must take part: drop the --skip"):
        run(OURS, Contestant("peer", "peer", entrant), skip=("ours",))


def test_bytes_over_the_median_time_are_the_bandwidth() -> None:
    result = run(OURS, bytes_moved=lambda inputs: 10**9)
    row = result["contestants"][0]
    assert result["bytes_moved"] == 10**9
    assert row["gb_per_s"] == pytest.approx(1.0 / row["seconds"]["median"], rel=1e-3)


def absent(inputs: object) -> Entrant:
    raise Unavailable("PyTorch sees no GPU")


def broken(inputs: object = None) -> Any:
    raise RuntimeError("out of memory\nwith a long trace")


def wrong(inputs: object) -> Entrant:
    return Entrant(lambda: pytest.fail("timed"), lambda: {"a": torch.zeros(1)})


def test_what_cannot_run_here_says_why_and_is_not_a_failure() -> None:
    result = run(OURS, Contestant("cuda", "fairtat", absent))
    assert result["contestants"][1] == {"name": "cuda", "role": "fairtat", "missing": "PyTorch sees no GPU"}
    assert failures(result) == []


@pytest.mark.parametrize(
    ("make", "remark"),
    [
        (broken, "RuntimeError: out of memory"),
        (wrong, "does not compute the same thing: 1 of 1 elements of a differ"),
        (lambda inputs: Entrant(lambda: pytest.fail("timed"), broken), "RuntimeError: out of memory"),
    ],
)
def test_who_fails_or_disagrees_is_not_timed_and_the_others_are(make: Any, remark: str) -> None:
    result = run(OURS, Contestant("peer", "peer", make))
    assert result["contestants"][1] == {"name": "peer", "role": "peer", "failed": remark}
    assert "seconds" in result["contestants"][0]
    assert failures(result) == [f"a case: peer: {remark}"]


def test_a_baseline_that_fails_ends_the_case() -> None:
    with pytest.raises(RuntimeError, match="baseline 'ours' must take part: RuntimeError: out of memory"):
        run(Contestant("ours", "fairtat", broken))


def test_what_does_a_share_of_the_work_is_charged_for_the_whole() -> None:
    def busy(share: float) -> Entrant:
        return Entrant(lambda: sum(range(200_000)), share=share)

    whole, part = run(
        OURS, Contestant("a", "peer", lambda inputs: busy(1.0)), Contestant("b", "peer", lambda inputs: busy(1e-3))
    )["contestants"][1:]
    assert part["seconds"]["median"] > 50 * whole["seconds"]["median"]


def test_a_rehearsal_takes_the_inputs_of_a_rotation_in_turn() -> None:
    seeds: list[int] = []
    ran: list[int] = []
    case = Case("cold", lambda settings, seed: seed, device="cuda", cold=True)
    peer = Contestant("peer", "peer", lambda seed: Entrant(lambda: ran.append(seed)), graph=True)
    benchmark = Benchmark(
        "it", "?", (Contestant("ours", "fairtat", lambda seed: seeds.append(seed) or entrant()), peer),
        {"cuda": "ours"}, lambda seed: equal_to({"a": torch.ones(1)}), "equal", (case,), lambda seed: 8,
    )  # fmt: skip
    run_case(benchmark, case, Settings("cuda", quick=True, rehearsal=True), QUICK)
    assert seeds == [0, 1]
    assert ran[:4] == [0, 1, 0, 1]
