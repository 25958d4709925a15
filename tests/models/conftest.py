"""timm, where it is installed."""

from __future__ import annotations

from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def timm() -> ModuleType:
    """timm, or a skip that says what is missing."""
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    return pytest.importorskip("timm", reason="timm is not installed")
