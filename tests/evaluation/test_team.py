"""Processes that share an evaluation: the same bits as one, and nothing lost but a batch."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairtat.errors import UserError
from fairtat.evaluation import Evaluation, evaluate
from fairtat.evaluation.cache.team import Team

Data = tuple[Tensor, Tensor]
ASKED: dict[str, Any] = {"attacks": ["pgd-3", "fgsm+cw-3"], "eps": 0.04, "eps_sweep": [0.02, 0.04], "targeted": "pgd-2"}


def together(net: nn.Module, data: Data, size: int, **options: Any) -> list[Evaluation]:
    """Evaluate with ``size`` threads in the place of processes."""
    import copy

    barrier, told = threading.Barrier(size), [None] * size
    found: list[Any] = [None] * size

    def work(rank: int) -> None:
        def gather(value: Any) -> list[Any]:
            told[rank] = value
            barrier.wait(60)
            everyone = copy.deepcopy(told)
            barrier.wait(60)
            return everyone

        try:
            found[rank] = evaluate(copy.deepcopy(net), *data, team=Team(rank, size, gather), **{**ASKED, **options})
        except BaseException:
            barrier.abort()
            raise

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def assert_same(one: Evaluation, other: Evaluation) -> None:
    assert {**one.to_dict(), "source": {}} == {**other.to_dict(), "source": {}}
    assert one.samples is not None
    assert other.samples is not None
    for name in ("pred", "margin", "attacked", "reached", "target_margin"):
        assert np.asarray(getattr(one.samples, name)).tobytes() == np.asarray(getattr(other.samples, name)).tobytes()


@pytest.mark.parametrize(("size", "images", "batch_size"), [(2, 53, 10), (3, 53, 16), (3, 2, 1), (2, 5, 100)])
def test_processes_give_the_bits_of_one(
    net: nn.Module, data: Data, tmp_path: Path, size: int, images: int, batch_size: int
) -> None:
    few = (data[0][:images], data[1][:images])
    alone = evaluate(net, *few, batch_size=batch_size, **ASKED)
    for found in together(net, few, size, batch_size=batch_size, cache=tmp_path / "parts"):
        assert_same(found, alone)
    # Kept in whole files, which a single process reads too.
    assert not list((tmp_path / "parts").glob("*.*.npz"))
    again = evaluate(net, *few, batch_size=batch_size, cache=tmp_path / "parts", **ASKED)
    assert again.worked_out == ()
    assert_same(again, alone)


def test_a_budget_of_nothing_says_so(net: nn.Module, data: Data) -> None:
    with pytest.raises(UserError, match="budget was over before all clean images"):
        evaluate(net, *data, attacks=["pgd-3"], eps=0.04, budget=0.0)


def test_other_images_are_refused(net: nn.Module, data: Data) -> None:
    other = torch.flip(data[0], [0])

    def gather(value: Any) -> list[Any]:
        return [value, ("m", "d", "l")]

    with pytest.raises(UserError, match="different"):
        evaluate(net, other, data[1], attacks=["fgsm"], eps=0.04, team=Team(0, 2, gather))
