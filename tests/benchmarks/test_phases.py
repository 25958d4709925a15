"""Phases that fail, hang or have no time left are recorded, and the others go on."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.phases import SKIP, Phase, groups, run_phases


def python(program: str) -> list[str]:
    return [sys.executable, "-S", "-c", program]  # without site-packages, so that it starts at once


def ignored(said: object) -> None:
    """For what a test does not look at."""


def run(
    tmp_path: Path,
    *phases: Phase,
    deadline: float = 60.0,
    record: Callable[[list[dict[str, Any]]], None] = ignored,
    say: Callable[[str], None] = ignored,
) -> list[dict[str, Any]]:
    return run_phases(phases, deadline=deadline, folder=tmp_path, record=record, say=say)


def test_each_verdict_is_recorded_and_the_rest_goes_on(tmp_path: Path) -> None:
    outcomes = run(
        tmp_path,
        Phase("good", python("print('fine')"), 30.0),
        Phase("bad", python("import sys; print('a reason'); sys.exit(3)"), 30.0),
        Phase("hanging", python("import time; print('began', flush=True); time.sleep(60)"), 0.5),
        Phase("absent tool", python(f"print('no such tool'); raise SystemExit({SKIP})"), 30.0),
        Phase("pointless", python("raise SystemExit(1)"), 30.0, skip="nothing to do"),
        Phase("last", python("pass"), 30.0),
    )
    assert [(o["name"], o["outcome"], o.get("detail", "")) for o in outcomes] == [
        ("good", "passed", ""),
        ("bad", "failed", "exit code 3: a reason"),
        ("hanging", "timed out", "after its 0 s"),
        ("absent tool", "skipped", "no such tool"),
        ("pointless", "skipped", "nothing to do"),
        ("last", "passed", ""),
    ]
    assert outcomes[1]["tail"] == "a reason\n"
    assert outcomes[2]["tail"] == "began\n"
    assert "tail" not in outcomes[0]
    assert outcomes[2]["seconds"] >= 0.5


def test_the_record_is_handed_out_after_every_phase(tmp_path: Path) -> None:
    seen: list[list[str]] = []
    run(
        tmp_path,
        *(Phase(name, python("pass"), 30.0) for name in "abc"),
        record=lambda so_far: seen.append([outcome["name"] for outcome in so_far]),
    )
    assert seen == [["a"], ["a", "b"], ["a", "b", "c"]]


def test_after_the_deadline_only_what_always_runs_is_begun(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    touch = python(f"open({str(begun)!r}, 'a').close()")
    outcomes = run(
        tmp_path, Phase("late", touch, 30.0), Phase("tables", python("pass"), 30.0, always=True), deadline=1.0
    )
    assert [o["outcome"] for o in outcomes] == ["no time left", "passed"]
    assert not begun.exists()


def test_a_phase_gets_no_more_than_the_deadline_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.phases.TOO_LITTLE", 0.1)
    begin = time.monotonic()
    (outcome,) = run(tmp_path, Phase("long", python("import time; time.sleep(60)"), 50.0), deadline=1.0)
    assert outcome["outcome"] == "timed out"
    assert time.monotonic() - begin < 30.0


def test_a_phase_that_runs_out_of_time_takes_its_children_with_it(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(pid)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(60)"
    )
    (outcome,) = run(tmp_path, Phase("parent", python(program), 3.0))
    assert outcome["outcome"] == "timed out"
    assert _ends(int(pid.read_text()))


def _ends(pid: int) -> bool:
    """Whether the process, which has been killed, is gone or only waits for a parent to ask."""
    for _ in range(500):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def test_the_product_of_a_phase_is_kept_and_may_fail_it(tmp_path: Path) -> None:
    product = tmp_path / "product"

    def collect() -> dict[str, Any]:
        text = product.read_text()
        if text == "useless":
            raise ValueError("no test passed")
        return {"text": text}

    def writing(text: str, then: str = "pass") -> list[str]:
        return python(f"open({str(product)!r}, 'w').write({text!r}); {then}")

    good, partial, useless = run(
        tmp_path,
        Phase("good", writing("all"), 30.0, collect=collect),
        Phase("partial", writing("half", "raise SystemExit(1)"), 30.0, collect=collect),
        Phase("useless", writing("useless"), 30.0, collect=collect),
    )
    assert (good["outcome"], good["result"]) == ("passed", {"text": "all"})
    assert (partial["outcome"], partial["result"]) == ("failed", {"text": "half"})
    assert (useless["outcome"], useless["detail"]) == ("failed", "no test passed")
    product.unlink()
    (nothing,) = run(tmp_path, Phase("nothing", python("pass"), 30.0, collect=collect))
    assert nothing["outcome"] == "failed"
    assert "No such file" in nothing["detail"]


def test_untimed_neighbours_run_side_by_side(tmp_path: Path) -> None:
    # Each waits for the other's file: one after the other, both would run out of time.
    def meet(mine: str, other: str) -> list[str]:
        return python(
            f"import os, time\nopen({str(tmp_path / mine)!r}, 'w').close()\n"
            f"while not os.path.exists({str(tmp_path / other)!r}): time.sleep(0.01)"
        )

    outcomes = run(
        tmp_path, Phase("a", meet("a", "b"), 20.0, untimed=True), Phase("b", meet("b", "a"), 20.0, untimed=True)
    )
    assert {o["outcome"] for o in outcomes} == {"passed"}


def test_what_is_timed_runs_alone() -> None:
    untimed = [Phase(name, [], 1.0, untimed=True) for name in "abc"]
    timed = [Phase(name, [], 1.0) for name in "xy"]
    made = groups([untimed[0], untimed[1], timed[0], timed[1], untimed[2]])
    assert [[phase.name for phase in group] for group in made] == [["a", "b"], ["x"], ["y"], ["c"]]


def test_an_interrupt_ends_the_running_phase(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    program = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"

    def interrupt(line: str) -> None:
        if line.startswith("short: passed"):
            while not pid.exists() or not pid.read_text():
                time.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(
            tmp_path,
            Phase("long", python(program), 50.0, untimed=True),
            Phase("short", python("pass"), 50.0, untimed=True),
            say=interrupt,
        )
    assert _ends(int(pid.read_text()))


def test_a_phase_sees_its_environment_and_the_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "FROM_OUTSIDE", "1")
    program = "import os, sys; sys.exit(0 if (os.environ['FROM_OUTSIDE'], os.environ['OURS']) == ('1', '2') else 1)"
    (outcome,) = run(tmp_path, Phase("env", python(program), 30.0, {"OURS": "2"}))
    assert outcome["outcome"] == "passed"
