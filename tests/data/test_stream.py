"""Streamed images: the same batches as from memory, workers that live on, and failures that say which image."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fairtat.data import Augment, ImageData, StreamData, batches, image_data, stream_data
from fairtat.data.stream import MemorySource, Reader, free_memory
from fairtat.errors import UserError


class NumberSource:
    """Image i holds the value i in its first pixel and the reading process in the next ones."""

    image_shape = (1, 2, 2)
    dtype = torch.uint8

    def __init__(self, broken: int = -1) -> None:
        self.broken = broken

    def read(self, rows: Sequence[int]) -> Tensor:
        if self.broken in rows:
            raise UserError(f"picture {self.broken}: cannot be read")
        images = torch.zeros(len(rows), 1, 2, 2, dtype=torch.uint8)
        for number, row in enumerate(rows):
            images[number].flatten()[:3] = torch.tensor([row, os.getpid() % 256, os.getpid() // 256 % 256])
        return images


def pictures(samples: int = 23) -> ImageData:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (samples, 3, 8, 6), dtype=torch.uint8, generator=generator)
    return image_data("made", pixels, torch.arange(samples) % 3).take(torch.arange(2, samples))


def streamed(data: ImageData, *, workers: int, placement: str = "stream") -> StreamData:
    source = MemorySource(data.images)
    stream = stream_data("made", source, data.labels, white=data.white, placement=placement, workers=workers)
    return replace(stream, ids=data.ids)


def same(first: StreamData | ImageData, second: StreamData | ImageData, **options: object) -> bool:
    pairs = zip(batches(first, 5, **options), batches(second, 5, **options), strict=True)
    return all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("placement", ["stream", "device", "auto"])
def test_the_same_batches_as_from_memory(workers: int, placement: str) -> None:
    data = pictures()
    stream = streamed(data, workers=workers, placement=placement)
    assert (len(stream), stream.num_classes, stream.image_shape) == (len(data), data.num_classes, data.image_shape)
    for options in ({}, {"seed": 3, "augment": Augment(2)}, {"seed": 4, "drop_last": True, "shard": (1, 3)}):
        assert same(data, stream, **options)
    rows = torch.tensor([7, 0, 11, 2, 19, 4])
    assert same(data.take(rows), stream.take(rows), seed=1)


def test_float_images_stream_too() -> None:
    data = image_data("made", torch.rand(7, 1, 4, 4), torch.arange(7) % 2)
    assert same(data, streamed(data, workers=1), seed=0)


def test_parts_of_a_batch_may_be_empty() -> None:
    data = pictures(4)
    drawn = list(batches(streamed(data, workers=1), 5, shard=(0, 3)))
    assert [tuple(batch.x.shape) for batch in drawn] == [(0, 3, 8, 6)]


def readers_of(data: StreamData) -> set[tuple[int, int]]:
    return {(int(a), int(b)) for batch in batches(data, 1) for _, a, b in [(batch.x * 255).flatten()[:3]]}


def test_workers_live_on_and_are_shared() -> None:
    data = stream_data("n", NumberSource(), torch.arange(8) % 2, placement="stream", workers=2)
    first = readers_of(data)
    assert len(first) == data.reader.workers
    assert readers_of(data) == first
    assert readers_of(data.take(torch.arange(4, 8))) == first  # validation does not start more of them


@pytest.mark.parametrize("placement", ["stream", "device"])
def test_workers_end_with_their_data(placement: str) -> None:
    before = set(multiprocessing.active_children())
    data = stream_data("n", NumberSource(), torch.arange(8) % 2, placement=placement, workers=2)
    list(batches(data, 2))
    workers = set(multiprocessing.active_children()) - before
    if placement == "device":
        assert workers == set()  # all images have been read
    ring = [data]
    ring.append(ring)  # what the garbage collector has to find
    del data, ring
    gc.collect()
    assert [worker.exitcode for worker in workers] == [0] * len(workers)  # told to go, not killed


def test_stopping_early_and_drawing_from_two_at_once() -> None:
    data = stream_data("n", NumberSource(), torch.arange(40) % 2, placement="stream", workers=2)

    def values(drawn) -> list[int]:
        return [int(batch.x[0, 0, 0, 0] * 255 + 0.5) for batch in drawn]

    started = batches(data, 1)
    next(started)
    assert values(batches(data, 1)) == list(range(40))  # beside the one that has been started
    assert values(started) == list(range(1, 40))
    stopped = batches(data, 1)
    next(stopped)
    del stopped
    assert values(batches(data, 1)) == list(range(40))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_read_is_named(workers: int) -> None:
    data = stream_data("n", NumberSource(broken=6), torch.arange(8) % 2, placement="stream", workers=workers)
    drawn = batches(data, 2)
    assert [len(next(drawn).y) for _ in range(3)] == [2, 2, 2]
    with pytest.raises(UserError) as caught:
        next(drawn)
    assert str(caught.value) == "picture 6: cannot be read"
    assert len(list(batches(data.take(torch.arange(6)), 2))) == 3  # the workers go on


@pytest.mark.fault(
    "a worker process that reads images dies",
    "one line that names the data set; the next pass starts new workers",
)
def test_a_worker_that_dies_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    # PyTorch's own handler of the signal would raise in whichever line runs when it comes.
    monkeypatch.setattr("torch.utils.data._utils.signal_handling._error_if_any_worker_fails", lambda: None)
    data = stream_data("slides", NumberSource(), torch.arange(64) % 2, placement="stream", workers=1)
    drawn = batches(data, 1)
    low, high = (int(v) for v in (next(drawn).x.flatten() * 255 + 0.5)[1:3])
    children = [process.pid for process in multiprocessing.active_children() if process.pid is not None]
    victim = next(pid for pid in children if pid % 256 == low and pid // 256 % 256 == high)
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(UserError, match=r"^slides: a process that reads images died \(.+\); fewer data.workers"):
        list(drawn)
    assert len(list(batches(data, 8))) == 8  # new ones are started


def test_the_global_generator_is_not_touched() -> None:
    before = torch.get_rng_state()
    list(batches(streamed(pictures(), workers=1), 5, seed=3))
    assert torch.equal(torch.get_rng_state(), before)


class CountingSource(NumberSource):
    reads = 0

    def read(self, rows: Sequence[int]) -> Tensor:
        self.reads += len(rows)
        return super().read(rows)


@pytest.mark.parametrize(
    ("placement", "free", "reads"),
    [("device", 0, 10), ("auto", 160, 10), ("auto", 159, 30), ("stream", 10**9, 30)],
)
def test_images_are_kept_where_they_fit(placement: str, free: int, reads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # 10 images of 4 bytes, of which `auto` wants to see four times as much free.
    monkeypatch.setattr("fairtat.data.stream.free_memory", lambda device: free)
    source = CountingSource()
    data = stream_data("n", source, torch.arange(10) % 2, placement=placement, workers=0)
    for _ in range(3):
        list(batches(data, 4))
    assert source.reads == reads


def test_free_memory_is_that_of_the_machine() -> None:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < free_memory(torch.device("cpu")) <= pages


def test_labels_are_checked() -> None:
    with pytest.raises(UserError, match=r"n: labels lie in \[0, 3\]; expected 0 to 1"):
        stream_data("n", NumberSource(), torch.tensor([0, 1, 3]), class_names=("a", "b"))


def test_a_reader_can_be_copied_to_another_process() -> None:
    reader = Reader("n", MemorySource(torch.zeros(3, 1, 2, 2, dtype=torch.uint8)), workers=1)
    list(reader.read([torch.tensor([0])]))
    copy = pickle.loads(pickle.dumps(reader))
    assert [tuple(x.shape) for x in copy.read([torch.tensor([0, 2])])] == [(2, 1, 2, 2)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("placement", ["stream", "device"])
def test_a_gpu_gets_the_same_batches(placement: str) -> None:
    data = pictures(200)
    stream = streamed(data, workers=2, placement=placement).to("cuda")
    options = {"seed": 5, "augment": Augment(2)}
    for one, other in zip(batches(data, 16, **options), batches(stream, 16, **options), strict=True):
        assert other.x.is_cuda
        assert all(torch.equal(a, b.cpu()) for a, b in zip(one, other, strict=True))
