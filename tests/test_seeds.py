"""Derived seeds: fixed for ever, and different for different uses."""

from __future__ import annotations

import torch

from fairtat.seeds import derive


def test_the_values_never_change() -> None:
    # A change here would silently change every published run.
    assert derive(0, "order", 0) == 2094333682667709378
    assert derive(1, "starts", 7) == 2930413811099757465


def test_uses_and_epochs_do_not_share_seeds() -> None:
    seeds = {derive(seed, use, epoch) for seed in range(5) for use in ("order", "starts") for epoch in range(50)}
    assert len(seeds) == 500
    assert all(0 <= seed < 2**63 for seed in seeds)
    torch.Generator().manual_seed(max(seeds))  # within PyTorch's range
