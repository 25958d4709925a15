"""The digits data set against scikit-learn's own arrays."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits as sklearn_digits

from fairtat.data.digits import load_digits


def test_values_are_those_of_sklearn() -> None:
    data = load_digits()
    bunch = sklearn_digits()
    assert data.images.dtype == torch.uint8
    assert data.image_shape == (1, 8, 8)
    assert data.class_names == tuple("0123456789")
    np.testing.assert_array_equal(data.floats(data.images)[:, 0].numpy(), (bunch.images / 16).astype(np.float32))
    np.testing.assert_array_equal(data.labels.numpy(), bunch.target)
    assert load_digits() is data
