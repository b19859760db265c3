"""The table of label issues as a data frame that pictures and page are made from: checked, with names as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from .._argument_checks import check_label_names, is_blank
from .._names import TRUE_LABEL
from .issue_table import CORRECTION, DEFAULT_THRESHOLD, TAKEN, are_issues
from .sheets import read_back


@dataclass(frozen=True)
class IssueFrame:
    """A table of label issues.

    Attributes:
        rows (`pandas.DataFrame`): `sample_index` (int), `given_label` (str), `label_score` (float; NaN: unknown),
            `is_label_issue` (bool), and if they are known `predicted_label`, `true_label` (str; None: unknown),
            `suggestion_confidence`, `loss` (float) and `reasons` (list of str); and the text columns. In the order of
            the table that was given.
        texts (`list[str]`): the names of the text columns.
        classes (`list[str]`): the names of all classes, in order.
    """

    rows: pd.DataFrame
    texts: list[str]
    classes: list[str]

    def has(self, *columns: str) -> bool:
        return all(column in self.rows for column in columns)

    @property
    def is_noisy(self) -> np.ndarray | None:
        """For each row, 1 if its label is known to be wrong, 0 if it is known to be right, NaN if neither; None if
        nothing is known of any."""
        if not self.has("true_label"):
            return None
        known = self.rows["true_label"].notna().to_numpy()
        wrong = (self.rows["true_label"] != self.rows["given_label"]).to_numpy()
        return np.where(known, wrong.astype(float), np.nan) if known.any() else None


def issue_frame(table: Any, label_names: Sequence[str] | None = None) -> IssueFrame:
    """Checks a table of label issues and brings it into one form.

    Args:
        table (`datasets.Dataset` or `pandas.DataFrame`): with `sample_index`, `given_label` and `label_score` or
            `clean_probability`; others as `trainer.label_issues()` has them. Any further column of strings is a text.
            Rows without a given label are left out.
        label_names (`Sequence[str]`, *optional*): all classes in order, and the names of those that the table holds as
            numbers.

    Raises:
        ValueError: if a column is missing or holds something else; the message names it.
    """
    check_label_names(label_names)
    frame = table if isinstance(table, pd.DataFrame) else table.to_pandas()
    if CORRECTION in frame or ("reasons" in frame and any(isinstance(own, str) for own in frame["reasons"])):
        frame = read_back(frame)  # it has been in a csv file
    missing = [name for name in ("sample_index", "given_label") if name not in frame]
    score = next((name for name in ("label_score", "clean_probability") if name in frame), None)
    if missing or score is None:
        missing = missing or ["label_score"]
        raise ValueError(
            f"The table has no column `{missing[0]}`; it has {', '.join(map(repr, frame.columns))}. A report is made "
            "from a table of label issues with one label a sample, such as `trainer.label_issues(return_all=True)`."
        )
    names = None if label_names is None else [str(name) for name in label_names]
    rows = pd.DataFrame({"sample_index": _numbers(frame, "sample_index").astype(np.int64)})
    for name in ("given_label", "predicted_label", "true_label"):
        if name in frame:
            rows[name] = pd.Series(
                [_name(*cell, names) for cell in zip(_values(frame[name]), frame[name].isna())], dtype=object
            )
    for name in ("label_score", "clean_probability", "suggestion_confidence", "loss"):
        if name in frame:
            rows[name] = _numbers(frame, name)
    rows["label_score"] = rows[score]
    for name in ("label_score", "suggestion_confidence"):
        if name in rows and not rows[name].dropna().between(-1e-3, 1 + 1e-3).all():
            raise ValueError(f"The column `{name}` holds what is no probability.")
    if "is_label_issue" in frame:
        rows["is_label_issue"] = _truths(frame, "is_label_issue")
    else:
        classes = (rows.get("given_label"), rows.get("predicted_label"))
        rows["is_label_issue"] = are_issues(rows[score].to_numpy(), *classes, DEFAULT_THRESHOLD)
    if "reasons" in frame:
        rows["reasons"] = [_reasons(value) for value in frame["reasons"]]
    others = [name for name in frame.columns if name not in (*TAKEN, TRUE_LABEL)]
    texts = [str(name) for name in others if pd.api.types.infer_dtype(frame[name].dropna()) == "string"]
    for name in texts:
        rows[name] = pd.Series(["" if pd.isna(value) else value for value in _values(frame[name])], dtype=object)
    rows = rows[rows["given_label"].notna()].reset_index(drop=True)  # without a label, nothing can be wrong with it
    return IssueFrame(rows, texts, names or _classes(rows))


def _reasons(value: Any) -> list[str]:
    """A csv file has one text for them, or nothing."""
    if isinstance(value, str):
        return [reason for reason in value.split(", ") if reason]
    return [] if pd.api.types.is_scalar(value) else [str(reason) for reason in value]


def _name(value: Any, is_missing: bool, names: list[str] | None) -> str | None:
    if is_missing:
        return None
    if isinstance(value, (int, np.integer, float)):
        if names is not None and not 0 <= value < len(names):
            raise ValueError(f"The table holds the label {value}, and there are {len(names)} label names.")
        return str(int(value)) if names is None else names[int(value)]
    if is_blank(value):
        raise ValueError(
            f"The table holds the label {str(value)!r}, which can't be seen: in a file of corrections it would stand "
            "for no correction. Give the class a name, such as 'other'; or put None there if it means no label."
        )
    if names is not None and str(value) not in names:
        raise ValueError(f"The table holds the label {str(value)!r}, which is none of the label names.")
    return str(value)


def _values(column: pd.Series) -> np.ndarray:
    """At once: to go through a column of Arrow's strings takes seconds."""
    return column.to_numpy(dtype=object)


def _numbers(frame: pd.DataFrame, name: str) -> np.ndarray:
    try:
        return frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The column `{name}` does not hold numbers: {error}") from error


def _truths(frame: pd.DataFrame, name: str) -> np.ndarray:
    """A csv file may have words for them, or what a spreadsheet program made of these."""
    words = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
    found = [words.get(str(value).strip().lower()) for value in _values(frame[name])]
    if None in found:
        row = found.index(None)
        raise ValueError(
            f"The column `{name}` holds {frame[name].iloc[row]!r} in row {row} (counted from 0): it has to be True or "
            "False. A spreadsheet program may have translated them, or left the cell empty."
        )
    return np.array(found, dtype=bool)


def _classes(rows: pd.DataFrame) -> list[str]:
    """All labels, numbers in their order."""
    found = {label for name in ("given_label", "predicted_label", "true_label") if name in rows for label in rows[name]}
    found.discard(None)
    return sorted(found, key=lambda label: (0, int(label), label) if label.isdecimal() else (1, 0, label))
