"""Labelled images on the device: data sets, stratified splits, batches."""

from fairtat.data.batches import Batch, batches, num_batches
from fairtat.data.npz import load_npz
from fairtat.data.registry import DATASETS, load, load_splits
from fairtat.data.splits import stratified_split
from fairtat.data.types import ImageData, Splits, image_data

__all__ = [
    "DATASETS",
    "Batch",
    "ImageData",
    "Splits",
    "batches",
    "image_data",
    "load",
    "load_npz",
    "load_splits",
    "num_batches",
    "stratified_split",
]
