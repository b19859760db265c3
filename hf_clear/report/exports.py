"""The table of suspect labels for other programs: spreadsheets, parquet readers, cleanlab."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Sequence

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .._argument_checks import check_label_names
from ..files import write_atomically
from .issue_table import COLUMNS, CORRECTION
from .sheets import escaped, read_sheet, writable

_DIGITS = 6  # significant ones of a number in a csv file
_BETWEEN = ", "  # reasons
_LABELS = ("given_label", "predicted_label")
_FOREIGN = "is there, and is no table of label issues"


def to_csv(table: datasets.Dataset | pd.DataFrame, path: str | os.PathLike) -> None:
    """Writes the table for a spreadsheet, in UTF-8 with the mark that Excel wants.

    After `predicted_label` comes an empty column `corrected_label`: whoever reads the table fills in what is right,
    saves the file as csv, and [`apply_corrections`] takes it from there. What a spreadsheet would run as a formula (a
    cell that begins with `=`, `+`, `-`, `@`, or such a character in another width or after an apostrophe) gets an
    apostrophe before it, which [`apply_corrections`] and [`save_report`] take off again. So does what follows a
    semicolon, a tab or a line break within a text: where programs separate cells by semicolons, they split there.
    `reasons` are joined by commas; what is not known is an empty cell.

    Args:
        table (`datasets.Dataset` or `pandas.DataFrame`): of [`issue_table`] or `trainer.label_issues()`.
        path (`str`): the file. Missing folders are made.

    Raises:
        FileExistsError: if there is a file of that name that is no such table, or in which somebody has filled in
            corrections.
        ValueError: if `table` is no such table.

    Example:

    ```python
    >>> to_csv(trainer.label_issues(), "label_issues.csv")
    ```
    """
    table = as_table(table)
    check_overwriting(path, state_of_csv)
    frame = table.to_pandas()
    for name in frame.columns:
        if name in _LABELS and frame[name].dtype.kind == "f":  # whole numbers, and some that are missing
            frame[name] = ["" if value != value else str(int(value)) for value in frame[name]]
        elif frame[name].dtype.kind == "f":
            if name in COLUMNS:  # others are the user's
                frame[name] = [float(f"{value:.{_DIGITS}g}") for value in frame[name]]
        elif name == "reasons":
            frame[name] = [_BETWEEN.join(reasons) for reasons in frame[name]]
        elif frame[name].dtype.kind not in "iub":
            frame[name] = [escaped(_text(value)) for value in frame[name]]
    if "predicted_label" in frame and CORRECTION not in frame:
        frame.insert(frame.columns.get_loc("predicted_label") + 1, CORRECTION, "")
    frame.columns = [escaped(name) for name in frame.columns]
    content = frame.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\r\n")
    write_atomically(path, content.encode("utf-8-sig"))


def to_parquet(table: datasets.Dataset | pd.DataFrame, path: str | os.PathLike) -> None:
    """Writes the table as it is: `datasets.Dataset.from_parquet(path)`, or any reader of parquet, has it back.

    Args:
        table (`datasets.Dataset` or `pandas.DataFrame`): of [`issue_table`] or `trainer.label_issues()`.
        path (`str`): the file. Missing folders are made.

    Raises:
        FileExistsError: if there is a file of that name that is no such table.
        ValueError: if `table` is no such table.
    """
    table = as_table(table)
    check_overwriting(path, state_of_parquet)
    buffer = io.BytesIO()
    table.to_parquet(buffer)
    write_atomically(path, buffer.getvalue())


def to_cleanlab(
    table: datasets.Dataset | pd.DataFrame, label_names: Sequence[str] | None = None, num_samples: int | None = None
) -> pd.DataFrame:
    """The table as cleanlab has it, one row a sample in the order of the data set.

    Columns are those of `Datalab.get_issues("label")` and of `CleanLearning.find_label_issues`, which calls the score
    `label_quality`. `CleanLearning().fit(features, labels, label_issues=to_cleanlab(table, label_names))` trains
    without the issues.

    Args:
        table (`datasets.Dataset` or `pandas.DataFrame`): of all samples (`return_all=True`).
        label_names (`Sequence[str]`, *optional*): the names of the classes in the order of their numbers, for a table
            with names: `CleanLearning` wants numbers. By default labels stay as they are in the table.
        num_samples (`int`, *optional*): of the data set. Without it, a table of nothing but issues is refused, and
            samples that are missing at the end of others are not noticed.

    Returns:
        `pandas.DataFrame` with the columns `is_label_issue`, `label_score`, `label_quality` (the same), `given_label`
        and `predicted_label`. A sample of which nothing is known is no issue, its score is NaN, and its prediction -1
        (or None, among names).

    Raises:
        ValueError: if samples are missing, or a label is none of `label_names`.
    """
    table = as_table(table)
    check_label_names(label_names)
    frame = table.to_pandas().sort_values("sample_index").reset_index(drop=True)
    index = frame["sample_index"].tolist()
    size = max(index, default=-1) + 1 if num_samples is None else num_samples
    is_whole = index == list(range(size))
    if frame["is_label_issue"].all() and not (is_whole and num_samples is not None):
        raise ValueError(
            f"The table has {len(frame)} rows, and these are not all samples from 0 on, or are the issues alone. "
            "cleanlab wants one row for each sample of the data set: make the table with `return_all=True`."
        )
    if not is_whole:
        missing = sorted(set(range(size)) - set(index))
        others = f", nor for {len(missing) - 1} others" * (len(missing) > 1)
        what = f"no row for sample {missing[0]}{others}" if missing else f"{len(frame)} rows for {size} samples"
        raise ValueError(
            f"The table has {what}. cleanlab wants one row for each sample of the data set. Samples without a label "
            "(-100) have none: take them out of the data set, and make the table of what is left, with "
            "`return_all=True`."
        )
    columns = {name: frame[name] for name in ("is_label_issue", "label_score")}
    columns["label_quality"] = frame["label_score"]
    for name in (name for name in _LABELS if name in frame):
        columns[name] = frame[name] if label_names is None else _numbers(frame[name], label_names)
        if columns[name].dtype.kind == "f":
            columns[name] = columns[name].fillna(-1).astype(int)
    return pd.DataFrame(columns)


def _numbers(labels: pd.Series, label_names: Sequence[str]) -> pd.Series:
    ids = {name: number for number, name in enumerate(label_names)}
    strange = [label for label in labels.dropna().unique() if label not in ids]
    if strange:
        raise ValueError(f"The table has the label {strange[0]!r}, which is none of `label_names`.")
    return labels.map(ids).fillna(-1).astype(int)


def _text(value: object) -> str:
    value = value.tolist() if isinstance(value, np.ndarray) else value  # of a column of lists
    return "" if pd.api.types.is_scalar(value) and pd.isna(value) else writable(str(value))


def as_table(table: datasets.Dataset | pd.DataFrame) -> datasets.Dataset:
    """The table of label issues, which may be a data frame.

    Raises:
        ValueError: if it is none.
    """
    if isinstance(table, pd.DataFrame):
        table = datasets.Dataset.from_pandas(table, preserve_index=False)
    there_are = table.column_names if isinstance(table, datasets.Dataset) else None
    missing = [name for name in ("sample_index", "label_score") if name not in (there_are or [])]
    if missing:
        why = f"it is a {type(table).__name__}" if there_are is None else f"it has no column {missing[0]!r}"
        raise ValueError(
            f"This is no table of label issues: {why}. Take what `trainer.label_issues()`, `find_label_issues` or "
            "`issue_table` returns."
        )
    return table


def check_overwriting(path: str | os.PathLike, state_of: Callable[[str], str | None]) -> None:
    """Refuses to overwrite a file that may be somebody's work.

    Args:
        state_of (`Callable`): from the path of a file to what speaks against overwriting it; None if nothing does.

    Raises:
        FileExistsError: if something does.
    """
    state = state_of(os.fspath(path)) if os.path.lexists(path) else None
    if state is not None:
        raise FileExistsError(f"{os.fspath(path)} {state}. It stays as it is: choose another name, or move it away.")


def state_of_csv(path: str) -> str | None:
    """What speaks against overwriting a file."""
    try:
        frame = read_sheet(path)
    except (OSError, ValueError):
        frame = pd.DataFrame()
    if not {"sample_index", "label_score"} <= set(frame.columns):
        return _FOREIGN
    if CORRECTION in frame and frame[CORRECTION].str.strip().any():
        return f"holds corrections that somebody has filled in (`{CORRECTION}`)"
    return None


def state_of_parquet(path: str) -> str | None:
    try:
        is_table = {"sample_index", "label_score"} <= set(pq.read_schema(path).names)
    except (OSError, pa.ArrowException):
        is_table = False
    return None if is_table else _FOREIGN
