"""Batches: every sample once an epoch, in an order that the seed fixes, carrying its own label and id."""

from __future__ import annotations

import pytest
import torch

from fairtat.data import ImageData, batches, image_data, num_batches


@pytest.fixture
def data() -> ImageData:
    pixels = torch.arange(23, dtype=torch.uint8).reshape(23, 1, 1, 1).expand(23, 1, 2, 3)
    whole = image_data("made", pixels, torch.arange(23) % 3)
    return whole.take(torch.arange(1, 23))  # ids differ from positions


@pytest.mark.parametrize("batch_size", [1, 5, 11, 22, 100])
@pytest.mark.parametrize("seed", [None, 0, 7])
def test_an_epoch_visits_every_sample_once(data: ImageData, batch_size: int, seed: int | None) -> None:
    drawn = list(batches(data, batch_size, seed=seed))
    assert len(drawn) == num_batches(len(data), batch_size)
    assert sorted(torch.cat([batch.ids for batch in drawn]).tolist()) == list(range(1, 23))
    for batch in drawn:
        assert batch.x.dtype == torch.float32
        assert torch.equal(batch.y, batch.ids % 3)
        assert torch.equal(batch.x, (batch.ids / 255).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 3))


def test_order_depends_on_the_seed_alone(data: ImageData) -> None:
    def order(seed: int | None, batch_size: int) -> list[int]:
        return torch.cat([batch.ids for batch in batches(data, batch_size, seed=seed)]).tolist()

    first = order(5, 4)
    torch.manual_seed(1234)
    assert order(5, 9) == first
    assert order(6, 4) != first
    assert order(None, 4) == list(range(1, 23))


def test_drop_last(data: ImageData) -> None:
    assert [len(batch.y) for batch in batches(data, 5, seed=0, drop_last=True)] == [5, 5, 5, 5]
    assert [len(batch.y) for batch in batches(data, 5, seed=0)] == [5, 5, 5, 5, 2]
    assert num_batches(22, 5, drop_last=True) == 4


def test_the_global_generator_is_not_touched(data: ImageData) -> None:
    before = torch.get_rng_state()
    list(batches(data, 5, seed=3))
    assert torch.equal(torch.get_rng_state(), before)


def test_batch_size_must_be_positive(data: ImageData) -> None:
    with pytest.raises(ValueError, match="batch_size is 0; expected 1 or more"):
        next(batches(data, 0))
