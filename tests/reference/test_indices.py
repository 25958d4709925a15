"""The range check of class indices."""

from __future__ import annotations

import pytest
import torch

from fairtat.reference.indices import check_range


def test_the_ends_of_the_range_pass() -> None:
    check_range("label", torch.tensor([0, 4, 2]), 5)


@pytest.mark.parametrize(
    ("values", "found"), [([0, 5], "from 0 to 5"), ([-1], "from -1 to -1"), ([9, -(2**62), 3], "to 9")]
)
def test_a_value_outside_is_shown(values: list[int], found: str) -> None:
    with pytest.raises(ValueError, match=rf"label must lie in \[0, 5\), got values .*{found}"):
        check_range("label", torch.tensor(values), 5)
