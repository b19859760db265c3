"""The way back: corrected labels from a file into the data set, if the file is of that data set."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import pandas as pd

from .._argument_checks import is_blank
from .._names import LABEL_COLUMNS
from ..data.classes import shown
from ..data.files import check_file, file_format, read_files
from .issue_table import CORRECTION, TAKEN
from .sheets import is_same_text, read_sheet
from .written_classes import WrittenClasses

logger = logging.getLogger(__name__)

_INDEX, _GIVEN = "sample_index", "given_label"
_STRINGS = ("string", "large_string")


def apply_corrections(
    dataset: datasets.Dataset,
    file: str | os.PathLike,
    label_column: str | None = None,
    text_columns: Sequence[str] | None = None,
    corrections_column: str = CORRECTION,
    label_names: Sequence[str] | None = None,
) -> datasets.Dataset:
    """Puts corrected labels into a data set: from a csv file that [`to_csv`] has written and somebody has filled in,
    from what the report page downloads, or from any csv, json or parquet file with such columns.

    The file has the columns `sample_index` (row of the data set, from 0), `corrected_label` (by name; empty: the label
    stays), one or more text columns of the data set, and as a rule `given_label`. Every row of it, corrected or not, is
    compared with the data set: its text (blanks aside), and its label. So a file for other data, or one in which rows
    or columns were shifted, is refused as a whole. Sorting the rows, leaving some out, and what a spreadsheet does to a
    csv file (semicolons, `TRUE`, `7` for `007`) do no harm.

    Args:
        dataset (`datasets.Dataset`): the one that the table was made of, before or after tokenization.
        file (`str`): `.csv`, `.json`, `.jsonl` or `.parquet`.
        label_column (`str`, *optional*): of the data set; `labels`, `label` or `label_ids` by default.
        text_columns (`Sequence[str]`, *optional*): to compare; by default all columns of strings that the data set and
            the file have. `[]` compares labels alone, if the table was made without texts: then nothing tells two
            samples of one class from each other.
        corrections_column (`str`, *optional*, defaults to `"corrected_label"`): of the file. `"predicted_label"`
            accepts every suggestion in the file: leave rows out that you don't want.
        label_names (`Sequence[str]`, *optional*): the names of the classes in the order of their numbers, if the labels
            of the data set are numbers without names, and those of the file are names.

    Returns:
        `datasets.Dataset`: with the same columns, in the same order and format.

    Raises:
        ValueError: if the file can't be read or lacks a column; if a row of it is not in the data set, is there twice
            with different corrections, or has another text or label there; or if a correction is no class of the data
            set. The message names the row of the file. Nothing is changed then.

    Example:

    ```python
    >>> to_csv(trainer.label_issues(), "label_issues.csv")   # fill in `corrected_label`, save
    >>> train = apply_corrections(train, "label_issues.csv")
    ```
    """
    if not isinstance(dataset, datasets.Dataset):
        hint = " Take one split of it." if isinstance(dataset, Mapping) else ""
        raise ValueError(f"Corrections are for a `datasets.Dataset`; got a {type(dataset).__name__}.{hint}")
    label_column = _label_column(dataset, label_column)
    name, rows = os.fspath(file), _read(file, corrections_column)
    texts = _text_columns(dataset, rows, text_columns, name, label_column)
    classes = WrittenClasses(dataset, label_column, label_names)
    _check_rows(dataset, rows, name, texts)
    if any(map(is_blank, classes.names)):
        logger.warning(
            f"The data set has a class with the name {classes.blank!r}, and {name} can't hold it: a blank cell keeps "
            "the label. Where that class is right, give it a name first."
        )
    labels = dataset.with_format(None)[label_column][:]
    corrected = _corrected(labels, rows, corrections_column, classes, name)
    changed = sum(labels[index] != label for index, label in corrected.items())
    logger.info(f"{name}: {len(corrected)} labels are corrected, {changed} of them to another one than they have.")
    if not corrected:
        logger.warning(f"{name} corrects nothing: its column {corrections_column!r} is empty in all {len(rows)} rows.")
    for index, label in corrected.items():
        labels[index] = label
    return _with_labels(dataset, label_column, labels)


def _label_column(dataset: datasets.Dataset, name: str | None) -> str:
    found = [own for own in ((name,) if name is not None else LABEL_COLUMNS) if own in dataset.column_names]
    if not found:
        tried = f"column {name!r}" if name is not None else f"column {', '.join(LABEL_COLUMNS[:-1])} or label_ids"
        raise ValueError(
            f"The data set has no {tried} (`label_column`). There are: {', '.join(map(shown, dataset.column_names))}."
        )
    return found[0]


def _read(file: str | os.PathLike, corrections_column: str) -> pd.DataFrame:
    """The rows of the file, by their place in it."""
    check_file(file)
    path = os.fspath(file)
    frame = read_sheet(path) if file_format(path) == "csv" else read_files({"train": path})["train"].to_pandas()
    for name in (_INDEX, corrections_column):
        if name not in frame:
            advice = ""
            if name == CORRECTION and "predicted_label" in frame:
                advice = " To accept all suggestions that it holds: `corrections_column='predicted_label'`."
            raise ValueError(
                f"{path} has no column {name!r}. There are: {', '.join(map(shown, map(str, frame.columns)))}.{advice}"
            )
    numbers = pd.to_numeric(frame[_INDEX], errors="coerce")
    wrong = numbers.isna() | (numbers % 1 != 0)
    if wrong.any():
        where = wrong.idxmax()
        raise ValueError(f"{_place(path, where)}: {_INDEX} is {frame[_INDEX][where]!r}, which is no row of a data set.")
    return frame.assign(**{_INDEX: numbers.astype("int64")})


def _text_columns(
    dataset: datasets.Dataset, frame: pd.DataFrame, names: Sequence[str] | None, file: str, label_column: str
) -> Sequence[str]:
    texts = [name for name, feature in dataset.features.items() if getattr(feature, "dtype", None) in _STRINGS]
    texts = [name for name in texts if name != label_column]
    if names is None:
        names = [name for name in texts if name in frame and name not in TAKEN]
        if not names:
            raise ValueError(
                f"{file} has no text column of the data set ({', '.join(map(shown, texts)) or 'which has none'}), so "
                "nothing tells whether its rows are those of the data set. Make the table with the texts "
                "(`label_issues(columns=[...])`) or, for a data set under other names, rename its columns. "
                "`text_columns=[]` goes by the labels alone."
            )
    for name in names:
        if name not in frame or name not in dataset.column_names:
            where = "The data set" if name not in dataset.column_names else file
            raise ValueError(f"{where} has no column {name!r} (`text_columns`).")
    if not names and _GIVEN not in frame:
        raise ValueError(f"{file} has no column {_GIVEN!r}: without texts and labels, nothing tells what it is of.")
    return names


def _check_rows(dataset: datasets.Dataset, frame: pd.DataFrame, file: str, texts: Sequence[str]) -> None:
    """Looks whether all rows of the file are of this data set: the texts of them."""
    index = frame[_INDEX]
    outside = ~index.between(0, len(dataset) - 1)
    if outside.any():
        where = outside.idxmax()
        raise ValueError(
            f"{_place(file, where)}: {_INDEX} is {index[where]}, and the data set has the rows 0 to "
            f"{len(dataset) - 1}. Is this the data set that the table was made of?"
        )
    for name in texts:
        own = dataset.with_format(None).select(index.to_numpy())[name][:]
        differs = [not is_same_text(cell, text) for cell, text in zip(frame[name], own)]
        if any(differs):
            first = differs.index(True)
            where = frame.index[first]
            raise ValueError(
                f"{_place(file, where)}: {name!r} is {_short(frame[name][where])}, and row {index[where]} of the data "
                f"set has {_short(own[first])}. {sum(differs)} of the {len(frame)} rows differ so: the file is of "
                "other data, or its rows or columns were shifted. No label was changed."
            )


def _corrected(
    labels: Sequence[Any], frame: pd.DataFrame, column: str, classes: WrittenClasses, file: str
) -> dict[int, Any]:
    """From rows of the data set to their new labels."""
    corrected: dict[int, Any] = {}
    places: dict[int, Any] = {}
    for where, row in zip(frame.index, frame.to_dict("records")):
        index, cell, given = row[_INDEX], _agreed(row[column]), row.get(_GIVEN)
        new = None
        if isinstance(cell, set):
            raise ValueError(
                f"{_place(file, where)}: {column} has several answers, {', '.join(sorted(map(repr, cell)))}. Settle on "
                "one of them."
            )
        if not _is_empty(cell):
            new = classes.find(cell)
            if new is None:
                raise ValueError(
                    f"{_place(file, where)}: {column} is {cell!r}, which is no class. {classes.advice(cell)}"
                )
        if not _is_empty(given) and labels[index] not in (classes.find(given), new):
            advice = "" if classes.find(given) is not None else f" {classes.advice(given)}"
            raise ValueError(
                f"{_place(file, where)}: {_GIVEN} is {given!r}, and row {index} of the data set has the label "
                f"{classes.shown(labels[index])}. The file is of other data, was shifted, or is older than a change of "
                f"the labels. No label was changed.{advice}"
            )
        if new is None:
            continue
        if corrected.setdefault(index, new) != new:
            raise ValueError(
                f"{_place(file, where)}: row {index} of the data set gets the label {classes.shown(new)}, and "
                f"{classes.shown(corrected[index])} in row {places[index]} of the file. Keep one of them."
            )
        places.setdefault(index, where)
    return corrected


def _agreed(cell: Any) -> Any:
    """What is in a cell; of the answers of several people, the one that all have given, or a set of those they have."""
    if not isinstance(cell, (list, np.ndarray)):
        return cell
    answers = {answer for answer in list(cell) if not _is_empty(answer)}
    return next(iter(answers), None) if len(answers) < 2 else answers


def _place(file: str, where: int) -> str:
    return f"{file}, row {where}" + (" (the header is row 1)" if file_format(file) == "csv" else " (counted from 0)")


def _is_empty(cell: Any) -> bool:
    return cell is None or cell != cell or (isinstance(cell, str) and not cell.strip())


def _short(text: Any, most: int = 60) -> str:
    text = "" if text is None else str(text)
    return repr(text if len(text) <= most else f"{text[:most]}...")


def _with_labels(dataset: datasets.Dataset, column: str, labels: list) -> datasets.Dataset:
    order, form, feature = dataset.column_names, dataset.format, dataset.features[column]
    plain = dataset.with_format(None).remove_columns(column).add_column(column, labels, feature=feature)
    columns = form["columns"] if set(form["columns"]) != set(order) else None
    settings = {"columns": columns, "output_all_columns": form["output_all_columns"], **form["format_kwargs"]}
    return plain.select_columns(order).with_format(form["type"], **settings)
