"""Labels of any kind to class numbers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from datasets import ClassLabel, Dataset

from .._names import IGNORED_LABEL, TRUE_LABEL
from ..sample_index import check_labels
from .classes import as_class, check_kinds, missing_words, note_lookalikes, shown, written

TEXTS = ("text", "text_pair")  # what the columns with texts are called afterwards
UNLABELLED = -1  # as a label of test data, as in GLUE

logger = logging.getLogger(__name__)


def encode_labels(
    splits: Mapping[str, Dataset],
    label_column: str = "label",
    text_columns: Sequence[str] = ("text",),
    clean_label_column: str | None = None,
    label_names: Sequence[str] | None = None,
) -> tuple[dict[str, Dataset], list[str]]:
    """Numbers the classes: those of a `ClassLabel` as they are, others in sorted order. The training data say which
    classes exist. A class is called as its label is written; that of a whole float is called as the integer.

    Test data may be without labels: their column may be missing, a cell empty, or -1 as in GLUE, unless -1 is a class.

    Args:
        splits (`Mapping[str, Dataset]`): `"train"` and any others.
        label_column (`str`, *optional*, defaults to `"label"`): a `ClassLabel`, integers, strings, bools or whole
            floats.
        text_columns (`Sequence[str]`, *optional*, defaults to `("text",)`): columns to keep, one or two.
        clean_label_column (`str`, *optional*): a column of the training data with the true labels, given as the labels
            are or by name; empty if the truth is unknown.
        label_names (`Sequence[str]`, *optional*): the classes in the order of their numbers, instead of those of the
            training data.

    Returns:
        `tuple[dict[str, Dataset], list[str]]`: the splits with the texts in `text` (and `text_pair`), the labels in a
        `ClassLabel` column `label` (-1 in test data without one), and nothing else; `"train"` has the true labels in
        `true_label`, too (-100 if unknown), if their column was named. And the names of the classes, in the order of
        their numbers.

    Raises:
        ValueError: if a label is missing outside the test data, of another kind than the first, or of a class that no
            training sample has; if a true label is no class; or if there is one class only.

    Example:

    ```python
    >>> splits, names = encode_labels({"train": Dataset.from_dict({"text": ["a", "b"], "label": ["yes", "no"]})})
    >>> splits["train"]["label"][:], names
    ([1, 0], ['no', 'yes'])
    ```
    """
    nothing = {""}
    if label_names is None:
        nothing = missing_words(splits["train"][label_column][:])
        label_names = classes_of(splits["train"], label_column)
        known = f"no training sample has. The labels of the train data are {listed(label_names)}."
    else:
        known = f"is no class of the model. Its classes are {listed(label_names)}."
    label_names = list(label_names)
    ids = {name: i for i, name in enumerate(label_names)}
    encoded = {}
    for split, dataset in splits.items():
        numbers = []
        for row, value in enumerate(values_of(dataset, label_column)):
            number = as_class(value, ids)
            if number is None:
                where = f"Row {row} of the {split} data (counted from 0)"
                is_missing = value is None or (isinstance(value, str) and value.strip().lower() in nothing)
                if split == "test" and (is_missing or as_class(value, {str(UNLABELLED): 0}) == 0):
                    numbers.append(UNLABELLED)
                    continue
                if is_missing:
                    raise ValueError(f"{where}: the label is missing.")
                raise ValueError(f"{where} has the label {value!r}, which {known}")
            numbers.append(number)
        if split == "test":
            _note_unlabelled(numbers, label_column, label_column in dataset.column_names)
        new = Dataset.from_dict({new: dataset[old][:] for new, old in zip(TEXTS, text_columns)})
        encoded[split] = new.add_column("label", numbers, feature=ClassLabel(names=label_names))
        if split == "train" and clean_label_column is not None:
            truth = true_labels(values_of(dataset, clean_label_column), ids)
            encoded[split] = encoded[split].add_column(TRUE_LABEL, truth)
    return encoded, label_names


def classes_of(dataset: Dataset, label_column: str) -> list[str]:
    """The names of the classes of a training set, in the order of their numbers.

    Raises:
        ValueError: if a label is missing or no class, or there is one class only.
    """
    feature, values = dataset.features[label_column], dataset[label_column][:]
    if isinstance(feature, ClassLabel):
        names = feature.names
        check_labels(values, len(names))
    else:
        check_kinds(values)
        names = [written(value) for value in sorted(set(values))]
        note_lookalikes(names, is_text=isinstance(values[0], str))
    if len(names) < 2:
        raise ValueError(f"The train data have a single class ({names[0]}): there is nothing to learn.")
    return names


def values_of(dataset: Dataset, column: str) -> list:
    """The labels as they are given, a `ClassLabel` by name; None for one that is missing."""
    if column not in dataset.column_names:
        return [None] * len(dataset)
    values, feature = dataset[column][:], dataset.features[column]
    if isinstance(feature, ClassLabel):
        numbers = range(feature.num_classes)
        return [
            feature.names[value] if value in numbers else None if value == UNLABELLED else value for value in values
        ]
    blank = (None, "")
    return [None if value in blank or value != value else value for value in values]


def _note_unlabelled(numbers: Sequence[int], column: str, has_column: bool) -> None:
    count = sum(number == UNLABELLED for number in numbers)
    if not has_column:
        logger.warning(f"The test data have no column {column!r}: they get predictions, and no accuracy.")
    elif count == len(numbers):
        logger.warning("The test data have no label: they get predictions, and no accuracy.")
    elif count:
        logger.warning(
            f"{count} of the {len(numbers)} test samples have no label: they get predictions, and accuracy is that of "
            f"the other {len(numbers) - count}."
        )


def true_labels(values: Sequence, ids: Mapping[str, int]) -> list[int]:
    """The class numbers of true labels.

    Args:
        values (`Sequence`): given as the labels are, or by name; None if unknown.
        ids (`Mapping[str, int]`): from the name of a class to its number.

    Returns:
        `list[int]`: class numbers, -100 if unknown.

    Raises:
        ValueError: if a value is no class, with its row.
    """
    numbers = []
    for row, value in enumerate(values):
        number = IGNORED_LABEL if value is None else as_class(value, ids)
        if number is None:
            raise ValueError(
                f"Row {row} of the train data (counted from 0) has the true label {value!r}, which is no label of the "
                f"training data ({listed(list(ids))}). Leave the cell empty if the truth is unknown."
            )
        numbers.append(number)
    return numbers


def listed(names: Sequence[str]) -> str:
    """The first of the names, for a message."""
    return f"{', '.join(map(shown, names[:10]))}{', ...' * (len(names) > 10)}"
