"""The planted faults of tests/mutants.yaml still fit the code that they are planted in."""

from __future__ import annotations

import mutants


def test_every_mutant_is_one_edit_of_a_line_that_is_there() -> None:
    planted = mutants.planted()
    assert len({mutant.name for mutant in planted}) == len(planted) >= 30
    for mutant in planted:
        assert mutants.read(mutants.ROOT / mutant.file).count(mutant.before) == 1, mutant.name
        assert (mutants.ROOT / mutant.tests).exists(), mutant.name
