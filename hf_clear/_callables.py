"""Whether a function that is given can be called as it will be: known when it is given, not after hours of training."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any


def check_call(what: str, function: Any, *arguments: str, hint: str = "") -> None:
    """Looks at the signature alone, and calls nothing: a call with made-up arguments might change what it remembers.

    Args:
        what (`str`): the function, for messages, such as `"The estimator 'mine'"`.
        arguments (`str`): what it is called with, in this order.
        hint (`str`, *optional*): what to do, for the message.

    Raises:
        ValueError: if it is not callable, or does not take these arguments. What tells no signature, as some functions
            in C, passes.
    """
    called = f"{what} is called with ({', '.join(arguments)})"
    if not callable(function):
        raise ValueError(f"{called}: it has to be a function; got {function!r}.")
    try:
        signature = inspect.signature(function, follow_wrapped=False)  # a decorator may add arguments
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise ValueError(f"{called}, and takes {signature}: {error}. {hint}".rstrip()) from None


def name_of(function: Callable[..., Any]) -> str:
    """What a function or an object that can be called is named in messages and settings."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", None)
    return name if isinstance(name, str) else type(function).__name__
