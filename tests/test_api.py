"""What `import fairtat` offers."""

from __future__ import annotations

import subprocess
import sys

import pytest

import fairtat
import fairtat.evaluation
import fairtat.training


def test_every_public_name_is_there_and_listed() -> None:
    assert dir(fairtat) == fairtat.__all__ == sorted(fairtat.__all__)
    for name in fairtat.__all__:
        assert getattr(fairtat, name) is not None


def test_names_that_are_imported_late_are_those_of_their_packages() -> None:
    assert fairtat.evaluate is fairtat.evaluation.evaluate
    assert fairtat.load_run is fairtat.training.load_run


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'fairtat' has no attribute 'evaluat'"):
        _ = fairtat.evaluat


def test_late_names_cost_nothing_at_import() -> None:
    program = "import fairtat, sys; print([m for m in ('fairtat.evaluation', 'fairtat.training') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_beyond_torch_the_import_loads_fairtat_alone() -> None:
    program = (
        "import sys, torch; before = set(sys.modules); import fairtat; new = set(sys.modules) - before; "
        "print(sorted({m.partition('.')[0] for m in new}), len(new))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    packages, number = done.stdout.strip().rsplit(" ", 1)
    assert packages == "['fairtat']"
    assert int(number) <= 110  # about a millisecond each
