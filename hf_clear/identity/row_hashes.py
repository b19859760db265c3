"""One hash for each row of a column, whatever the column is: of arrow, numpy, torch, pandas, or plain Python."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from xxhash import xxh3_64_hexdigest, xxh3_64_intdigest

NO_HASHES = np.zeros(0, np.uint64)
_NULL = np.uint64(0x9E3779B97F4A7C15)
_ROWS = 1000  # of an array at a time: what is mapped from a file is not read into memory as a whole


class NotComparable(Exception):
    """What holds anything but numbers, texts, bytes and containers of them."""


def combine(columns: Sequence[np.ndarray]) -> np.ndarray:
    """One hash for each row of several columns, in their order: `[num_rows]` from `[num_rows]` each."""
    total = np.zeros(len(columns[0]), np.uint64)
    for hashes in columns:
        total = _mixed(total * np.uint64(3) + hashes)
    return total


def digest(hashes: np.ndarray) -> str:
    """Of a column, its order included."""
    return xxh3_64_hexdigest(np.ascontiguousarray(hashes).data)


def hashes_of_arrow(array: pa.Array, size_every: int = 1) -> np.ndarray:
    """Of the values alone: not of chunks, offsets, or what is behind a null. `[num_rows]`.

    Args:
        size_every (`int`, *optional*): of images and sounds that are paths, one file in so many is asked for its size.
    """
    kind = array.type
    if len(array) == 0:
        return NO_HASHES.copy()
    if isinstance(array, pa.ExtensionArray):
        return hashes_of_arrow(array.storage, size_every)
    if pa.types.is_dictionary(kind):
        return hashes_of_arrow(array.dictionary_decode(), size_every)
    if pa.types.is_null(kind):
        return np.full(len(array), _NULL)
    if pa.types.is_boolean(kind):
        hashes = _mixed(array.cast(pa.uint8()).fill_null(0).to_numpy().astype(np.uint64))
    elif pa.types.is_struct(kind):
        hashes = _hashes_of_struct(array, size_every)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        values, offsets = array.values if not pa.types.is_map(kind) else _entries(array), array.offsets.to_numpy()
        values, offsets = values.slice(offsets[0], offsets[-1] - offsets[0]), offsets - offsets[0]
        hashes = _hashes_of_lists(values, offsets, size_every)
    elif pa.types.is_fixed_size_list(kind):
        size = kind.list_size
        values = array.values.slice(array.offset * size, len(array) * size)
        hashes = _hashes_of_lists(values, np.arange(len(array) + 1) * size, size_every)
    elif pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        hashes = _hashes_of_text(array, np.int64)
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):
        hashes = _hashes_of_text(array, np.int32)
    elif pa.types.is_integer(kind):
        hashes = hashes_of_integers((array.fill_null(0) if array.null_count else array).to_numpy())
    elif _width(kind):
        hashes = hashes_of_array(_fixed_width(array))
    else:  # views, unions: rare
        return hashes_of_objects(array.to_pylist())
    if array.null_count:
        hashes[~array.is_valid().to_numpy(zero_copy_only=False)] = _NULL
    return hashes


def hashes_of_array(array: np.ndarray | torch.Tensor) -> np.ndarray:
    """Of the rows of an array of numbers or texts; integers in one dimension are the same in any type. `[num_rows]`.

    Raises:
        NotComparable: if it holds anything else, or nothing that could be read.
    """
    if isinstance(array, torch.Tensor):
        if array.layout != torch.strided or array.device.type == "meta" or array.is_quantized:
            raise NotComparable
        array = array.detach()
    elif array.dtype.hasobject:
        return hashes_of_objects(array.tolist())
    if len(array) == 0:
        return NO_HASHES
    return np.concatenate([_hashes_of_rows(array[row : row + _ROWS]) for row in range(0, len(array), _ROWS)])


def hashes_of_objects(values: Sequence[Any]) -> np.ndarray:
    """Of plain values: numbers, texts, arrays, and lists and dictionaries of them. `[num_rows]`.

    Raises:
        NotComparable: at the first value that is anything else.
    """
    try:
        encoded = (json.dumps(value, sort_keys=True, default=_encoded).encode() for value in values)
        return np.fromiter((xxh3_64_intdigest(value) for value in encoded), np.uint64, len(values))
    except (TypeError, ValueError, RecursionError, RuntimeError) as error:
        raise NotComparable from error


def columns_of(value: Any, num_rows: int) -> dict[str, np.ndarray]:
    """The columns of a table with so many rows, of any kind, or of one column: hashes `[num_rows]` by name, which is
    empty for one column.

    Raises:
        NotComparable: if it is no such thing.
    """
    if isinstance(value, pd.DataFrame):
        value = {str(name): value.iloc[:, number] for number, name in enumerate(value.columns)}
    if isinstance(value, Mapping):
        columns = {}
        for name, column in value.items():
            for inner, hashes in columns_of(column, num_rows).items():
                columns[f"{name}.{inner}" if inner else str(name)] = hashes
        if not columns:
            raise NotComparable
        return columns
    if not hasattr(value, "__len__") or getattr(value, "shape", (0,)) == () or len(value) != num_rows:
        raise NotComparable
    if isinstance(value, pd.Series):
        value = value.to_numpy()
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return {"": hashes_of_array(value)}
    if not isinstance(value, (list, tuple)) or any(row is None for row in value):  # a cache that is not yet full
        raise NotComparable
    first = value[0] if value else None
    if isinstance(first, Mapping) and all(isinstance(row, Mapping) and row.keys() == first.keys() for row in value):
        return {str(name): _hashes_of_list([row[name] for row in value]) for name in first}
    return {"": _hashes_of_list(value)}


def hashes_of_integers(values: Any) -> np.ndarray:
    """As those of an array of them, however they are held."""
    try:
        return hashes_of_array(np.asarray(values, np.int64))
    except (OverflowError, TypeError, ValueError) as error:
        raise NotComparable from error


def class_numbers(hashes: np.ndarray) -> np.ndarray | None:
    """The integers that a column holds, from its hashes; None if it holds anything else."""
    numbers = hashes ^ (hashes >> np.uint64(31)) ^ (hashes >> np.uint64(62))  # `_mixed` backwards
    numbers = numbers * np.uint64(0x319642B2D24D8EC3)
    numbers = (numbers ^ (numbers >> np.uint64(27)) ^ (numbers >> np.uint64(54))) * np.uint64(0x96DE1B173F119089)
    numbers = (numbers ^ (numbers >> np.uint64(30)) ^ (numbers >> np.uint64(60))).view(np.int64)
    return numbers if (np.abs(numbers) < 2**31).all() else None


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64: a bijection in which each bit depends on all."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def _hashes_of_slices(data: Any, ends: np.ndarray) -> np.ndarray:
    view = memoryview(b"")
    if len(data):
        view = memoryview(data.view(np.uint8).data if isinstance(data, np.ndarray) else data).cast("B")
    pairs = pairwise(ends.tolist())
    return np.fromiter((xxh3_64_intdigest(view[begin:end]) for begin, end in pairs), np.uint64, len(ends) - 1)


def _hashes_of_text(array: pa.Array, offset_type: type) -> np.ndarray:
    _, offsets, data = array.buffers()
    ends: np.ndarray = np.frombuffer(offsets, offset_type)[array.offset : array.offset + len(array) + 1]
    return _hashes_of_slices(b"" if data is None else data, ends)


def _hashes_of_struct(array: pa.StructArray, size_every: int) -> np.ndarray:
    fields = dict(sorted(zip((field.name for field in array.type), array.flatten())))
    if fields.keys() != {"bytes", "path"}:
        of_fields = [hashes_of_arrow(field, size_every) for field in fields.values()]
        return combine(of_fields) if of_fields else np.zeros(len(array), np.uint64)
    # An image or a sound: what it is called says nothing if its bytes are there.
    hashes = hashes_of_arrow(fields["bytes"])
    for row in np.flatnonzero(fields["bytes"].is_null().to_numpy(zero_copy_only=False)).tolist():
        hashes[row] = _hash_of_file(fields["path"][row].as_py(), size_every)
    return hashes


def _hash_of_file(path: str | None, size_every: int) -> int:
    """Of its name and size; folders may be others on another machine."""
    if path is None:
        return int(_NULL)
    name = xxh3_64_intdigest(os.path.basename(path).encode())
    try:
        size = os.path.getsize(path) if name % size_every == 0 else -1
    except (OSError, ValueError):  # in an archive
        size = -1
    return xxh3_64_intdigest(f"{name} {size}".encode())


def _entries(array: pa.MapArray) -> pa.StructArray:
    return pa.StructArray.from_arrays([array.keys, array.items], ["key", "value"])


def _hashes_of_lists(values: pa.Array, ends: np.ndarray, size_every: int) -> np.ndarray:
    """Of lists, which end in `values` at `ends`. The hash of one doesn't depend on the others."""
    values = values.storage if isinstance(values, pa.ExtensionArray) else values
    if pa.types.is_signed_integer(values.type):  # the same in any type; unsigned ones may be images
        values = values.cast(pa.int64())
    if not _width(values.type):
        return _hashes_of_slices(hashes_of_arrow(values, size_every), ends * 8)
    flat = _fixed_width(values)
    if not values.null_count:
        return _hashes_of_slices(flat, ends * flat.dtype.itemsize)
    is_null = ~values.is_valid().to_numpy(zero_copy_only=False)
    flat = flat.copy()
    flat[is_null] = np.zeros((), flat.dtype)
    hashes = _hashes_of_slices(flat, ends * flat.dtype.itemsize)
    count = np.concatenate([[0], is_null.cumsum()])
    has_null = count[ends[1:]] > count[ends[:-1]]
    hashes[has_null] = combine([hashes, _hashes_of_slices(is_null, ends)])[has_null]
    return hashes


def _width(kind: pa.DataType) -> int:
    """Of a value in bytes; 0 for types without a fixed width, or of bits."""
    try:
        bits = 0 if pa.types.is_nested(kind) or pa.types.is_dictionary(kind) else kind.bit_width
    except ValueError:
        return 0
    return 0 if bits % 8 else bits // 8


def _fixed_width(array: pa.Array) -> np.ndarray:
    """The values of a type with a width, in an unsigned type if there is one as wide, else as bytes."""
    width, data = _width(array.type), array.buffers()[1]
    kind = np.dtype(f"u{width}" if width in (1, 2, 4, 8) else f"V{width}")
    if len(array) == 0 or data is None:
        return np.zeros(len(array), kind)
    return np.frombuffer(data, kind, len(array), array.offset * width)


def _hashes_of_rows(rows: np.ndarray | torch.Tensor) -> np.ndarray:
    if isinstance(rows, torch.Tensor):
        is_list_of_integers = rows.ndim == 1 and not (rows.dtype.is_floating_point or rows.dtype.is_complex)
        rows = rows.long() if is_list_of_integers else rows
        raw = rows.cpu().contiguous().reshape(len(rows), -1).view(torch.uint8).numpy()
    else:
        rows = rows.astype(np.int64) if rows.ndim == 1 and rows.dtype.kind in "iub" else np.ascontiguousarray(rows)
        raw = rows.reshape(len(rows), -1)
        raw = raw.view(np.uint8) if raw.size else np.zeros((len(rows), 0), np.uint8)
    if raw.shape[1] == 8:
        return _mixed(raw.view(np.uint64)[:, 0])
    return _hashes_of_slices(raw.reshape(-1), np.arange(len(rows) + 1) * raw.shape[1])


def _hashes_of_list(values: Sequence[Any]) -> np.ndarray:
    return hashes_of_integers(values) if all(type(value) is int for value in values) else hashes_of_objects(values)


def _encoded(value: Any) -> Any:
    """For `json`, what it has no word for."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (np.ndarray, torch.Tensor)):
        rows = value.reshape(1, -1)
        return [str(value.dtype), list(value.shape), digest(hashes_of_array(rows)) if rows.shape[1] else ""]
    if isinstance(value, (bytes, bytearray)):
        return ["bytes", xxh3_64_hexdigest(value)]
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, os.PathLike):
        return os.path.basename(value)
    raise NotComparable
