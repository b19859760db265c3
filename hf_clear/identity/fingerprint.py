"""The fingerprint of a data set: what tells, without reading its items, whether it is the same one as before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import datasets
import numpy as np
import torch
from torch.utils.data import ConcatDataset, Dataset, StackDataset, Subset, TensorDataset

from .._typing import MapDataset
from .row_hashes import (
    NO_HASHES,
    NotComparable,
    class_numbers,
    columns_of,
    combine,
    digest,
    hashes_of_arrow,
)

_ROWS = 1000  # read at a time
_FILES = 10_000  # whose sizes are asked for, about
_LABEL_ATTRIBUTES = ("targets", "target")  # of torch Datasets, beside the names that labels have in items
_DEPTH = 4  # of data sets in data sets
_NAMED = 5  # samples in a message


@dataclass
class Fingerprint:
    """What is compared of a data set. Two are equal if their values are, whatever chunks, files or indices hold them.

    Attributes:
        kind (`str`): the name of its class.
        num_samples (`int`): how many there are.
        labels (`str`, *optional*): of the labels in their order; None if they can't be read without reading items.
        inputs (`dict[str, str]`): of each other column in its order; of torch Datasets, of the attributes that hold one
            value a sample.
        rows (`str`): of all samples in any order, each with its label.
        not_compared (`list[str]`): what is not in it, for a message.
        label_values (`np.ndarray` of shape `[num_samples]`, *optional*): if there is one class number a sample.
    """

    kind: str
    num_samples: int
    labels: str | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    rows: str = ""
    not_compared: list[str] = field(default_factory=list)
    label_values: np.ndarray | None = field(default=None, repr=False, compare=False)

    def as_json(self) -> dict[str, Any]:
        """Without `label_values`, for a file."""
        return {name: value for name, value in asdict(self).items() if name != "label_values"}

    def differences(self, earlier: dict[str, Any], earlier_labels: np.ndarray | None = None) -> list[str]:
        """What has changed, for a message; empty if nothing has.

        Args:
            earlier (`dict[str, Any]`): [`as_json`] of the data set before.
            earlier_labels (`np.ndarray` of shape `[num_samples]`, *optional*): its labels, as far as they are known;
                negative if not.
        """
        if earlier["num_samples"] != self.num_samples:
            return [f"the number of samples ({earlier['num_samples']:,} -> {self.num_samples:,})"]
        relabelled = None not in (earlier["labels"], self.labels) and earlier["labels"] != self.labels
        before, now = earlier["inputs"], self.inputs
        is_table = self.kind == earlier["kind"] == "Dataset"  # else attributes come and go
        names = sorted((before.keys() | now.keys()) if is_table else (before.keys() & now.keys()))
        changed = [name for name in names if before.get(name) != now.get(name)]
        if (relabelled or changed) and self.rows and earlier["rows"] == self.rows and before.keys() == now.keys():
            return ["the order of the samples"]
        found = [self._relabelled(earlier_labels)] if relabelled else []
        return found + ([f"the inputs ({', '.join(changed)})"] if changed else [])

    def _relabelled(self, earlier: np.ndarray | None) -> str:
        now = self.label_values
        if earlier is None or now is None or len(earlier) != len(now):
            return "the labels"
        rows = np.flatnonzero((earlier >= 0) & (earlier != now))
        if len(rows) == 0:
            return "the labels"
        unknown = "" if (earlier >= 0).all() else " or more"
        named = ", ".join(f"sample {row}: {earlier[row]} -> {now[row]}" for row in rows[:_NAMED])
        named += ", ..." if len(rows) > _NAMED else ""
        return f"the labels of {len(rows):,}{unknown} of {len(now):,} samples ({named})"


def fingerprint(
    dataset: MapDataset | datasets.Dataset,
    label_names: Sequence[str] = ("labels", "label", "label_ids"),
    keeps: Callable[[str], bool] = lambda column: True,
) -> Fingerprint:
    """Looks at the data that a data set holds. No item is read: no transform runs, and no image is decoded.

    Of a `datasets.Dataset`, the columns as they are stored; of images and sounds that are files, their name and size
    (of more than 10,000, the size of about so many). Of a torch `Dataset`, the attributes that hold one value a sample
    (arrays, tensors, tables, lists), and the data sets in it (`Subset`, `ConcatDataset`, and others). A torch `Dataset`
    with an attribute `fingerprint`, a `str`, is compared by that instead.

    Args:
        dataset (`Dataset`): map-style.
        label_names (`Sequence[str]`): what the labels may be called; the first that is there counts.
        keeps (`Callable`, *optional*): whether a column is used; of a `datasets.Dataset` alone.
    """
    result = Fingerprint(type(dataset).__name__, len(dataset))
    own = getattr(dataset, "fingerprint", None) if not isinstance(dataset, datasets.Dataset) else None
    if isinstance(own, str):
        result.inputs["fingerprint"] = own
        return result
    if isinstance(dataset, datasets.Dataset):
        columns = _columns_of_table(dataset, keeps)
        if dataset.format["type"] == "custom":
            result.not_compared.append("the transform of the data set")
    else:
        columns = _columns(dataset, _DEPTH)
    names = (*label_names, *(() if isinstance(dataset, datasets.Dataset) else _LABEL_ATTRIBUTES))
    # "dataset.labels" is the label column of a data set within.
    label = next((own for name in names for own in columns if name in own.split(".")), None)
    if label is None and isinstance(dataset, TensorDataset):
        *_, last = range(len(dataset.tensors))
        is_class = dataset.tensors[last].ndim == 1 and not dataset.tensors[last].is_floating_point()
        label = f"tensors.{last}" if is_class else None
    if label is not None:
        result.labels = digest(columns[label])
        result.label_values = class_numbers(columns[label])
    result.inputs = {name: digest(columns[name]) for name in sorted(columns) if name != label}
    of_rows = [columns[name] for name in sorted(columns) if len(columns[name]) == len(dataset)]
    result.rows = f"{int(combine(of_rows).sum(dtype=np.uint64)):016x}" if of_rows else ""
    if not result.inputs:
        result.not_compared.append(f"the inputs of a {result.kind}")
    if label is None:
        result.not_compared.append(f"the labels of a {result.kind}")
    return result


def _columns_of_table(dataset: datasets.Dataset, keeps: Callable[[str], bool]) -> dict[str, np.ndarray]:
    names = [name for name in dataset.format["columns"] if keeps(name)]
    if not names:
        return {}
    size_every = max(1, len(dataset) // _FILES)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    used: np.ndarray | None = None
    order: np.ndarray | slice = slice(None)
    if dataset._indices is not None:  # rows are read in the order of the file: the other way takes minutes
        used, order = np.unique(dataset._indices.column(0).to_numpy(), return_inverse=True)
    for begin in range(0, len(dataset.data), _ROWS):
        table = dataset.data.fast_slice(begin, min(_ROWS, len(dataset.data) - begin))
        if used is not None:
            own = used[slice(*np.searchsorted(used, (begin, begin + _ROWS)))] - begin
            table = table.take(own) if len(own) < len(table) else table
        for name in names:
            for chunk in table.column(name).chunks:
                parts[name].append(hashes_of_arrow(chunk, size_every))
    return {name: np.concatenate([NO_HASHES, *own])[order] for name, own in parts.items()}


def _columns(dataset: Any, depth: int) -> dict[str, np.ndarray]:
    """Hashes of what is held of each sample, by name; what can't be compared is left out."""
    if isinstance(dataset, datasets.Dataset):
        return _columns_of_table(dataset, lambda name: True)
    if depth == 0:
        return {}
    if isinstance(dataset, Subset):
        inner, rows = _columns(dataset.dataset, depth - 1), np.asarray(dataset.indices, np.int64)
        whole = len(cast(MapDataset, dataset.dataset))
        return {name: hashes[rows] for name, hashes in inner.items() if len(hashes) == whole}
    if isinstance(dataset, ConcatDataset):
        parts = [_columns(part, depth - 1) for part in dataset.datasets]
        common = [name for name in parts[0] if all(name in part for part in parts)]
        return {name: np.concatenate([part[name] for part in parts]) for name in common}
    held: dict[str, Any]
    if isinstance(dataset, StackDataset):
        stacked = dataset.datasets
        held = stacked if isinstance(stacked, dict) else {str(i): part for i, part in enumerate(stacked)}
    elif isinstance(dataset, TensorDataset):
        held = {f"tensors.{number}": tensor for number, tensor in enumerate(dataset.tensors)}
    elif isinstance(dataset, (list, tuple)):
        held = {"": dataset}
    else:
        held = getattr(dataset, "__dict__", {})
    columns: dict[str, np.ndarray] = {}
    for name, value in held.items():
        if isinstance(value, (Dataset, datasets.Dataset)) and not isinstance(value, torch.utils.data.IterableDataset):
            inner = _columns(value, depth - 1)
        else:
            try:
                inner = columns_of(value, len(dataset))
            except NotComparable:
                continue
        columns |= {".".join(part for part in (name, own) if part) or "rows": hashes for own, hashes in inner.items()}
    return columns
