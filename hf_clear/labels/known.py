"""The labels of a data set as far as they can be had without making its items, which may decode images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import ConcatDataset, Subset, TensorDataset

_ATTRIBUTES = ("targets", "labels")  # of torchvision's data sets, and of most that people write


def labels_without_items(dataset: Any, names: Sequence[str]) -> list | np.ndarray | None:
    """The labels of a map-style data set, read without asking for an item: no transform runs.

    Looked for are, in this order: one of the columns `names` of a `datasets.Dataset`, as it is stored; the entries
    `names` of a list of dicts; the last tensor of a `TensorDataset`; an attribute `targets` or `labels` with one entry
    a sample. `Subset` and `ConcatDataset` are looked through. A transform may still make other labels of these.

    Args:
        names (`Sequence[str]`): of the label, in order of preference ([`~hf_clear.sample_index.label_names`]).

    Returns:
        `list` or `np.ndarray` with `num_samples` entries: whatever stands there (class numbers, strings, lists, None).
        None if there are none to be had.
    """
    if isinstance(dataset, datasets.Dataset):
        name = next((name for name in names if name in dataset.column_names), None)
        return None if name is None else dataset.with_format(None)[name][:]
    if isinstance(dataset, Subset):
        labels = labels_without_items(dataset.dataset, names)
        return None if labels is None else [labels[index] for index in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        parts = [labels_without_items(part, names) for part in dataset.datasets]
        known = [part for part in parts if part is not None]
        return [label for part in known for label in part] if len(known) == len(parts) else None
    if isinstance(dataset, TensorDataset):
        last = dataset.tensors[-1]
        return None if last.is_floating_point() or last.ndim != 1 else last.tolist()
    if type(dataset) in (list, tuple):
        first = dataset[0] if dataset else None
        name = next((name for name in names if isinstance(first, Mapping) and name in first), None)
        mappings = name is not None and all(isinstance(item, Mapping) for item in dataset)
        return [item.get(name) for item in dataset] if mappings else None
    found = (_entries(dataset, name) for name in _ATTRIBUTES)
    return next((labels for labels in found if labels is not None), None)


def _entries(dataset: Any, name: str) -> list | np.ndarray | None:
    """The attribute `name` of the data set, if it has one entry a sample."""
    try:
        labels = getattr(dataset, name, None)
        if isinstance(labels, torch.Tensor):
            labels = labels.detach().cpu().numpy()
        if not isinstance(labels, (list, tuple, np.ndarray)) or len(labels) != len(dataset):
            return None
        return labels if isinstance(labels, np.ndarray) else list(labels)
    except Exception:  # a property may do anything; then there are none to be had
        return None
