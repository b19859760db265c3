"""Reads a local folder with data, in the splits that `datasets` finds there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from typing import Any

from datasets import DatasetDict, DownloadMode, load_dataset
from datasets.data_files import DataFilesDict, EmptyDatasetError, get_data_patterns

from .files import FORMATS, file_format, read_files

_IN_A_CARD = ("configs:", "dataset_info:")  # what tells `datasets` how to read a folder


def read_folder(
    folder: str | os.PathLike, columns: Sequence[str] | None = None, config_name: str | None = None, **kwargs: Any
) -> DatasetDict:
    """Reads a local folder as it is now, not as it is in the cache.

    csv, json and parquet files are read as [`read_files`] does; names of files and folders say which split they are of,
    as for `datasets.load_dataset`: `train.csv`, `test-00000-of-00002.parquet`, `data/validation/1.json`. If there are
    other files, or a dataset card says what is where, `load_dataset` reads the folder.

    Args:
        folder (`str`): its name is taken as it is.
        columns (`Sequence[str]`, *optional*): see [`read_files`].
        config_name (`str`, *optional*): a configuration that its dataset card names.
        kwargs: for `datasets.load_dataset`, such as `cache_dir`.

    Returns:
        `datasets.DatasetDict`: the splits.

    Raises:
        ValueError: as of [`read_files`]; or if the folder is for `load_dataset`, and that would take its name for a
            pattern or an address.
    """
    folder = os.fspath(folder)
    files = splits_in(folder) if config_name is None else None
    if files is not None:
        return read_files(files, columns)
    if any(character in folder for character in "*?[]{}") or "::" in folder or "://" in folder:
        raise ValueError(
            f"{folder}: `datasets` would take this name for a pattern or an address. Rename the folder, or make a link "
            "to it with a plain name."
        )
    return load_dataset(folder, config_name, **{**kwargs, "download_mode": DownloadMode.FORCE_REDOWNLOAD})


def splits_in(folder: str) -> dict[str, list[str]] | None:
    """The files of each split; None if they are nothing for [`read_files`]."""
    folder = os.path.abspath(folder)
    card = os.path.join(folder, "README.md")
    if os.path.isfile(card):
        with open(card, encoding="utf-8", errors="replace") as file:
            if any(line.startswith(_IN_A_CARD) for line in file):
                return None
    with tempfile.TemporaryDirectory() as temporary:
        link = os.path.join(temporary, "data")  # `datasets` takes a folder's name for a pattern
        os.symlink(folder, link)
        try:
            found = DataFilesDict.from_patterns(get_data_patterns(link), base_path=link)
        except (EmptyDatasetError, FileNotFoundError):
            return None
        files = {
            str(split): [os.path.join(folder, os.path.relpath(path, link)) for path in paths]
            for split, paths in found.items()
        }
    formats = {file_format(path) for paths in files.values() for path in paths}
    return files if len(formats) == 1 and formats <= set(FORMATS) else None
