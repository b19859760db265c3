"""Brings splits with columns of any name to one form, and refuses what is no text."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from datasets import Dataset, DatasetDict

from .classes import shown
from .files import NUL
from .labels import encode_labels

SPLITS = ("train", "validation", "test")


def labelled_texts(
    splits: Mapping[str, Dataset],
    text_columns: Sequence[str] = ("text",),
    label_column: str = "label",
    clean_label_column: str | None = None,
    source: str = "The data set",
    options: Mapping[str, str] | None = None,
    label_names: Sequence[str] | None = None,
) -> tuple[DatasetDict, list[str]]:
    """Checks texts and labels, and brings them to the columns `text` (`text_pair`), `label` and `true_label`.

    Args:
        splits (`Mapping[str, Dataset]`): `"train"`, and as you like `"validation"` and `"test"`; others are left out.
            Test data may be without labels.
        text_columns (`Sequence[str]`, *optional*, defaults to `("text",)`): one column, or two for pairs of texts.
        label_column (`str`, *optional*, defaults to `"label"`): see [`encode_labels`].
        clean_label_column (`str`, *optional*): a column of the training data with the true labels.
        source (`str`, *optional*): where the data come from, for messages.
        options (`Mapping[str, str]`, *optional*): what a user calls the arguments of this function, for messages, such
            as `{"text_columns": "--text_column_name"}`.
        label_names (`Sequence[str]`, *optional*): the classes in the order of their numbers, instead of those of the
            training data, which may then be missing.

    Returns:
        `tuple[DatasetDict, list[str]]`: the splits as [`encode_labels`] returns them, and the names of the classes.

    Raises:
        ValueError: if there are no training samples, a column is missing, a text is empty, or a label is missing, of
            another kind than the rest, or of a class that no training sample has.

    Example:

    ```python
    >>> splits, label_names = labelled_texts(read_files({"train": "train.csv"}), ["question"], "category")
    ```
    """
    splits = {name: dataset for name, dataset in splits.items() if name in SPLITS}
    if (label_names is None and "train" not in splits) or ("train" in splits and len(splits["train"]) == 0):
        raise ValueError(f"{source}: there are no training samples.")
    options = options or {}
    for name, dataset in splits.items():
        columns = [("text_columns", column) for column in text_columns]
        if clean_label_column is not None and name == "train":
            columns.append(("clean_label_column", clean_label_column))
        if name != "test" or label_column in dataset.column_names:
            columns.append(("label_column", label_column))
        check_columns(dataset, {column: options.get(argument, f"`{argument}`") for argument, column in columns}, name)
        check_texts(dataset, text_columns, name)
    encoded, label_names = encode_labels(splits, label_column, text_columns, clean_label_column, label_names)
    return DatasetDict(encoded), label_names


def readings_of(names: str) -> list[tuple[str, ...]]:
    """What the name of a text column, or of two with a comma between them, may mean: as it is, parts between commas,
    and these without blanks. Three or more are none."""
    parts = tuple(names.split(","))
    own = tuple(part.strip() for part in parts)
    return [reading for reading in dict.fromkeys([(names,), parts, own]) if len(reading) <= 2]


def text_columns_among(names: str, there_are: Sequence[str], option: str = "`text_columns`") -> tuple[str, ...]:
    """The columns of a data set that are meant: their names may have commas and blanks in them.

    Raises:
        ValueError: if there are more than two.
    """
    for reading in readings_of(names):
        if set(reading) <= set(there_are):
            return reading
    own = tuple(name.strip() for name in names.split(","))
    if len(own) > 2:
        raise ValueError(f"{option} takes one column, or two for pairs; got {names}.")
    return own


def check_columns(dataset: Dataset, columns: Mapping[str, str], split_name: str) -> None:
    """Looks whether a data set has certain columns.

    Args:
        dataset (`Dataset`): any.
        columns (`Mapping[str, str]`): from the name of a column to the argument that names it, for the message.
        split_name (`str`): for the message, such as `"train"`.

    Raises:
        ValueError: if one is missing, with those that there are.
    """
    there_are = dataset.column_names
    for name, argument in columns.items():
        if name not in there_are:
            alike = {" ".join(other.split()).casefold(): other for other in there_are}
            close = difflib.get_close_matches(" ".join(name.split()).casefold(), alike, n=1)
            raise ValueError(
                f"The {split_name} data have no column {name!r} ({argument}). There are: "
                f"{', '.join(map(shown, there_are))}."
                + (f" Did you mean {alike[close[0]]!r}?" if close else "")
                + (" If this is a csv file: its columns have to be separated by commas." if len(there_are) == 1 else "")
            )


def check_texts(dataset: Dataset, columns: Sequence[str], split_name: str) -> None:
    """Looks whether every cell of some columns is a text.

    Raises:
        ValueError: if one is missing, blank, no string or has a NUL character, with its row.
    """
    for column in columns:
        for row, text in enumerate(dataset[column][:]):
            if not isinstance(text, str) or not text.strip():
                state = "empty" if text is None or isinstance(text, str) else f"no text but {text!r}"
                raise ValueError(
                    f"Row {row} of the {split_name} data (counted from 0): column {column!r} is {state}. Give it a "
                    "text or drop the row."
                )
            if "\0" in text:
                raise ValueError(f"Row {row} of the {split_name} data (counted from 0), column {column!r}: {NUL}")
