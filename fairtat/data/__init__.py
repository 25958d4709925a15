"""Labeled images: data sets, stratified splits, batches from memory or from a stream."""

from fairtat.data.augment import AUGMENTATIONS, Augment, make_augment
from fairtat.data.batches import Batch, Batches, Order, batches, num_batches
from fairtat.data.extra import joined, load_extra
from fairtat.data.image_files import Exif
from fairtat.data.registry import DATASETS, code_of, load, load_splits, load_test
from fairtat.data.sets.cifar import load_cifar10, load_cifar100
from fairtat.data.sets.corruptions import CORRUPTED, CORRUPTIONS, EXTRA_CORRUPTIONS, SEVERITIES, load_corrupted
from fairtat.data.sets.folder import load_folder
from fairtat.data.sets.huggingface import load_huggingface
from fairtat.data.sets.npz import load_npz, load_npz_parts
from fairtat.data.sets.parquet import load_parquet
from fairtat.data.sets.tinyimagenet import load_tinyimagenet
from fairtat.data.splits import PublishedSplits, Splits, check_images, hold_out, rows_per_class, stratified_split
from fairtat.data.stream import Data, StreamData, stream_data
from fairtat.data.types import ImageData, Layout, image_data

__all__ = [
    "AUGMENTATIONS",
    "CORRUPTED",
    "CORRUPTIONS",
    "DATASETS",
    "EXTRA_CORRUPTIONS",
    "SEVERITIES",
    "Augment",
    "Batch",
    "Batches",
    "Data",
    "Exif",
    "ImageData",
    "Layout",
    "Order",
    "PublishedSplits",
    "Splits",
    "StreamData",
    "batches",
    "check_images",
    "code_of",
    "hold_out",
    "image_data",
    "joined",
    "load",
    "load_cifar10",
    "load_cifar100",
    "load_corrupted",
    "load_extra",
    "load_folder",
    "load_huggingface",
    "load_npz",
    "load_npz_parts",
    "load_parquet",
    "load_splits",
    "load_test",
    "load_tinyimagenet",
    "make_augment",
    "num_batches",
    "rows_per_class",
    "stratified_split",
    "stream_data",
]
