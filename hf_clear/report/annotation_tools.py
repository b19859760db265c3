"""Suspect labels for annotation tools, with the suggestion as prediction: Label Studio and Argilla."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

import datasets
import numpy as np
import pandas as pd

from .._argument_checks import check_label_names
from .._version import __version__
from ..files import write_atomically
from .exports import as_table, check_overwriting
from .issue_table import COLUMNS, CORRECTION

_SHOWN = ("sample_index", "given_label", "label_score", "reasons")  # beside the texts
_RESERVED = (  # what Label Studio's exports have beside the texts
    *(*COLUMNS, CORRECTION),
    *("id", "annotation_id", "annotator", "created_at", "updated_at", "lead_time"),
)
_AGENT = f"hf_clear {__version__}"


def to_label_studio(table: datasets.Dataset | pd.DataFrame, path: str | os.PathLike, label_names: Sequence[str]) -> str:
    """Writes the table as tasks for Label Studio, each with the suggestion as its prediction, worst label first.

    Make a project with the labeling configuration that is returned, and import the file. What is chosen there is called
    `corrected_label`: the project's export as CSV, or as JSON-MIN, is a file for [`apply_corrections`].

    Args:
        table (`datasets.Dataset` or `pandas.DataFrame`): of `trainer.label_issues()`, with texts and labels.
        path (`str`): the JSON file.
        label_names (`Sequence[str]`): of all classes, to choose from: not all need be among the suspects.

    Returns:
        `str`: the labeling configuration (XML). Of a column whose name has commas, blanks or other signs in it, these
        are underscores, with a number after them if Label Studio or another column has that name (`given label`
        becomes `given_label_2`); rename the column before, or in the export, so that [`apply_corrections`] finds it.

    Raises:
        FileExistsError: if there is a file of that name that is no list of such tasks.
        ValueError: if `table` has no texts or no labels, or a label in it is none of `label_names`.

    Example:

    ```python
    >>> print(to_label_studio(trainer.label_issues(), "tasks.json", train.features["label"].names))
    <View>
      <Text name="text" value="$text"/>
      <Header value="Given label"/>
      <Text name="given_label" value="$given_label"/>
      <Choices name="corrected_label" toName="text" choice="single" showInline="true">
    ...
    ```
    """
    check_label_names(label_names)
    table = as_table(table)
    texts = _texts(table)
    _check_choices(table, label_names)
    keys = _keys(texts)
    tasks = []
    for row in table.with_format(None):
        data = {**{keys[name]: row[name] for name in texts}, **{name: row[name] for name in _SHOWN if name in row}}
        data |= {"given_label": _name(row["given_label"]), "label_score": _known(row["label_score"])}
        task: dict[str, Any] = {"data": data}
        if row.get("predicted_label") is not None:
            choice = {
                "from_name": CORRECTION,
                "to_name": keys[texts[0]],
                "type": "choices",
                "value": {"choices": [_name(row["predicted_label"])]},
            }
            prediction = {"model_version": _AGENT, "result": [choice]}
            score = _known(row.get("suggestion_confidence"))
            task["predictions"] = [prediction if score is None else {**prediction, "score": score}]
        tasks.append(task)
    _write(tasks, path, "data")
    lines = [f'  <Text name="{key}" value="${key}"/>' for key in keys.values()]
    lines += ['  <Header value="Given label"/>', '  <Text name="given_label" value="$given_label"/>']
    lines += [f'  <Choices name="{CORRECTION}" toName="{keys[texts[0]]}" choice="single" showInline="true">']
    lines += [f"    <Choice value={quoteattr(str(name))}/>" for name in label_names]
    return "\n".join(["<View>", *lines, "  </Choices>", "</View>"])


def to_argilla(table: datasets.Dataset | pd.DataFrame, path: str | os.PathLike) -> None:
    """Writes the table as records for Argilla 2, each with the suggestion for a question `corrected_label`.

    `dataset.records.from_json(path)` reads them into a dataset with a `TextField` for each text column and a
    `LabelQuestion(name="corrected_label", labels=...)`. When they are answered,
    `json.dump(dataset.records.to_list(flatten=True), open("answers.json", "w"))` makes a file for
    `apply_corrections(dataset, "answers.json", corrections_column="corrected_label.responses")`, which refuses samples
    whose annotators disagree.

    Args:
        table (`datasets.Dataset` or `pandas.DataFrame`): of `trainer.label_issues()`, with texts and labels.
        path (`str`): the JSON file.

    Raises:
        FileExistsError: if there is a file of that name that is no list of such records.
        ValueError: if `table` has no texts or no labels.

    Example:

    ```python
    >>> to_argilla(trainer.label_issues(), "records.json")
    >>> settings = rg.Settings(
    ...     fields=[rg.TextField("text")],
    ...     questions=[rg.LabelQuestion("corrected_label", labels=train.features["label"].names)],
    ...     metadata=[rg.IntegerMetadataProperty("sample_index"), rg.TermsMetadataProperty("given_label")],
    ... )
    >>> dataset = rg.Dataset("suspects", settings=settings).create()
    >>> dataset.records.from_json("records.json")
    ```
    """
    table = as_table(table)
    texts, records = _texts(table), []
    for row in table.with_format(None):
        suggestions = {}
        if row.get("predicted_label") is not None:
            suggestion = {"value": _name(row["predicted_label"]), "agent": _AGENT}
            score = _known(row.get("suggestion_confidence"))
            suggestions[CORRECTION] = suggestion if score is None else {**suggestion, "score": score}
        metadata = {"sample_index": row["sample_index"], "given_label": _name(row["given_label"])}
        records.append(
            {
                "id": str(row["sample_index"]),
                "fields": {name: row[name] or "" for name in texts},
                "metadata": metadata,
                "suggestions": suggestions,
            }
        )
    _write(records, path, "fields")


def _texts(table: datasets.Dataset) -> list[str]:
    texts = [name for name in table.column_names if name not in COLUMNS]
    if not texts or "given_label" not in table.column_names:
        raise ValueError(
            "The table has no texts to show. Name the columns: `label_issues(columns=[...])`."
            if not texts
            else "The table has no labels: every token has its own, and there is none to correct."
        )
    return texts


def _keys(texts: Sequence[str]) -> dict[str, str]:
    """What the columns are called in Label Studio, each otherwise: by letters, digits and underscores."""
    plain = {name: re.sub(r"\W", "_", name) or "_" for name in texts}
    taken = {*_RESERVED}
    keys = {}
    for name in sorted(texts, key=lambda name: plain[name] != name):  # who can keep the name does
        tried = (plain[name] if number == 1 else f"{plain[name]}_{number}" for number in itertools.count(1))
        keys[name] = next(key for key in tried if key not in taken)
        taken.add(keys[name])
    return {name: keys[name] for name in texts}


def _check_choices(table: datasets.Dataset, label_names: Sequence[str]) -> None:
    choices = {str(name) for name in label_names}
    for name in ("given_label", "predicted_label"):
        labels = table.with_format(None)[name][:] if name in table.column_names else []
        missing = [label for label in labels if label is not None and _name(label) not in choices]
        if missing:
            raise ValueError(
                f"`{name}` of the table holds {_name(missing[0])!r}, which is none of `label_names`: give the names of "
                "all classes, as they stand in the table."
            )


def _name(label: Any) -> str:
    """A data frame has made floats of numbers some of which are missing."""
    return str(int(label) if isinstance(label, float) and label.is_integer() else label)


def _known(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else float(value)


def _write(rows: list[dict[str, Any]], path: str | os.PathLike, key: str) -> None:
    def state_of(path: str) -> str | None:
        try:
            with open(path, encoding="utf-8") as file:
                before = json.load(file)
            is_own = isinstance(before, list) and all(isinstance(row, dict) and key in row for row in before)
        except (OSError, ValueError):
            is_own = False
        return None if is_own else "is there, and has not been written by hf_clear"

    check_overwriting(path, state_of)
    write_atomically(path, (json.dumps(rows, indent=1, ensure_ascii=False) + "\n").encode())
