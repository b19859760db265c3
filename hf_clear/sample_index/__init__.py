"""Carries the index of every sample from the training set into the batch, and checks labels on the way."""

from .._names import SAMPLE_INDEX
from ._collator import IndexCollator
from ._labels import check_labels, check_one_class
from ._loading import IndexedDataset, indexed_dataloader, label_names, num_labels, predicts_one_class, predicts_tokens

__all__ = [
    "SAMPLE_INDEX",
    "IndexCollator",
    "IndexedDataset",
    "check_labels",
    "check_one_class",
    "indexed_dataloader",
    "label_names",
    "num_labels",
    "predicts_one_class",
    "predicts_tokens",
]
