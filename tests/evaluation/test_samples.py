from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fairtat.evaluation import Predictions, Samples


def predictions(*pred: int) -> Predictions:
    return Predictions(np.array(pred, np.int32), np.zeros(len(pred), np.float32), np.ones(len(pred), bool))


def samples() -> Samples:
    return Samples.of(
        np.array([5, 6]),
        np.array([0, 1]),
        {"clean": predictions(0, 1), "pgd-20@4/255": predictions(1, 1)},
        "pgd-20@4/255",
    )


def test_names_with_slashes_and_the_targeted_arrays_survive_the_file(tmp_path: Path) -> None:
    reached = np.array([[False, True], [False, False]])
    full = Samples(**{**vars(samples()), "reached": reached, "target_margin": np.ones((2, 2), np.float32)})
    (tmp_path / "s.npz").write_bytes(full.to_npz())
    again = Samples.from_npz(tmp_path / "s.npz")
    assert again.names == ("clean", "pgd-20@4/255")
    assert again.correct("robust").tolist() == [False, True]
    assert again.reached is not None
    assert again.reached.tolist() == reached.tolist()
    assert samples().reached is None


def test_shapes_that_do_not_fit_are_refused() -> None:
    good = vars(samples())
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        Samples(**{**good, "pred": good["pred"][:1]})
    with pytest.raises(ValueError, match="sample_ids"):
        Samples(**{**good, "sample_ids": np.array([1])})
