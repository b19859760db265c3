"""Checks that several classes of arguments share."""

from __future__ import annotations

import json
from typing import Any


def check_numbers(arguments: Any, *names: str) -> None:
    """Raises a ValueError where one of these arguments is no number."""
    for name in names:
        value = getattr(arguments, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"`{name}` has to be a number; got {value!r}.")


def check_whole_numbers(arguments: Any, **least: int) -> None:
    """Raises a ValueError where one of these is no whole number of at least so much; makes ints of them."""
    check_numbers(arguments, *least)
    for name, smallest in least.items():
        value = getattr(arguments, name)
        if value != value or value in (float("inf"), float("-inf")) or value != int(value) or value < smallest:
            raise ValueError(f"`{name}` has to be a whole number, {smallest} or above; got {value}.")
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
    return value
