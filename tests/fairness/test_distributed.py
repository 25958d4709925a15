"""Two and three processes end every epoch with the bits of one: statistics, targets, radii and weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fairness_samples import CLASSES, WEIGHT_OPTIONS, samples
from jobs import ENVIRONMENT
from torch import Tensor
from torch import distributed as dist

from fairtat import ClassStats, FairTAT

EPOCHS = 3
RULES: dict[str, dict[str, Any]] = {"none": {}, **WEIGHT_OPTIONS}


def share(rank: int, world: int, seed: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """The part of one rank in the same samples, of a size that no number of ranks divides."""
    logits, label, ids = samples(seed, n)
    return logits[rank::world], label[rank::world], ids[rank::world]


def validation(rank: int, world: int, seed: int) -> ClassStats:
    logits, label, _ = share(rank, world, seed, 97)
    return ClassStats(CLASSES).update(logits, label).all_reduce()


def train(rank: int, world: int, weights: str) -> dict[str, Any]:
    """Three epochs of four batches, then what a training loop asks for in the next, by sample id."""
    fair = FairTAT(
        CLASSES,
        targets="confusion",
        margins=["G-rob", "T-cfns"],
        weights=weights,
        weight_options=RULES[weights],
        seed=4,
    )
    for epoch in range(EPOCHS):
        for batch in range(4):
            logits, label, ids = share(rank, world, 10 * epoch + batch, 31)
            fair.update(logits, label, fair.sample_targets(label, ids))
            if fair.weight_rule is not None:
                fair.weight_rule.observe_steps((logits[:, 0].abs() * 5).long(), label)
        if fair.needs_validation:
            fair.observe_validation(validation(rank, world, 1000 + epoch), validation(rank, world, 2000 + epoch))
        fair.end_epoch()
    _, label, ids = share(rank, world, 77, 31)
    drawn = fair.sample_targets(label, ids)
    assert drawn is not None
    return {"state": fair.state_dict(), "ids": ids, "target": drawn, "eps": fair.eps_for(label)} | {
        key: getattr(fair, key) for key in ("class_eps", "class_step", "class_weight", "class_robust_weight")
    }


def identical(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(identical(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)


@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_processes_agree_with_one(world: int, tmp_path: Path) -> None:
    """This file, run as a script, is one rank of gloo."""
    command = [sys.executable, __file__, str(world), str(tmp_path)]
    processes = [subprocess.Popen([*command, str(rank)], env=ENVIRONMENT) for rank in range(world)]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0] * world
    finally:
        for process in processes:
            process.kill()
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world)]
    for weights in RULES:
        alone = train(0, 1, weights)
        drawn = zip(alone["ids"].tolist(), alone["target"].tolist(), alone["eps"].tolist(), strict=True)
        by_id = {i: (target, eps) for i, target, eps in drawn}
        for result in results:
            ours = result[weights]
            for key in ("state", "class_eps", "class_step", "class_weight", "class_robust_weight"):
                assert identical(ours[key], alone[key]), (weights, key)
            for i, target, eps in zip(ours["ids"].tolist(), ours["target"].tolist(), ours["eps"].tolist(), strict=True):
                assert by_id.pop(i) == (target, eps)
        assert not by_id
        # One collective an epoch, besides the two of this test's own validation.
        for result in results:
            assert result["collectives"][weights] == EPOCHS * (3 if weights in ("frl", "wat") else 1)


def _rank_main(world: int, folder: Path, rank: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=world)
    calls = 0
    all_reduce = dist.all_reduce

    def counted_all_reduce(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return all_reduce(*args, **kwargs)

    dist.all_reduce = counted_all_reduce
    result: dict[str, Any] = {"collectives": {}}
    for weights in RULES:
        calls = 0
        result[weights] = train(rank, world, weights)
        result["collectives"][weights] = calls
    torch.save(result, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    _rank_main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
