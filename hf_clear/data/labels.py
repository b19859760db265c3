"""Labels of any kind to class numbers."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from datasets import ClassLabel, Dataset

from .._names import TRUE_LABEL
from ..sample_index import check_labels

TEXTS = ("text", "text_pair")  # what the columns with texts are called afterwards
UNKNOWN = -100  # as a true label


def encode_labels(
    splits: Mapping[str, Dataset],
    label_column: str = "label",
    text_columns: Sequence[str] = ("text",),
    clean_label_column: str | None = None,
) -> tuple[dict[str, Dataset], list[str]]:
    """Numbers the classes: those of a `ClassLabel` as they are, others in sorted order. The training data say which
    classes exist.

    Args:
        splits (`Mapping[str, Dataset]`): `"train"` and any others.
        label_column (`str`, *optional*, defaults to `"label"`): a `ClassLabel`, integers, strings or bools.
        text_columns (`Sequence[str]`, *optional*, defaults to `("text",)`): columns to keep, one or two.
        clean_label_column (`str`, *optional*): a column of the training data with the true labels, given as the labels
            are or by name; empty if the truth is unknown.

    Returns:
        `tuple[dict[str, Dataset], list[str]]`: the splits with the texts in `text` (and `text_pair`), the labels in a
        `ClassLabel` column `label`, and nothing else; `"train"` has the true labels in `true_label`, too (-100 if
        unknown), if their column was named. And the names of the classes, in the order of their numbers.

    Raises:
        ValueError: if a label is missing, of another kind than the first, or of a class that no training sample has;
            if a true label is no class; or if there is one class only.

    Example:

    ```python
    >>> splits, names = encode_labels({"train": Dataset.from_dict({"text": ["a", "b"], "label": ["yes", "no"]})})
    >>> splits["train"]["label"][:], names
    ([1, 0], ['no', 'yes'])
    ```
    """
    feature = splits["train"].features[label_column]
    values = list(splits["train"][label_column])
    if isinstance(feature, ClassLabel):
        classes = list(range(feature.num_classes))
        names = feature.names
        check_labels(values, len(classes))
    else:
        check_kinds(values)
        if type(values[0]) not in (str, bool):
            check_labels(values, None)
        classes = sorted(set(values))
        names = [str(value) for value in classes]
    if len(classes) < 2:
        raise ValueError(f"The train data have a single class ({names[0]}): there is nothing to learn.")
    ids = {value: i for i, value in enumerate(classes)}
    encoded = {}
    for name, dataset in splits.items():
        labels = list(dataset[label_column])
        for row, label in enumerate(labels):
            if label is None:
                raise ValueError(f"Row {row} of the {name} data (counted from 0): the label is missing.")
            if type(label) is not type(classes[0]) or label not in ids:
                raise ValueError(
                    f"Row {row} of the {name} data (counted from 0) has the label {label!r}, which no training sample "
                    f"has. The labels of the train data are {', '.join(names[:10])}{', ...' * (len(names) > 10)}."
                )
        columns = {new: list(dataset[old]) for new, old in zip(TEXTS, text_columns)}
        new = Dataset.from_dict(columns)
        encoded[name] = new.add_column("label", [ids[label] for label in labels], feature=ClassLabel(names=names))
        if name == "train" and clean_label_column is not None:
            truth = list(dataset[clean_label_column])
            feature = dataset.features[clean_label_column]
            if isinstance(feature, ClassLabel):  # may number the classes in another order
                truth = [None if value is None else feature.int2str(value) for value in truth]
            encoded[name] = encoded[name].add_column(TRUE_LABEL, true_labels(truth, ids, names))
    return encoded, names


def check_kinds(labels: Sequence) -> None:
    """Looks whether the labels of the training data are all there, and of one kind.

    Raises:
        ValueError: if not, with the row of the first that is not.
    """
    words = {label.strip().lower() for label in labels if isinstance(label, str)}
    # Among numbers, "nan" and the like stand for no label; among names, for themselves.
    nothing = {"", "nan", "null", "none", "na", "n/a"}
    nothing = nothing if all(word.lstrip("-").isdigit() for word in words - nothing) and words - nothing else {""}
    for row, label in enumerate(labels):
        where = f"Row {row} of the train data (counted from 0)"
        if label is None or label != label or (isinstance(label, str) and label.strip().lower() in nothing):
            raise ValueError(f"{where}: the label is missing{f' ({label!r})' if label is not None else ''}.")
        if isinstance(label, (list, dict)):
            raise ValueError(f"{where}: the label is {label!r}. It has to be one class: an integer or a string.")
        if type(label) is not type(labels[0]):
            raise ValueError(
                f"{where} has the label {label!r}, a {type(label).__name__}, and row 0 has {labels[0]!r}, a "
                f"{type(labels[0]).__name__}. Labels have to be all integers or all strings."
            )


def true_labels(values: Sequence, ids: Mapping[Hashable, int], names: Sequence[str]) -> list[int]:
    """The class numbers of true labels.

    Args:
        values (`Sequence`): given as the labels are (a key of `ids`) or by name; None, NaN or "" if unknown.
        ids (`Mapping[Hashable, int]`): from a label as given to the number of its class.
        names (`Sequence[str]`): of the classes, in the order of their numbers.

    Returns:
        `list[int]`: class numbers, -100 if unknown.

    Raises:
        ValueError: if a value is no class, with its row.
    """
    numbers, by_name = [], {name: i for i, name in enumerate(names)}
    for row, value in enumerate(values):
        is_missing = value is None or value != value or value == ""
        if isinstance(value, float) and not is_missing and value.is_integer():
            value = int(value)  # whole numbers in a column with gaps are read as 1.0
        number = by_name.get(str(value))
        if isinstance(value, Hashable):
            number = UNKNOWN if is_missing else ids.get(value, number)
        if number is None:
            raise ValueError(
                f"Row {row} of the train data (counted from 0) has the true label {value!r}, which is no label of the "
                f"training data ({', '.join(names[:10])}{', ...' * (len(names) > 10)}). Leave the cell empty where the "
                "truth is unknown."
            )
        numbers.append(number)
    return numbers
