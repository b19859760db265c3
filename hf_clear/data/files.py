"""Reads csv, json and parquet files, and says of those that can't be read what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import pyarrow as pa
from datasets import Dataset, DatasetDict

from .tables import READERS, with_integers

FORMATS = tuple(READERS)
NUL = "there is a NUL character, which is in no text: the data are damaged, or not in UTF-8. Take it out."


def read_files(
    files: Mapping[str, str | os.PathLike | Sequence[str | os.PathLike]], columns: Sequence[str] | None = None
) -> DatasetDict:
    """Reads data sets from files, into memory and without a cache: what is read is what is there now.

    A name is taken as it is: `run[1]/train.csv` is no pattern, and `zip://x::y.csv` no address.

    What a csv file says stays as it is written: a column is read as integers if it holds nothing else, each as Python
    writes it, and as text otherwise (`001`, `1.0`, `True`, `null`, `NA`). An empty cell is a missing one. What is text
    in the first split is text in all. json and parquet files have types of their own.

    Args:
        files (`Mapping[str, str]`): from the name of a split to its file, or its files: `.csv` (with a header), `.json`
            or `.jsonl` (an object a line, or a list of them), or `.parquet`; all of one format, in UTF-8.
        columns (`Sequence[str]`, *optional*): the columns to read. Others may be of any type: they are there by name
            alone, without a value.

    Returns:
        `datasets.DatasetDict`: the splits.

    Raises:
        ValueError: if a file is missing, empty, damaged, not in UTF-8, or of another format than the rest, two columns
            have one name, rows of a csv file have more cells than its header, or a column has values of several types.

    Example:

    ```python
    >>> splits = read_files({"train": "train.csv", "test": "test.csv"})
    ```
    """
    paths = {name: [os.fspath(path) for path in _listed(given)] for name, given in files.items()}
    every = [path for listed in paths.values() for path in listed]
    for path in every:
        check_file(path)
    formats = {file_format(path) for path in every}
    if len(formats) > 1:
        raise ValueError(f"The files have to be of one format, not {' and '.join(sorted(formats))}.")
    (file_type,) = formats
    for path in every:
        if os.path.getsize(path) == 0:
            raise ValueError(f"{path} is empty: there are no rows to read.")
        if file_type != "parquet":
            check_encoding(path)
    read = READERS[file_type]
    tables = {name: _joined([read(path, columns) for path in listed], listed) for name, listed in paths.items()}
    if file_type == "csv":
        tables = with_integers(tables)
    return DatasetDict({name: Dataset(table) for name, table in tables.items()})


def _listed(given: str | os.PathLike | Sequence[str | os.PathLike]) -> Sequence[str | os.PathLike]:
    return [given] if isinstance(given, (str, bytes, os.PathLike)) else given


def _joined(tables: Sequence[pa.Table], paths: Sequence[str]) -> pa.Table:
    """One table of the files of a split."""
    try:
        table = tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="default")
    except pa.ArrowException as error:
        raise ValueError(f"{', '.join(paths)}: a column has other types in other files ({error}).") from error
    if table.num_rows == 0:
        raise ValueError(f"{', '.join(paths)}: there are no rows to read.")
    return table


def check_file(path: str | os.PathLike, option: str | None = None) -> None:
    """Looks whether there is such a file, of a format that [`read_files`] knows.

    Args:
        path (`str`): the file.
        option (`str`, *optional*): the option that named it, for the message, such as `"--train_file"`.

    Raises:
        ValueError: if there is no such file, it is a folder or a pipe, or it is called otherwise.
    """
    name = f"{option} {os.fspath(path)}" if option else os.fspath(path)
    if not os.path.isfile(path):
        if os.path.isdir(path):
            raise ValueError(f"{name} is a folder, not a file.")
        if os.path.lexists(path):
            raise ValueError(f"{name} is no regular file: a pipe, a device, or a link that leads nowhere.")
        raise ValueError(f"{name}: there is no such file.")
    if file_format(path) not in FORMATS:
        raise ValueError(f"{name}: the name has to end in .csv, .json, .jsonl or .parquet.")


def file_format(path: str | os.PathLike) -> str:
    """What the extension says: `"csv"`, `"json"` (`.jsonl`, too), `"parquet"`, or another."""
    _, dot, extension = os.path.basename(path).rpartition(".")
    return "" if not dot else "json" if extension.lower() == "jsonl" else extension.lower()


def check_encoding(path: str) -> None:
    """Looks for bytes that are no UTF-8, and for NUL.

    Raises:
        ValueError: if there are such, with line and byte.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}, line {number}: byte {error.start + 1} of the line, {line[error.start]:#04x}, is no "
                    "UTF-8. Save the file in that encoding."
                ) from error
            if b"\0" in line:
                raise ValueError(f"{path}, line {number}: {NUL}")
