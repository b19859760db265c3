"""The table of suspect labels: its columns, their order, and why a label is in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets import Value

from .._argument_checks import check_label_names

DEFAULT_THRESHOLD = 0.5
REASONS = (
    *("high_loss", "disagrees_with_neighbors", "disagrees_with_ensemble", "label_never_predicted", "not_scored"),
)
COLUMNS = (  # after these come the text columns, if there are any
    *("sample_index", "given_label", "predicted_label", "is_label_issue", "label_score", "clean_probability"),
    *("suggestion_confidence", "loss", "reasons"),
)
CORRECTION = "corrected_label"  # the column that a person fills in, once the table is in a file
TAKEN = (*COLUMNS, CORRECTION)  # no name for a text column
_UNSUSPECTED = 0.95  # a loss is high if so many of the samples that are not suspect have a lower one


def issue_table(
    label_score: np.ndarray,
    given_label: np.ndarray | None = None,
    predicted_label: np.ndarray | None = None,
    *,
    suggestion_confidence: np.ndarray | None = None,
    clean_probability: np.ndarray | None = None,
    loss: np.ndarray | None = None,
    neighbors_disagree: np.ndarray | None = None,
    held_out: np.ndarray | None = None,
    texts: datasets.Dataset | Mapping[str, Sequence] | Sequence[str] | None = None,
    label_names: Sequence[str] | None = None,
    sample_index: np.ndarray | None = None,
    threshold: float | None = None,
    return_all: bool = False,
) -> datasets.Dataset:
    """The labels that are more likely wrong than right, worst first, with what they should be and why.

    The names of the columns, and what they mean, are those of cleanlab's Datalab.

    Args:
        label_score (`np.ndarray` of shape `[num_samples]`): the probability that the given label is right; NaN if
            nothing is known.
        given_label (`np.ndarray` of shape `[num_samples]`, *optional*): class numbers; negative for none. None if
            every token has its own.
        predicted_label (`np.ndarray` of shape `[num_samples]`, *optional*): the class that each sample should have;
            negative if that is unknown.
        suggestion_confidence (`np.ndarray` of shape `[num_samples]`, *optional*): the probability of that class.
        clean_probability (`np.ndarray` of shape `[num_samples]`, *optional*): what training used; NaN for samples that
            it did not use.
        loss (`np.ndarray` of shape `[num_samples]`, *optional*): cross entropy with the given label, in nats.
        neighbors_disagree (`np.ndarray` of shape `[num_samples]`, *optional*): True where another label is
            more frequent among the nearest neighbors.
        held_out (`np.ndarray` of shape `[num_samples]`, *optional*): True for samples that the model has not been
            trained on. Their losses are higher, and are compared with each other alone.
        texts (`datasets.Dataset`, `Mapping[str, Sequence]` or `Sequence[str]`, *optional*): what to show of each
            sample, column by column, `num_samples` rows; a sequence alone is the column `text`.
        label_names (`Sequence[str]`, *optional*): the names of the classes, in the order of their numbers.
        sample_index (`np.ndarray` of shape `[num_samples]`, *optional*): the row of the data set that each sample is;
            0 to num_samples - 1 by default.
        threshold (`float`, *optional*): a label is an issue if its score is below it; 0.5 by default. Up to 0.5, only
            if `predicted_label` is another class or unknown: the most probable label is no issue, as in cleanlab.
        return_all (`bool`, *optional*, defaults to `False`): whether to return every sample, and not the issues alone.

    Returns:
        `datasets.Dataset`, sorted by `label_score`, unknown ones last, with these columns; those whose argument was
        not given are left out:

        - `sample_index` (`int`),
        - the columns of `texts`,
        - `given_label`, `predicted_label` (`str`; `int` without `label_names`; None if there is none),
        - `is_label_issue` (`bool`),
        - `label_score`, `clean_probability`, `suggestion_confidence`, `loss` (`float`),
        - `reasons` (list of `str`): `high_loss`, the loss is above that of 95 % of the samples that are not suspect;
          `disagrees_with_neighbors`; `disagrees_with_ensemble`, the suggestion, which is the mean of several
          predictions if there are several, is another class; `label_never_predicted`, no sample is predicted to
          have this label; `not_scored`, nothing is known of the sample.

    Raises:
        ValueError: if arguments are of different lengths, a score or a probability is outside [0, 1], a label is no
            class, two classes have one name, flags or rows of the data set are none, `texts` are no columns, or one of
            them is called like one of the table.

    Example:

    ```python
    >>> issue_table([0.9, 0.1], [0, 0], [0, 1], texts={"text": ["fine", "bad"]}, label_names=["good", "bad"])[0]
    {'sample_index': 1, 'text': 'bad', 'given_label': 'good', 'predicted_label': 'bad', 'is_label_issue': True, ...}
    ```
    """
    score = _numbers("label_score", label_score, None, is_probability=True)
    size = len(score)
    threshold = check_threshold(threshold)
    check_label_names(label_names)
    probabilities = {"clean_probability": clean_probability, "suggestion_confidence": suggestion_confidence}
    numbers = {
        name: _numbers(name, own, size, is_probability=True) for name, own in probabilities.items() if own is not None
    }
    if loss is not None:
        numbers["loss"] = _numbers("loss", loss, size)
    given = {"given_label": given_label, "predicted_label": predicted_label}
    classes = {name: _classes(name, own, size, label_names) for name, own in given.items() if own is not None}
    flags = {
        name: np.zeros(size, bool) if own is None else _flags(name, own, size)
        for name, own in {"neighbors_disagree": neighbors_disagree, "held_out": held_out}.items()
    }
    index = np.arange(size) if sample_index is None else _rows(sample_index, size)

    is_issue = are_issues(score, classes.get("given_label"), classes.get("predicted_label"), threshold)
    missing = np.full(size, np.nan)
    why = {
        "high_loss": _is_high(numbers.get("loss", missing), is_issue, flags["held_out"]),
        "disagrees_with_neighbors": flags["neighbors_disagree"],
        **_disagreement(classes.get("given_label"), classes.get("predicted_label"), size),
        "not_scored": np.isnan(score),
    }
    order = np.lexsort((index, -numbers.get("loss", missing), score))  # NaN last
    rows = order if return_all else order[is_issue[order]]
    columns: dict[str, tuple[Any, Any]] = {"sample_index": (index[rows], Value("int64"))}
    for name, numbers_of in classes.items():
        columns[name] = _named(numbers_of[rows], label_names)
    columns["is_label_issue"] = (is_issue[rows], Value("bool"))
    columns["label_score"] = (score[rows], Value("float64"))
    columns |= {name: (numbers[name][rows], Value("float64")) for name in COLUMNS if name in numbers}
    columns["reasons"] = (_listed({name: own[rows] for name, own in why.items()}), datasets.List(Value("string")))
    features = datasets.Features({name: kind for name, (_, kind) in columns.items()})
    table = datasets.Dataset.from_dict({name: values for name, (values, _) in columns.items()}, features=features)
    if texts is None:
        return table
    shown = as_columns(texts)
    if shown.column_names and len(shown) != size:
        raise ValueError(f"`texts` has {len(shown)} rows, and there are {size} samples: one row for each.")
    return with_columns(table, shown.with_format(None).select(rows))


def as_columns(texts: datasets.Dataset | Mapping[str, Sequence] | Sequence[str]) -> datasets.Dataset:
    """What to show of each sample, as a data set; a sequence of strings is its column `text`.

    Raises:
        ValueError: if these are no columns.
    """
    if isinstance(texts, datasets.Dataset):
        return texts
    columns: Any = texts
    try:
        if not (isinstance(texts, Mapping) or hasattr(texts, "columns")):  # a DataFrame is a table, a Series is none
            is_list = not isinstance(texts, (str, bytes)) and hasattr(texts, "__iter__")
            columns = {"text": list(texts)} if is_list else None
            if columns is None or not all(text is None or isinstance(text, str) for text in columns["text"]):
                raise TypeError(f"got a {type(texts).__name__}")
        return datasets.Dataset.from_dict({name: list(own) for name, own in dict(columns).items()})
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise ValueError(
            "`texts` has to be a datasets.Dataset, a dict of columns of the same length such as {'text': [...]}, or a "
            f"list of strings: {error}."
        ) from error


def are_issues(score: np.ndarray, given: Any, predicted: Any, threshold: float) -> np.ndarray:
    """Which labels are called wrong, bool `[num_samples]`. Classes by number (negative: unknown) or by name (None);
    None if there are none at all."""
    is_issue = score < threshold  # False for NaN
    if given is None or predicted is None or threshold > DEFAULT_THRESHOLD:
        return is_issue
    return is_issue & (np.asarray(given) != np.asarray(predicted))


def with_columns(table: datasets.Dataset, columns: datasets.Dataset) -> datasets.Dataset:
    """The table with more columns after `sample_index`, row by row.

    Raises:
        ValueError: if one of them is called like a column of the table, or there are more or fewer rows.
    """
    if not columns.column_names:
        return table
    clash = [name for name in columns.column_names if name in TAKEN]
    if clash:
        raise ValueError(
            f"A column of the data set is called {clash[0]!r}, as is one of the table of label issues, or of its file. "
            "Rename it with `dataset.rename_column`, or name the columns to show in `columns`."
        )
    if len(columns) != len(table):
        raise ValueError(f"There are {len(columns)} rows for a table of {len(table)}.")
    own, others = (each.with_format("arrow")[:] for each in (table, columns))
    features = {"sample_index": table.features["sample_index"], **columns.features, **table.features}
    arrays = {name: (own if name in table.column_names else others)[name] for name in features}
    info = datasets.DatasetInfo(features=datasets.Features(features))
    return datasets.Dataset(pa.table(arrays), info=info)


def check_threshold(threshold: float | None) -> float:
    """The threshold that is meant.

    Raises:
        ValueError: if it is no number in [0, 1].
    """
    if threshold is None:
        return DEFAULT_THRESHOLD
    is_number = isinstance(threshold, (int, float, np.number)) and not isinstance(threshold, bool)
    if not is_number or not 0 <= threshold <= 1:
        raise ValueError(
            "`threshold` has to be a probability in [0, 1]: labels that are right with less than that are issues; got "
            f"{threshold!r}."
        )
    return float(threshold)


def _array(name: str, values: Any, size: int | None) -> np.ndarray:
    values = np.asarray(values)
    expected = f"[{'num_samples' if size is None else size}]"
    if values.ndim != 1 or (size is not None and len(values) != size):
        raise ValueError(f"`{name}` has to be of shape {expected}, one for each sample; got {list(values.shape)}.")
    return values


def _numbers(name: str, values: Any, size: int | None, is_probability: bool = False) -> np.ndarray:
    values = _array(name, values, size)
    if values.dtype.kind not in "fiub":
        raise ValueError(f"`{name}` has to hold numbers; got {values.dtype}.")
    values = values.astype(np.float64)
    if not is_probability:
        return values
    wrong = np.flatnonzero((values < -1e-3) | (values > 1 + 1e-3))  # up to rounding
    if len(wrong):
        raise ValueError(f"`{name}[{wrong[0]}]` is {values[wrong[0]]:g}: it has to be a probability in [0, 1], or NaN.")
    return values.clip(0, 1)


def _classes(name: str, values: Any, size: int, label_names: Sequence[str] | None) -> np.ndarray:
    values = _array(name, values, size)
    if values.dtype.kind not in "iu" and size:
        raise ValueError(f"`{name}` has to hold class numbers, and names come from `label_names`; got {values.dtype}.")
    values = values.astype(np.int64)
    if label_names is not None:
        if size and values.max() >= len(label_names):
            row = int(values.argmax())
            raise ValueError(
                f"`{name}[{row}]` is {values[row]}, and there are {len(label_names)} `label_names`: numbers are from "
                f"0 to {len(label_names) - 1}."
            )
    return values


def _flags(name: str, values: Any, size: int) -> np.ndarray:
    values = _array(name, values, size)
    if size and not (values.dtype.kind in "biuf" and np.isin(values, (0, 1)).all()):  # NaN is neither
        raise ValueError(f"`{name}` has to hold True or False, one for each sample; got {values.tolist()[:3]}...")
    return values.astype(bool)


def _rows(values: Any, size: int) -> np.ndarray:
    values = _array("sample_index", values, size)
    if size and (values.dtype.kind not in "iu" or values.min() < 0 or len(np.unique(values)) < size):
        raise ValueError(
            "`sample_index` has to hold rows of the data set, whole numbers from 0 on, each once; got "
            f"{values.tolist()[:3]}..."
        )
    return values.astype(np.int64)


def _named(numbers: np.ndarray, label_names: Sequence[str] | None) -> tuple[list, Value]:
    if label_names is None:
        return [None if number < 0 else number for number in numbers.tolist()], Value("int64")
    names = [str(name) for name in label_names]
    return [None if number < 0 else names[number] for number in numbers.tolist()], Value("string")


def _is_high(loss: np.ndarray, is_issue: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    is_high = np.zeros(len(loss), dtype=bool)
    for group in (held_out, ~held_out):
        usual = loss[group & ~is_issue & np.isfinite(loss)]
        limit = np.quantile(usual, _UNSUSPECTED) if len(usual) else -np.inf
        is_high |= group & (loss > limit)
    return is_high


def _disagreement(given: np.ndarray | None, predicted: np.ndarray | None, size: int) -> dict[str, np.ndarray]:
    none = np.zeros(size, dtype=bool)
    if given is None or predicted is None:
        return {"disagrees_with_ensemble": none, "label_never_predicted": none}
    known = (given >= 0) & (predicted >= 0)
    never = ~np.isin(given, predicted[predicted >= 0])
    return {
        "disagrees_with_ensemble": known & (given != predicted),
        "label_never_predicted": known & never,
    }


def _listed(why: Mapping[str, np.ndarray]) -> list[list[str]]:
    flags = np.stack([why[name] for name in REASONS], axis=1)
    return [[name for name, is_one in zip(REASONS, row) if is_one] for row in flags.tolist()]
