"""The bundled data sets: digits against scikit-learn's own arrays; shape, balance and scale of mnist5k."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits as sklearn_digits

from fairtat.data.sets import bundled
from fairtat.data.sets.bundled import load_digits, load_mnist5k


@pytest.fixture
def loaded_anew() -> Iterator[None]:
    load_digits.cache_clear()
    yield
    load_digits.cache_clear()


@pytest.mark.usefixtures("loaded_anew")
@pytest.mark.parametrize("found", [True, False], ids=["the file", "the library"])
def test_values_are_those_of_sklearn(monkeypatch: pytest.MonkeyPatch, found: bool) -> None:
    if not found:
        monkeypatch.setattr(bundled, "find_spec", lambda name: None)
    data = load_digits()
    bunch = sklearn_digits()
    assert data.images.dtype == torch.uint8
    assert data.image_shape == (1, 8, 8)
    assert data.class_names == tuple("0123456789")
    np.testing.assert_array_equal(data.floats(data.images)[:, 0].numpy(), (bunch.images / 16).astype(np.float32))
    np.testing.assert_array_equal(data.labels.numpy(), bunch.target)
    assert load_digits() is data


def test_mnist5k() -> None:
    data = load_mnist5k()
    assert data.images.dtype == torch.uint8
    assert data.images.shape == (5000, 1, 28, 28)
    assert torch.bincount(data.labels).tolist() == [500] * 10
    floats = data.floats(data.images)
    assert float(floats.max()) == 1.0
    # MNIST's well-known mean; a wrong scale or a wrong reshape of the columns would show here.
    assert abs(float(floats.mean()) - 0.1307) < 0.005
    # Digits are centred: the border is black.
    assert float(floats[:, :, 0].max()) < 0.5
    assert load_mnist5k() is data
