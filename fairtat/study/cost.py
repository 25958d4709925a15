"""What training costs, counted: seconds depend on the machine and on what else it does."""

from __future__ import annotations

from dataclasses import replace

import torch

from fairtat.data import batches
from fairtat.engines.operations import OperationCount
from fairtat.training.config import TrainConfig
from fairtat.training.distributed import World
from fairtat.training.setup import make_trainer

__all__ = ["passes_of_a_step"]

_IMAGES = 8  # of the step that is counted


def passes_of_a_step(config: TrainConfig) -> float | None:
    """What the first step of a run costs per image, in passes of its model forward.

    Operations are counted in convolutions and products of matrices, of the attack, the training pass, a teacher and
    whatever else the step does, on the CPU and on few images. A pass back to the images costs one, so PGD of K steps
    and a training pass cost about ``2 * K + 3``. None for a model that holds neither: there is nothing to count by.

    Raises:
        UserError: as `train` before its first step.
    """
    attack = replace(config.attack, engine="eager")
    config = replace(
        config, attack=attack, device="cpu", batch_size=_IMAGES, accumulate=1, amp="none", compile=False, output=None
    )
    threads = torch.get_num_threads()
    try:
        trainer = make_trainer(config, torch.device("cpu"), World())
        step, forward = OperationCount(), OperationCount()
        with step:
            next(trainer.train_steps())
        x = next(batches(trainer.splits.train, _IMAGES)).x
        with forward, torch.no_grad():
            trainer.model.eval()(x)
    finally:
        torch.set_num_threads(threads)
    return step.total / forward.total if forward.total else None
