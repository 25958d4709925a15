"""Philox4x32-10 in PyTorch against the vectors that its authors publish."""

from __future__ import annotations

import pytest
import torch
from philox_vectors import KNOWN

from fairtat.reference.philox import RADIUS_POSITION, TARGET_POSITION, element_normals, element_words, philox4x32


@KNOWN
@pytest.mark.parametrize("signed", [False, True])
def test_the_published_vectors(counter: tuple[int, ...], key: int, expected: tuple[int, ...], signed: bool) -> None:
    position, stream, low, high = counter
    sample_id = (high << 32 | low) - (2**64 if high >= 2**31 else 0)
    seed = key - 2**64 if signed and key >= 2**63 else key  # op schemas hold the seed as a signed number
    words = philox4x32(torch.tensor([position]), stream, torch.tensor([sample_id]), seed)
    assert tuple(int(word) for word in words) == expected


def test_element_words_take_the_lanes_in_order() -> None:
    ids = torch.tensor([3, -4])
    words = element_words(10, 6, ids, 99)
    for row, sample_id in enumerate(ids):
        for element in range(10):
            lanes = philox4x32(torch.tensor([element // 4]), 6, sample_id[None], 99)
            assert int(words[row, element]) == int(lanes[element % 4])


def test_no_image_reaches_the_reserved_positions() -> None:
    # The last counter of the largest image, 2**33 elements and 32 GB in float32, lies below both.
    assert 2**33 // 4 - 1 < RADIUS_POSITION < TARGET_POSITION < 2**32


def test_normals_are_standard_and_do_not_depend_on_the_length() -> None:
    z = element_normals(4001, 0, torch.tensor([5, 6]), 1)
    assert torch.equal(element_normals(7, 0, torch.tensor([5, 6]), 1), z[:, :7])
    n = z.numel()
    for power, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        spread = {1: 1.0, 2: 2.0, 3: 15.0, 4: 96.0}[power] ** 0.5  # of z**power
        assert abs(float(z.pow(power).mean()) - moment) < 4.5 * spread / n**0.5
    # Box-Muller makes them in pairs, which must not be correlated.
    assert abs(float((z[:, 0:4000:2] * z[:, 1:4000:2]).mean())) < 4.5 / (n / 2) ** 0.5
