"""Predictions on every image, and their .npz file, from which every figure of an evaluation can be counted again."""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from fairtat.errors import UserError, did_you_mean
from fairtat.files import DamagedFile, read_checked, sealed_zip

ROBUST = "robust"
"""Stands for the main attack wherever a condition's name is asked for."""

NONE = -1
"""Stands for the predicted class where the logits are not finite and name none."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """The predictions on all images under one condition.

    ``pred`` (N,) int32: the class that the model names, or `NONE`; ``margin`` (N,) float32: the label's logit less the
    largest other one, so above 0 where the model is right, NaN where it names no class; ``attacked`` (N,) bool: whether
    the (last) attack ran on the image.
    """

    pred: np.ndarray
    margin: np.ndarray
    attacked: np.ndarray

    @classmethod
    def blank(cls, samples: int) -> Predictions:
        """Without any condition yet."""
        return cls(np.full(samples, NONE, np.int32), np.full(samples, np.nan, np.float32), np.zeros(samples, bool))

    def copy(self) -> Predictions:
        """A copy with its own arrays."""
        return Predictions(self.pred.copy(), self.margin.copy(), self.attacked.copy())


def worst_of(label: np.ndarray, outcomes: Sequence[Predictions]) -> Predictions:
    """Per sample the predictions with the lowest margin; one that is wrong goes before one that is right."""
    pred, margin = (np.stack([getattr(each, name) for each in outcomes]) for name in ("pred", "margin"))
    order = np.lexsort((margin, pred == label), axis=0)[0]
    columns = np.arange(len(label))
    return Predictions(pred[order, columns], margin[order, columns], np.zeros(len(label), bool))


@dataclass(frozen=True, eq=False)
class Samples:
    """What became of each image under each condition, in the order of evaluation.

    Attributes:
        sample_ids, label: (N,) int64.
        names: K names of conditions; ``primary`` is the one that "robust" refers to.
        pred (K, N) int32, margin (K, N) float32, attacked (K, N) bool: a row for each condition, as in `Predictions`.
        reached (N, C) bool, target_margin (N, C) float32: of a targeted sweep, else None. Whether a point of the ball
            was found that is classified as the column's class, and the largest margin found for it.
    """

    sample_ids: np.ndarray
    label: np.ndarray
    names: tuple[str, ...]
    primary: str
    pred: np.ndarray
    margin: np.ndarray
    attacked: np.ndarray
    reached: np.ndarray | None = None
    target_margin: np.ndarray | None = None

    def __post_init__(self) -> None:
        shape = (len(self.names), len(self.label))
        if any(array.shape != shape for array in (self.pred, self.margin, self.attacked)):
            raise ValueError(f"per-sample outcomes must have shape {shape} (conditions, samples)")
        if self.sample_ids.shape != self.label.shape:
            raise ValueError(f"sample_ids must have shape {self.label.shape} like label, got {self.sample_ids.shape}")

    @classmethod
    def of(
        cls,
        sample_ids: np.ndarray,
        label: np.ndarray,
        outcomes: Mapping[str, Predictions],
        primary: str,
    ) -> Samples:
        """Stack the outcomes of several conditions."""
        return cls(
            sample_ids=sample_ids.astype(np.int64),
            label=label.astype(np.int64),
            names=tuple(outcomes),
            primary=primary,
            pred=np.stack([each.pred for each in outcomes.values()]),
            margin=np.stack([each.margin for each in outcomes.values()]),
            attacked=np.stack([each.attacked for each in outcomes.values()]),
        )

    def __repr__(self) -> str:
        return f"Samples({len(self.label)} images, {', '.join(self.names)})"

    def row(self, name: str) -> int:
        """The row of a condition in the (K, N) arrays; ``UserError`` when there is none of that name."""
        wanted = self.primary if name == ROBUST else name
        if wanted not in self.names:
            raise UserError(f"the evaluation has no condition {name!r}{did_you_mean(name, self.names)}")
        return self.names.index(wanted)

    def correct(self, name: str) -> np.ndarray:
        """(N,) bool: which samples were classified right under the condition."""
        return np.asarray(self.pred_of(name) == self.label)

    def pred_of(self, name: str) -> np.ndarray:
        """(N,) int32: the predictions under the condition."""
        return np.asarray(self.pred[self.row(name)])

    def to_npz(self) -> bytes:
        """An .npz file; ``correct`` (K, N) is stored too, for readers without fairtat."""
        file = io.BytesIO()
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        optional = {name: getattr(self, name) for name in _OPTIONAL if getattr(self, name) is not None}
        np.savez_compressed(
            file,
            conditions=np.array(self.names),
            primary=np.array(self.primary),
            correct=self.pred == self.label,
            **arrays,
            **optional,
        )
        return sealed_zip(file.getvalue())

    @classmethod
    def from_npz(cls, path: Path) -> Samples:
        """Read what ``to_npz`` wrote; ``ValueError`` when the file is damaged or something else."""
        try:
            with np.load(io.BytesIO(read_checked(path)), allow_pickle=False) as file:
                return cls(
                    names=tuple(str(name) for name in file["conditions"]),
                    primary=str(file["primary"]),
                    **{name: file[name] for name in _ARRAYS},
                    **{name: file[name] for name in _OPTIONAL if name in file.files},
                )
        except (DamagedFile, BadZipFile, zlib.error, KeyError, EOFError, TypeError, ValueError) as error:
            raise ValueError(f"{path} holds no per-sample outcomes ({error})") from error


_ARRAYS: Sequence[str] = ("sample_ids", "label", "pred", "margin", "attacked")
_OPTIONAL: Sequence[str] = ("reached", "target_margin")
