from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import distributed as dist

from fairtat.fairness._collective import sum_over_processes


def test_a_single_process_changes_nothing() -> None:
    buffer = torch.arange(3)
    sum_over_processes([buffer])
    assert buffer.tolist() == [0, 1, 2]


def test_all_buffers_go_in_one_collective_each_to_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def doubled(tensor: torch.Tensor, **_: Any) -> None:
        calls.append(tensor.numel())
        tensor.mul_(2)

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "all_reduce", doubled)
    a, b = torch.arange(6).view(2, 3), torch.arange(10, 18).view(4, 2).t()
    expected = [(2 * a).tolist(), (2 * b).tolist()]
    sum_over_processes([a, b])
    assert [a.tolist(), b.tolist()] == expected
    assert calls == [14]


def test_floats_are_refused() -> None:
    """Their sum would depend on the order in which the processes' parts are added."""
    with pytest.raises(TypeError, match=r"buffers must be int64, got \['torch.int64', 'torch.float64'\]"):
        sum_over_processes([torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.float64)])
