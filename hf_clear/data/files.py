"""Reads csv, json and parquet files, and says of those that can't be read what is wrong with them."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping

from datasets import DatasetDict, load_dataset
from datasets.exceptions import DatasetGenerationError
from pyarrow import ArrowInvalid

FORMATS = ("csv", "json", "parquet")
NUL = "there is a NUL character, which is in no text: the data are damaged, or not in UTF-8. Take it out."


def read_files(files: Mapping[str, str | os.PathLike], cache_dir: str | None = None) -> DatasetDict:
    """Reads data sets from files.

    The words "null", "NA" or "None" in a csv file are texts; an empty cell is a missing one.

    Args:
        files (`Mapping[str, str]`): from the name of a split to its file: `.csv` (with a header), `.json` or `.jsonl`
            (an object a line), or `.parquet`; all of one format, in UTF-8.
        cache_dir (`str`, *optional*): where `datasets` keeps what it has read.

    Returns:
        `datasets.DatasetDict`: the splits.

    Raises:
        ValueError: if a file is missing, empty, damaged, not in UTF-8, or of another format than the rest, two columns
            have one name, or rows differ in their columns.

    Example:

    ```python
    >>> splits = read_files({"train": "train.csv", "test": "test.csv"})
    ```
    """
    files = {name: os.fspath(path) for name, path in files.items()}
    for path in files.values():
        check_file(path)
    formats = {file_format(path) for path in files.values()}
    if len(formats) > 1:
        raise ValueError(f"The files have to be of one format, not {' and '.join(sorted(formats))}.")
    (file_type,) = formats
    for path in files.values():
        if os.path.getsize(path) == 0:
            raise ValueError(f"{path} is empty: there are no rows to read.")
        if file_type != "parquet":
            check_encoding(path)
        if file_type == "csv":
            check_header(path)
    paths = ", ".join(files.values())
    csv_args = {"keep_default_na": False, "na_values": [""]} if file_type == "csv" else {}
    try:
        return load_dataset(file_type, data_files=files, cache_dir=cache_dir, **csv_args)
    except (DatasetGenerationError, ArrowInvalid) as error:
        reason = str(error.__cause__ or error).strip()
        raise ValueError(
            f"{paths}: can't be read as {file_type} ({reason}). Every row has to have the same "
            "columns, and every column one type."
        ) from error
    except ValueError as error:
        if "no data" in str(error):  # how `datasets` puts it for a file with a header alone
            raise ValueError(f"{paths}: there are no rows to read.") from error
        raise


def check_file(path: str | os.PathLike, option: str | None = None) -> None:
    """Looks whether there is such a file, of a format that [`read_files`] knows.

    Args:
        path (`str`): the file.
        option (`str`, *optional*): the option that named it, for the message, such as `"--train_file"`.

    Raises:
        ValueError: if there is no such file, or it is called otherwise.
    """
    name = f"{option} {os.fspath(path)}" if option else os.fspath(path)
    if not os.path.isfile(path):
        raise ValueError(f"{name}: there is no such file.")
    if file_format(path) not in FORMATS:
        raise ValueError(f"{name}: the name has to end in .csv, .json, .jsonl or .parquet.")


def file_format(path: str | os.PathLike) -> str:
    """What the extension says: `"csv"`, `"json"` (`.jsonl`, too), `"parquet"`, or another."""
    extension = os.path.splitext(path)[1].lstrip(".").lower()
    return "json" if extension == "jsonl" else extension


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


def check_header(path: str) -> None:
    """Looks for two columns of one name in a csv file: pandas would give the second another name.

    Raises:
        ValueError: if there are such, or the first line is no csv.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        try:
            header = next((names for names in csv.reader(file) if names), [])
        except csv.Error as error:
            raise ValueError(f"{path}: the first line can't be read as a csv header ({error}).") from error
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{path} has {header.count(twice)} columns {twice!r}. Rename or drop all but one.")
