"""Training in several processes, an epoch whenever it is asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import distributed as dist
from torch import multiprocessing


def epochs(data: str, model: str, ranks: int) -> Callable[[], None]:
    """What trains one epoch of FAIR-TAT in ``ranks`` processes of one thread each, which end with this one.

    The global batch is the same for any number of them.
    """
    context = multiprocessing.get_context("spawn")
    store = Path(tempfile.mkdtemp(), "store")
    ends: list[Connection] = []
    for rank in range(ranks):
        ours, theirs = context.Pipe()
        context.Process(target=_rank, args=(data, model, rank, ranks, store, theirs), daemon=True).start()
        theirs.close()  # so that a process that dies is an error here, and not a wait
        ends.append(ours)

    def epoch() -> None:
        for end in ends:
            end.send(None)
        for end in ends:
            end.recv()

    epoch()  # with the time that starting takes
    return epoch


def _rank(data: str, model: str, rank: int, ranks: int, store: Path, asked: Connection) -> None:
    from fairtat import models
    from fairtat.data import load_splits
    from fairtat.training import Trainer, from_dict
    from fairtat.training.distributed import connect

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store.as_uri(), rank=rank, world_size=ranks)
    splits = load_splits(data, seed=0)
    channels, height, width = splits.train.image_shape
    torch.manual_seed(0)
    network = models.build(model, splits.train.num_classes, channels, (height, width))
    fairness = {"targets": "cfps", "margins": "G-rob"}
    config = from_dict({"attack": {"engine": "eager"}, "fairness": fairness, "batch_size": 128, "device": "cpu"})
    with connect(torch.device("cpu")) as world:
        trainer = Trainer(config, splits, network, world=world)
        while True:
            try:
                asked.recv()
            except EOFError:  # nobody is left to ask
                return
            for _ in trainer.train_steps():
                pass
            trainer.fair.end_epoch()
            trainer.epoch += 1
            asked.send(None)
