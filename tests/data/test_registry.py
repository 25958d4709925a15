"""Data sets by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fairtat.data import load, load_splits
from fairtat.errors import UserError


def test_names_and_files(tmp_path: Path) -> None:
    assert load("digits").name == "digits"
    file = tmp_path / "mine.npz"
    np.savez(file, images=np.zeros((12, 4, 4), np.uint8), labels=np.arange(12) % 2)
    assert load(file).name == str(file)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no data set is called 'digts'; did you mean 'digits'\?"):
        load("digts")


def test_load_splits_uses_its_shares() -> None:
    splits = load_splits("digits", val=0.1, test=0.3, seed=1)
    assert len(splits.train) + len(splits.val) + len(splits.test) == 1797
    assert abs(len(splits.test) - 0.3 * 1797) <= 5
    assert abs(len(splits.val) - 0.1 * 1797) <= 5
