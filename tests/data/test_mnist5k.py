"""The 5,000 MNIST images: shape, balance and scale."""

from __future__ import annotations

import torch

from fairtat.data.mnist5k import load_mnist5k


def test_images_and_labels() -> None:
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
