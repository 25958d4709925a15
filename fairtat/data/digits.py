"""The 1,797 handwritten digits that scikit-learn ships: 1 x 8 x 8, 17 grey levels."""

from __future__ import annotations

from functools import lru_cache

from fairtat.data.types import ImageData, image_data
from fairtat.optional import optional_import

__all__ = ["load_digits"]


@lru_cache(maxsize=1)
def load_digits() -> ImageData:
    """sklearn digits, grey levels 0..16 kept as uint8.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI (1998).

    Raises:
        UserError: scikit-learn is not installed.
    """
    datasets = optional_import("sklearn.datasets", purpose="the digits data set")
    bunch = datasets.load_digits()
    return image_data("digits", bunch.images.astype("uint8"), bunch.target.astype("int64"), white=16)
