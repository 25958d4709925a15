"""Batches: every sample once an epoch, in an order that the seed fixes, carrying its own label and id."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fairtat.data import Augment, ImageData, batches, image_data, num_batches
from fairtat.errors import UserError


@pytest.fixture
def data() -> ImageData:
    pixels = torch.arange(23, dtype=torch.uint8).reshape(23, 1, 1).expand(23, 2, 3)
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


def pictures(samples: int = 23, shape: tuple[int, int, int] = (3, 9, 7)) -> ImageData:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (samples, *shape), dtype=torch.uint8, generator=generator)
    return image_data("made", pixels, torch.arange(samples) % 3)


@pytest.mark.parametrize("augment", [None, Augment(2)])
@pytest.mark.parametrize("processes", [2, 3, 8])
def test_the_processes_parts_make_up_the_batch(processes: int, augment: Augment | None) -> None:
    data = pictures()
    whole = list(batches(data, 10, seed=4, augment=augment))
    parts = [list(batches(data, 10, seed=4, augment=augment, shard=(r, processes))) for r in range(processes)]
    for number, batch in enumerate(whole):
        mine = [part[number] for part in parts]
        sizes = [len(part.y) for part in mine]
        assert max(sizes) - min(sizes) <= 1
        for joined, expected in zip(map(torch.cat, zip(*mine, strict=True)), batch, strict=True):
            assert torch.equal(joined, expected)


def test_an_image_is_augmented_the_same_in_every_batch_size_and_process() -> None:
    data = pictures()

    def by_id(batch_size: int, seed: int, **options: tuple[int, int]) -> dict[int, torch.Tensor]:
        drawn = batches(data, batch_size, seed=seed, augment=Augment(3), **options)
        return {int(i): x for batch in drawn for i, x in zip(batch.ids, batch.x, strict=True)}

    first = by_id(23, 7)
    small, second_process = by_id(4, 7), by_id(10, 7, shard=(1, 2))
    assert all(torch.equal(first[i], x) for i, x in small.items())
    assert all(torch.equal(first[i], x) for i, x in second_process.items())
    assert len(small) == 23
    another_epoch = by_id(23, 8)
    assert sum(not torch.equal(first[i], x) for i, x in another_epoch.items()) > 15


def test_augmentation_leaves_the_order_alone_and_scales_exactly() -> None:
    data = pictures()
    plain = next(batches(data, 23, seed=2))
    augmented = next(batches(data, 23, seed=2, augment=Augment(0)))
    assert torch.equal(plain.ids, augmented.ids)
    mirrored = plain.x.flip(3)
    for x, as_it_was, other in zip(augmented.x, plain.x, mirrored, strict=True):
        assert torch.equal(x, as_it_was) or torch.equal(x, other)
    np.testing.assert_array_equal(plain.x.numpy(), data.images[plain.ids].numpy().astype(np.float32) / np.float32(255))


def test_waiting_is_measured() -> None:
    drawn = batches(pictures(), 5)
    assert len(drawn) == 5
    assert drawn.waited == 0
    next(drawn)
    once = drawn.waited
    assert once > 0
    list(drawn)
    assert drawn.waited > once


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"shard": (2, 2)}, ValueError, r"shard is \(2, 2\); expected \(rank, processes\)"),
        ({"shard": (-1, 2)}, ValueError, r"shard is \(-1, 2\)"),
        ({"augment": Augment(1)}, ValueError, "augment is given and seed is None"),
        ({"augment": Augment(7), "seed": 0}, UserError, "data.pad is 7; expected 0 to 6 for images of 9x7"),
    ],
)
def test_wrong_arguments_are_told_at_once(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        batches(pictures(), 5, **options)
