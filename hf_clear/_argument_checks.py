"""Checks that several classes of arguments share."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

LARGEST = 1e6  # of weights and rates
LARGEST_COUNT = 2**31 - 1
LARGEST_SEED = 2**32 - 1  # of numpy's older generators, which scikit-learn and transformers seed


def check_numbers(arguments: Any, *names: str) -> None:
    """Raises a ValueError if one of these arguments is no number."""
    for name in names:
        value = getattr(arguments, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"`{name}` has to be a number; got {value!r}.")


def check_least(arguments: Any, name: str, least: float, largest: float = LARGEST) -> None:
    """Raises a ValueError if this argument is no number from `least` to `largest`: what is infinite, or next to it,
    makes losses that are not finite."""
    check_numbers(arguments, name)
    value = getattr(arguments, name)
    if not least <= value:
        raise ValueError(f"`{name}` has to be {least:g} or above; got {_shown(value)}.")
    if value > largest:
        raise ValueError(f"`{name}` has to be at most {largest:g}; got {_shown(value)}.")


def check_whole_numbers(arguments: Any, **least: int) -> None:
    """Raises a ValueError if one of these is no whole number of at least so much; makes ints of them."""
    check_numbers(arguments, *least)
    for name, smallest in least.items():
        value = getattr(arguments, name)
        if not is_finite(value) or value != int(value) or not smallest <= value <= LARGEST_COUNT:
            limit = f" and at most {LARGEST_COUNT}" * (value > LARGEST_COUNT)
            raise ValueError(f"`{name}` has to be a whole number, {smallest} or above{limit}; got {_shown(value)}.")
        setattr(arguments, name, int(value))


def dictionary(name: str, value: dict[str, Any] | str | None) -> dict[str, Any] | None:
    """A command line gives dictionaries as JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"`{name}` is no valid JSON ({error}); got {value!r}.") from error
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"`{name}` has to be a dictionary, by name of the setting; got {value!r}.")
    for key, item in (value or {}).items():
        if isinstance(item, (int, float)) and not (is_finite(item) and abs(item) <= LARGEST):
            raise ValueError(f"`{name}[{key!r}]` has to be a number up to {LARGEST:g}; got {_shown(item)}.")
    return value


def check_label_names(label_names: Any) -> None:
    """Looks whether these can be the names of all classes; None passes.

    Raises:
        ValueError: if these are not names of classes in the order of their numbers. The order of a dict such as a
            config's `label2id` is any: transformers reads it back in that of the alphabet.
    """
    if label_names is None:
        return
    is_one = hasattr(label_names, "__len__") and hasattr(label_names, "__getitem__")
    if not is_one or isinstance(label_names, (str, bytes, Mapping, Set)):
        hint = " Of a config, `[id2label[number] for number in sorted(id2label)]`." * isinstance(label_names, Mapping)
        raise ValueError(
            "`label_names` has to be a list: the names of all classes, in the order of their numbers. Got a "
            f"{type(label_names).__name__}.{hint}"
        )
    names = [None if name is None else str(name) for name in label_names]
    twice = [name for name, count in Counter(names).items() if count > 1 or name is None]
    if twice:
        why = "None in it" if twice[0] is None else f"{twice[0]!r} twice: nobody could tell the two classes apart"
        raise ValueError(f"`label_names` has {why}.")
    blank = next((number for number, name in enumerate(names) if is_blank(name)), None)
    if blank is not None:
        raise ValueError(
            f"`label_names[{blank}]` is {names[blank]!r}, which can't be seen: in a file of corrections it would stand "
            "for no correction. Give the class a name, such as 'other'."
        )


def is_blank(name: Any) -> bool:
    """Whether nothing is to be seen of a name."""
    return not str(name).strip()


def check_seed(seed: Any) -> None:
    """Raises a ValueError if this is no seed for numpy: without one, nothing could be repeated."""
    is_whole = isinstance(seed, (int, np.integer)) and not isinstance(seed, bool)
    if not is_whole or not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"`seed` has to be a whole number from 0 to {LARGEST_SEED}; got {seed!r}.")


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raises a ValueError if an argument is no whole number of at least so much."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"`{name}` has to be a whole number, {least} or above; got {value!r}.")


def check_counts(name: str, values: Any) -> list[int]:
    """Of an argument that is several whole numbers, these as a list; raises a ValueError if they are none."""
    if not hasattr(values, "__iter__") or isinstance(values, (str, bytes)):
        raise ValueError(f"`{name}` has to be a list of whole numbers; got {values!r}.")
    values = list(values)
    for value in values:
        check_count(name, value, 0)
    return values


def as_array(name: str, value: Any) -> np.ndarray:
    """An argument as an array of numbers: of lists, data frames, and tensors of any kind and device.

    Raises:
        ValueError: if it is none.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return value
    if callable(getattr(value, "detach", None)):  # a tensor of torch
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() and value.element_size() < 4 else value).numpy()
    try:
        array = np.asarray(value)
        array = array.astype(np.float64) if array.dtype.kind == "O" and array.ndim else array
    except (TypeError, ValueError):
        array = np.asarray(None)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"`{name}` has to hold numbers, in an array; got {type(value).__name__}{_first(value)}.")
    return array


def _first(value: Any) -> str:
    """Of what a sequence consists, for a message."""
    if isinstance(value, np.ndarray):
        return f" of {value.dtype}"
    is_listed = isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and len(value)
    return f" of {type(value[0]).__name__}" if is_listed else ""


def is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int of hundreds of digits
        return False


def _shown(value: float) -> str:
    return str(value) if is_finite(value) or isinstance(value, float) else "a number of hundreds of digits"
