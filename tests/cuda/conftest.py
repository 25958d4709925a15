"""Cores whose CUDA device is the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from emulated_cuda import build, use


@pytest.fixture(scope="session")
def emulated_core(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    return build(tmp_path_factory.mktemp("emulated"))


@pytest.fixture(scope="session")
def recorded_core(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The same, and every access to memory is written down."""
    return build(tmp_path_factory.mktemp("recorded"), record=True)


@pytest.fixture
def emulated(emulated_core: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    use(emulated_core, monkeypatch)
    generator_state = torch.get_rng_state()
    yield
    torch.set_rng_state(generator_state)
