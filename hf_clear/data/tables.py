"""A file of each format as an Arrow table. We open the files: no library takes a name for a pattern or an address."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

INTEGER = r"0|-?[1-9][0-9]*"  # as Python writes one
_DAMAGED = (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError)  # what Arrow raises on values


def read_csv(path: str, columns: Sequence[str] | None) -> pa.Table:
    """Every column as text."""
    options = {"dtype": str, "keep_default_na": False, "na_values": [""], "encoding": "utf-8-sig"}
    try:
        with open(path, "rb") as file:
            # With the header as a row like any other, rows with more cells than it are refused.
            frame = pd.read_csv(file, header=None, **options)
    except (ValueError, pd.errors.ParserError) as error:  # an empty file, too
        reason = str(error).strip()
        raise ValueError(
            f"{path}: can't be read as csv ({reason}). Every row has to have the same columns.{_other_separator(path)}"
        ) from error
    header = [name if isinstance(name, str) else f"Unnamed: {i}" for i, name in enumerate(frame.iloc[0])]
    _check_names(header, path)
    wanted = {name: frame[i][1:] if _is_wanted(name, columns) else None for i, name in enumerate(header)}
    return _table(wanted, len(frame) - 1, lambda series: pa.array(series, pa.string(), from_pandas=True))


def _other_separator(path: str) -> str:
    """What to say of a file whose header has no comma, but what other programs put in its place."""
    with open(path, encoding="utf-8-sig") as file:
        header = file.readline()
    for name, mark in (("semicolons", ";"), ("tabs", "\t"), ("bars", "|")):
        if mark in header and "," not in header:
            return f" Its header has {name} and no comma: save it with commas between the columns."
    return ""


def with_integers(splits: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    """Tables of texts, with integers in the columns that hold nothing else: their texts can be had back. A column that
    is text in the first split stays text in all."""
    texts: set[str] = set()
    converted: dict[str, pa.Table] = {}
    for split, table in splits.items():
        for i, name in enumerate(table.column_names):
            if name not in texts and table[name].null_count < len(table):
                try:
                    table = table.set_column(i, name, _integers(table[name]))
                except pa.ArrowInvalid:  # no integer, or one beyond 64 bits
                    texts |= {name} if not converted else set()
        converted[split] = table
    return converted


def _integers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pc.all(pc.match_substring_regex(column, rf"\A({INTEGER})\z")).as_py() is False:
        raise pa.ArrowInvalid("no integer")
    return column.cast(pa.int64())


def read_json(path: str, columns: Sequence[str] | None) -> pa.Table:
    """An object a line, or one list of objects; what a row doesn't have is missing."""
    names: dict[str, None] = {}
    rows = []
    for where, row in _objects(path):
        if not isinstance(row, dict):
            raise ValueError(
                f"{path}: can't be read as json: {where} is no object. A row has to be one, such as "
                '{"text": "...", "label": "..."}.'
            )
        names.update(dict.fromkeys(row))
        # Of the rest, nothing is kept.
        rows.append(row if columns is None else {name: row[name] for name in columns if name in row})
    wanted = {name: name if _is_wanted(name, columns) else None for name in names}
    try:
        return _table(
            wanted, len(rows), lambda name: _typed([row.get(name) for row in rows], name, path, columns is None)
        )
    except UnicodeEncodeError as error:
        raise ValueError(f"{path}: can't be read as json: a name of a column is no text ({error}).") from error


def _objects(path: str):
    """The values in a file, with where they are."""
    with open(path, encoding="utf-8-sig", newline="\n") as file:
        start = file.read(1024).lstrip()
        file.seek(0)
        parts = [("the file", file.read())] if start.startswith("[") else enumerate(file, start=1)
        for where, text in parts:
            if not text.strip():
                continue
            where = where if isinstance(where, str) else f"line {where}"
            try:
                value = json.loads(text, object_pairs_hook=_without_duplicates)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}: can't be read as json: {where} is damaged ({error}).") from error
            if isinstance(value, list) and where == "the file":
                yield from ((f"row {i} (counted from 0)", row) for i, row in enumerate(value))
            else:
                yield where, value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"an object has the key {next(n for n in names if names.count(n) > 1)!r} twice")
    return values


def _typed(values: list, name: str, path: str, reads_all: bool) -> pa.Array:
    try:
        return pa.array(values)
    except _DAMAGED as error:
        reason = f"has no one type ({error})"
        row, kind = next(((i, type(value)) for i, value in enumerate(values) if value is not None), (0, type(None)))
        for other, value in enumerate(values):
            if value is not None and type(value) is not kind and {kind, type(value)} != {int, float}:
                reason = (
                    f"has values of several types: row {other} (counted from 0) has {value!r}, a "
                    f"{type(value).__name__}, and row {row} has {values[row]!r}, a {kind.__name__}"
                )
                break
        advice = " If it isn't used, name the columns that are in `columns`." if reads_all else ""
        raise ValueError(f"{path}: can't be read as json: column {name!r} {reason}.{advice}") from error


def read_parquet(path: str, columns: Sequence[str] | None) -> pa.Table:
    """Columns of categories as what the categories are."""
    try:
        with open(path, "rb") as file:
            source = pq.ParquetFile(file)
            schema, num_rows = source.schema_arrow, source.metadata.num_rows
            _check_names(schema.names, path)
            names = [name for name in schema.names if _is_wanted(name, columns)]
            read = source.read(columns=names)
            table = _table(
                {name: name if name in names else None for name in schema.names}, num_rows, lambda n: _plain(read[n])
            )
    except _DAMAGED + (OSError,) as error:
        raise ValueError(f"{path}: can't be read as parquet ({str(error).strip()}).") from error
    return table.replace_schema_metadata(schema.metadata)  # where `datasets` notes the names of classes


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _is_wanted(name: str, columns: Sequence[str] | None) -> bool:
    return columns is None or name in columns


def _table(columns: dict[str, Any], num_rows: int, build: Callable[[Any], pa.Array]) -> pa.Table:
    """A table of columns that are built one by one; None for one without values."""
    arrays = [pa.nulls(num_rows) if column is None else build(column) for column in columns.values()]
    return pa.table(arrays, names=list(columns))


def _check_names(names: Sequence[str], path: str) -> None:
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise ValueError(f"{path} has {names.count(twice)} columns {twice!r}. Rename or drop all but one.")


READERS: dict[str, Callable[[str, Sequence[str] | None], pa.Table]] = {
    "csv": read_csv,
    "json": read_json,
    "parquet": read_parquet,
}
