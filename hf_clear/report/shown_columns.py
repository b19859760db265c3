"""What the table of suspect labels shows of a data set: its texts, and the names of its classes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Value

from .._argument_checks import is_blank
from .._names import LABEL_COLUMNS, TRUE_LABEL
from ..data.texts import check_columns
from ..labels.names import are_names, names_in
from .issue_table import TAKEN

logger = logging.getLogger(__name__)

DECODED = "decoded_text"  # the column that stands for texts which the data set doesn't hold


def class_names(
    dataset: Any, label_columns: Sequence[str], config: Any = None, may_be_blank: bool = False
) -> list[str] | None:
    """What the classes of a data set are called: as its `ClassLabel` column says or, if it has none, as the model's
    config does.

    Args:
        dataset (`Any`): a `datasets.Dataset`, or any other.
        label_columns (`Sequence[str]`): what the column with the labels may be called; the first that is there counts.
        config (`PretrainedConfig`, *optional*): of the model. Names such as `LABEL_0`, its default, say nothing.
        may_be_blank (`bool`, *optional*, defaults to `False`): whether names are returned of which one is blank. In a
            table, or a file of corrections, numbers tell the classes apart then.

    Returns:
        `list[str]` in the order of the numbers; None if the classes have no names, or two have the same.
    """
    names = None
    if isinstance(dataset, datasets.Dataset):
        column = next((name for name in label_columns if name in dataset.column_names), None)
        feature = None if column is None else dataset.features[column]
        feature = getattr(feature, "feature", feature)  # if each token has a label
        names = feature.names if isinstance(feature, ClassLabel) else None
    if names is None and are_names(own := names_in(config)):
        names = own
    are_told_apart = names and len(set(names)) == len(names) and (may_be_blank or not any(map(is_blank, names)))
    return names if are_told_apart else None


def shown_columns(
    dataset: Any,
    rows: Sequence[int] | np.ndarray,
    columns: Sequence[str] | None = None,
    tokenizer: Any = None,
    label_names: Sequence[str] | None = None,
) -> datasets.Dataset:
    """Some rows of the columns that a person wants to see.

    Args:
        dataset (`Any`): a `datasets.Dataset`; of any other there is nothing to show.
        rows (`Sequence[int]`): which, in this order.
        columns (`Sequence[str]`, *optional*): their names. By default all columns with texts, labels aside; without
            one, those with lists of texts (words), joined by blanks; without one, `input_ids` as the tokenizer decodes
            them, in a column `decoded_text`, which need not be the text as it was.
        tokenizer (`Any`, *optional*): with a method `decode`.
        label_names (`Sequence[str]`, *optional*): the names of the classes, for a column `true_label`.

    Returns:
        `datasets.Dataset` with one row for each of `rows`; classes by name.

    Raises:
        ValueError: if there is no column of this name.
    """
    columns = [columns] if isinstance(columns, str) else columns
    if not isinstance(dataset, datasets.Dataset):
        if columns:
            raise ValueError(
                f"`columns` names {columns[0]!r}, and the training set is a {type(dataset).__name__}, which has no "
                "columns: they are known of a `datasets.Dataset` alone. Look texts up by `sample_index` instead."
            )
        return datasets.Dataset.from_dict({})
    dataset = dataset.with_format(None)
    if columns is not None:
        check_columns(dataset, dict.fromkeys(columns, "`columns`"), "train")
    shown = dataset.select_columns(_columns_to_show(dataset) if columns is None else list(columns)).select(rows)
    if not shown.column_names and columns is None and hasattr(tokenizer, "decode"):
        return _decoded(dataset, rows, tokenizer)
    if not shown.column_names:
        return shown
    features, table = dict(shown.features), shown.with_format("arrow")[:]
    arrays = {name: table[name] for name in features}
    for name, feature in shown.features.items():
        is_number = getattr(feature, "dtype", "").startswith(("int", "uint")) and not isinstance(feature, ClassLabel)
        is_truth = name == TRUE_LABEL and label_names is not None and is_number
        names = label_names if is_truth else getattr(feature, "names", None)
        values = None
        if names is not None:
            known = range(len(names))
            values = [names[number] if number in known else None for number in arrays[name].to_pylist()]
        elif columns is None and _is_text(getattr(feature, "feature", None)):
            values = [" ".join(word or "" for word in words or ()) for words in arrays[name].to_pylist()]
        if values is not None:
            arrays[name], features[name] = pa.array(values, pa.string()), Value("string")
    return datasets.Dataset(pa.table(arrays), info=datasets.DatasetInfo(features=datasets.Features(features)))


def _columns_to_show(dataset: datasets.Dataset) -> list[str]:
    texts = [name for name, feature in dataset.features.items() if _is_text(feature) and name not in LABEL_COLUMNS]
    if not texts:
        lists = {name: getattr(feature, "feature", None) for name, feature in dataset.features.items()}
        texts = [name for name, feature in lists.items() if _is_text(feature)]
    clash = [name for name in texts if name in TAKEN]
    if clash:
        logger.warning(
            f"The column {clash[0]!r} of the training set is not shown: a column of the table, or of its file, is "
            "called so, too. Rename it with `dataset.rename_column`."
        )
    return [name for name in texts if name not in TAKEN]


def _is_text(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def _decoded(dataset: datasets.Dataset, rows: Sequence[int] | np.ndarray, tokenizer: Any) -> datasets.Dataset:
    if "input_ids" not in dataset.column_names:
        return datasets.Dataset.from_dict({})
    ids = dataset.select_columns(["input_ids"]).select(rows)["input_ids"]
    texts = [tokenizer.decode(list(own), skip_special_tokens=True) for own in ids]
    return datasets.Dataset.from_dict({DECODED: texts}, features=datasets.Features({DECODED: Value("string")}))
