"""The backends of a CPU, by name, and a compiler that has seen nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from op_calls import NAMES


@pytest.fixture(params=NAMES)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
