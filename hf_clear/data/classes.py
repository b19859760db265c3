"""Classes: how a label is written, which labels are the same class, and the order that a model has them in."""

from __future__ import annotations

import logging
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import ClassLabel, DatasetDict

from .._names import TRUE_LABEL
from .tables import INTEGER

logger = logging.getLogger(__name__)
_LIKE_NOTHING = {"nan", "null", "na", "n/a"}  # "none" is a class of many data sets; "None" is what Python writes
_WHOLE = re.compile(rf"({INTEGER})\.0+")  # as pandas writes an integer of a column with gaps


def written(label: Any) -> str:
    """A label as text, which is the name of its class: a whole float as the integer that it is."""
    return str(int(label) if isinstance(label, float) and label.is_integer() else label)


def shown(name: str) -> str:
    """A name as it is, for a message; in quotes if a part of it could not be seen."""
    return name if name.isprintable() and name == " ".join(name.split()) and "," not in name else repr(name)


def as_class(label: Any, ids: Mapping[str, int]) -> int | None:
    """The number of a label's class; None if it is of no class. `1.0` is class `1` if there is no class `1.0`, and the
    other way round.

    Args:
        ids (`Mapping[str, int]`): from the name of a class to its number.
    """
    if label is None or isinstance(label, (list, dict)):
        return None
    text = written(label)
    number = ids.get(text)
    if number is None and (whole := _WHOLE.fullmatch(text)):
        number = ids.get(whole[1])
    return ids.get(f"{text}.0") if number is None and re.fullmatch(INTEGER, text) else number


def missing_words(labels: Sequence) -> set[str]:
    """What stands for no label, in lower case: among numbers "nan" and the like, among names nothing but a blank."""
    words = {label.strip().lower() for label in labels if isinstance(label, str)}
    nothing = {"", "nan", "null", "none", "na", "n/a"}
    return nothing if words - nothing and all(_number(word) is not None for word in words - nothing) else {""}


def check_kinds(labels: Sequence) -> None:
    """Looks whether the labels of the training data are all there, of one kind, and classes.

    Raises:
        ValueError: if not, with the row of the first that is not.
    """
    nothing = missing_words(labels)
    for row, label in enumerate(labels):
        where = f"Row {row} of the train data (counted from 0)"
        if label is None or label != label or (isinstance(label, str) and label.strip().lower() in nothing):
            raise ValueError(f"{where}: the label is missing{f' ({label!r})' if label is not None else ''}.")
        if isinstance(label, (list, dict)):
            raise ValueError(f"{where}: the label is {label!r}. It has to be one class: an integer or a string.")
    for row, label in enumerate(labels):
        where = f"Row {row} of the train data (counted from 0)"
        if type(label) is not type(labels[0]):
            raise ValueError(
                f"{where} has the label {label!r}, a {type(label).__name__}, and row 0 has {labels[0]!r}, a "
                f"{type(labels[0]).__name__}. Labels have to be all integers or all strings."
            )
        if not isinstance(label, (str, int)) and not (isinstance(label, float) and label.is_integer()):
            raise ValueError(
                f"{where}: the label is {label!r}, a {type(label).__name__}. It has to be a class: an integer, a "
                "string, a bool or a whole float."
            )


def note_lookalikes(names: Sequence[str], is_text: bool = True) -> None:
    """Warns of classes that look like one class in several spellings, and of names and numbers that are hardly those of
    classes."""
    alike: dict[Any, list[str]] = {}
    for name in names:
        number = _number(name)
        seen = "".join(own for own in name if unicodedata.category(own) != "Cf")  # such as a blank without width
        key = unicodedata.normalize("NFKC", " ".join(seen.split())).casefold() if number is None else number
        alike.setdefault(key, []).append(name)
    groups = [" and ".join(_apart(group)) for group in alike.values() if len(group) > 1]
    if groups:
        logger.warning(
            f"Labels that differ in blanks, case or spelling alone are classes of their own: {'; '.join(groups[:10])}"
            f"{'; ...' * (len(groups) > 10)}. If they mean the same, write them alike."
        )
    blanks = [name for name in names if name.strip().lower() in _LIKE_NOTHING or name.strip() == "None"]
    if is_text and blanks:
        logger.warning(
            f"Labels that look missing are taken for classes: {', '.join(map(repr, blanks))}. If they stand for no "
            "label, leave their cells empty."
        )
    numbers = [number for name in names if (number := _number(name)) is not None]
    if is_text and len(numbers) == len(names) and not all(number == int(number) for number in numbers):
        logger.warning(
            f"The labels are numbers such as {names[0]} and {names[-1]}: each of the {len(names)} is a class of its "
            "own, without an order."
        )


def _apart(names: list[str]) -> list[str]:
    """Names as a message shows them: by their code points, if they would look the same."""
    looks = {unicodedata.normalize("NFC", name) for name in names}
    return [repr(name) if len(looks) == len(names) else ascii(name) for name in names]


def _number(text: str) -> int | float | None:
    """What a text says, if that is a number; an integer without rounding."""
    try:
        number = int(text) if re.fullmatch(INTEGER, text) else float(text)
    except ValueError:
        return None
    return number if "_" not in text and (isinstance(number, int) or math.isfinite(number)) else None


def renumber(splits: DatasetDict, label_names: Sequence[str]) -> DatasetDict:
    """Numbers the classes anew; every sample keeps the class that it had.

    Args:
        splits (`DatasetDict`): `label` is a `ClassLabel`, `true_label` holds numbers of the same classes; what is
            below 0 stays.
        label_names (`Sequence[str]`): the same names in their new order.

    Returns:
        `DatasetDict`: with the columns in the order that they had.
    """
    feature = ClassLabel(names=list(label_names))
    renumbered = DatasetDict()
    for split, dataset in splits.items():
        new = [feature.str2int(name) for name in dataset.features["label"].names]
        changed = dataset
        for column in {"label", TRUE_LABEL}.intersection(dataset.column_names):
            numbers = [new[number] if number >= 0 else number for number in dataset[column][:]]
            changed = changed.remove_columns(column)
            changed = changed.add_column(column, numbers, feature=feature if column == "label" else None)
        renumbered[split] = changed.select_columns(dataset.column_names)
    return renumbered
