"""Rows of a batch beside the items that they should be made of."""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Hashable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import torch

_POINTS = 32  # of an image that are looked at in every batch
_TOLERANCE: dict[str, Any] = {"rtol": 1e-2, "atol": 1e-3, "equal_nan": True}  # half precision is no other image


def parts_of(item: Any) -> Mapping[Hashable, Any]:
    """An item's entries by name; of a tuple or list, by position; of another object, its attributes."""
    if isinstance(item, Mapping):
        return item
    if isinstance(item, (tuple, list)):
        return dict(enumerate(item))
    return getattr(item, "__dict__", {})


def copied(item: Any, is_deep: bool = False) -> Any:
    """A dict, or another mapping, of the same entries, which a collator may change; anything else is the item itself.

    Args:
        is_deep (`bool`, *optional*): whether lists, tensors and arrays in it are copied as well.
    """
    if not isinstance(item, MutableMapping):
        return item
    if not is_deep:
        return dict(item) if type(item) is dict else copy.copy(item)
    item = copied(item)
    for name, value in list(item.items()):
        item[name] = _copied_value(value)
    return item


def _copied_value(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if type(value) is list:
        is_nested = value and isinstance(value[0], (list, torch.Tensor, np.ndarray, MutableMapping))
        return [_copied_value(entry) for entry in value] if is_nested else list(value)
    return copied(value, is_deep=True)


def fields_of(batch: Mapping[str, Any], num_rows: int) -> dict[str, Any]:
    """What of a batch has one row a sample."""
    fields = {}
    for name, value in batch.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            value = torch.from_numpy(value)
        is_table = isinstance(value, torch.Tensor) and value.ndim > 0 and not (value.is_sparse or value.is_nested)
        if (is_table or isinstance(value, (list, tuple))) and len(value) == num_rows:
            fields[name] = value
    return fields


def count_rows(batch: Mapping[str, Any], label_names: Sequence[str]) -> int | None:
    """How many samples a batch has: labels, token ids or whatever comes first."""
    for name in (*label_names, "input_ids", *batch):
        value: Any = batch.get(name)
        if isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) > 0:
            return len(value)
    return None


def scalar(value: Any) -> int | float | str | None:
    """The value itself if it is a number or a string, also in a tensor or an array without dimension; else None."""
    if isinstance(value, (torch.Tensor, np.ndarray, np.generic)):
        value = value.item() if getattr(value, "ndim", 0) == 0 else None
    return value if isinstance(value, (int, float, str)) else None


def same(first: Any, second: Any) -> bool:
    """Equal, up to rounding."""
    if isinstance(first, np.ndarray):
        first = torch.from_numpy(first) if first.dtype.kind in "biuf" else first.tolist()
    if isinstance(second, np.ndarray):
        second = torch.from_numpy(second) if second.dtype.kind in "biuf" else second.tolist()
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        if first.shape != second.shape or first.dtype != second.dtype:
            return False
        if first.is_floating_point():
            return torch.allclose(first.float(), second.float(), rtol=1e-4, atol=1e-5, equal_nan=True)
        return torch.equal(first, second)
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    try:
        return bool(first == second)
    except Exception:  # whatever a comparison of strangers raises
        return False


def same_row(first: Any, second: Any) -> bool:
    """[`same`] for rows of two batches, which may be padded to other lengths."""
    if getattr(first, "shape", None) == getattr(second, "shape", None):
        return same(first, second)
    if first.ndim == second.ndim == 1:
        shorter, longer = sorted((first.tolist(), second.tolist()), key=len)
        return _is_padded(longer, shorter)
    return first.ndim == second.ndim  # who can tell


def matches(row: Any, value: Any) -> bool | None:
    """Whether a row of a batch is the value of an item: the same array, or the same sequence with padding on one side,
    or cut off on one side. None if that can't be told."""
    row, value = _array(row), _array(value)
    if row is None or value is None or row.ndim != value.ndim or row.ndim == 0:
        return None
    if row.ndim == 1:
        return _is_padded(row.tolist(), value.tolist())
    return torch.allclose(row.float(), value.float(), **_TOLERANCE) if row.shape == value.shape else None


def agrees_mostly(row: Any, value: Any) -> bool:
    """Whether at least half of an array is as in the item: a broken pixel was mended, say."""
    row, value = _array(row), _array(value)
    is_table = row is not None and value is not None and row.ndim > 1 and row.shape == value.shape
    return is_table and bool(torch.isclose(row.float(), value.float(), **_TOLERANCE).float().mean() >= 0.5)


def all_match(field: Any, values: Sequence[Any]) -> list[bool | None]:
    """[`matches`] for each row and the item of its place; of arrays, a few points are compared."""
    if isinstance(field, torch.Tensor) and field.ndim == 2:
        return [
            None if (own := _list(value)) is None else _is_padded(row, own)
            for row, value in zip(field.tolist(), values)
        ]
    points: list[torch.Tensor | None] = [None]
    if isinstance(field, torch.Tensor) and field.ndim > 2 and len(values):
        step = max(field[0].numel() // _POINTS, 1) | 1
        points = [_points(value, field.shape[1:], step) for value in values]
    known = [of_item for of_item in points if of_item is not None]
    if len(known) < len(points):
        return [matches(row, value) for row, value in zip(field, values)]
    own = field.reshape(len(values), -1)[:, ::step].float()
    return torch.isclose(own, torch.stack(known), **_TOLERANCE).all(dim=1).tolist()


def _points(value: Any, shape: torch.Size, step: int) -> torch.Tensor | None:
    """Every `step`-th number of an array of this shape; None if it has another."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return torch.as_tensor(value).reshape(-1)[::step].float() if value.shape == shape else None
    try:
        numbers = [functools.reduce(operator.getitem, place, value) for place in _places(shape, step)]
        return torch.tensor(numbers, dtype=torch.float32)
    except (TypeError, ValueError, LookupError):
        return None


@functools.cache
def _places(shape: torch.Size, step: int) -> list[tuple[int, ...]]:
    axes = np.unravel_index(np.arange(0, shape.numel(), step), shape)
    return list(zip(*(axis.tolist() for axis in axes)))


def _is_padded(row: list, value: list) -> bool:
    size, width = len(value), len(row)
    if size >= width:
        return row == value[:width] or row == value[size - width :]
    right, left = row[size:], row[: width - size]  # where the padding is
    return (row[:size] == value and len(set(right)) == 1) or (row[width - size :] == value and len(set(left)) == 1)


def _list(value: Any) -> list | None:
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return value.tolist() if value.ndim == 1 else None
    return value if isinstance(value, list) and not (value and isinstance(value[0], (list, tuple))) else None


def _array(value: Any) -> torch.Tensor | None:
    if isinstance(value, torch.Tensor):
        return value
    try:
        return torch.as_tensor(value) if isinstance(value, (list, tuple, np.ndarray)) else None
    except (TypeError, ValueError, RuntimeError):  # strings, or rows of several lengths
        return None
