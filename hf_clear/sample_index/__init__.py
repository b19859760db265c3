"""Carries the index of every sample from the training set into the batch, and checks labels on the way."""

from .._names import SAMPLE_INDEX
from ._collator import IndexCollator
from ._labels import check_labels
from ._loading import IndexedDataset, indexed_dataloader, label_names, num_labels, predicts_tokens

__all__ = [
    "SAMPLE_INDEX",
    "IndexCollator",
    "IndexedDataset",
    "check_labels",
    "indexed_dataloader",
    "label_names",
    "num_labels",
    "predicts_tokens",
]
