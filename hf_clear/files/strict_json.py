"""JSON of strangers: read up to a size, and strictly."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

_DEEPEST = 20  # objects and lists inside of each other; peft's settings need 4
_MOST_DIGITS = 20  # of an integer: any of 64 bits


def open_file(path: Path) -> BinaryIO:
    """Opens a file for reading, in binary; never a pipe or a device, on which a read would wait forever.

    Raises:
        ValueError: if it is something else than a file.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ValueError(f"{path} is no file.")
    return os.fdopen(handle, "rb")


def parse_json(text: str) -> Any:
    """Integers of more than 20 digits become infinite, as floats do that are too large.

    Raises:
        ValueError: if the text is no JSON, or a name comes twice in an object.
    """
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates, parse_int=_integer)
    except RecursionError:
        raise ValueError("values are nested too deep") from None


def read_json_object(path: Path, most_bytes: int) -> dict[str, Any]:
    """What [`parse_json`] makes of a file.

    Raises:
        ValueError: if the file holds more than `most_bytes`, or something else than one JSON object; if a name
            comes twice in an object, text is no Unicode, or values are nested deeper than 20 times.
    """
    with open_file(path) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(
            f"{path} has more than {most_bytes / 2**20:.0f} MiB, and no settings need that. Get the file again from "
            "where it came from."
        )
    try:
        values = parse_json(content.decode("utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"it has to hold a JSON object, and holds a {type(values).__name__}")
        _check_texts_and_depth(values)
    except ValueError as error:
        raise ValueError(f"{path} is no valid JSON ({error}). Get the file again from where it came from.") from error
    return values


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"{name[:100]!r} comes twice")
            seen.add(name)
    return values


def _integer(text: str) -> int | float:
    return int(text) if len(text) <= _MOST_DIGITS else float("-inf" if text[0] == "-" else "inf")


def _check_texts_and_depth(values: Any) -> None:
    layer, depth = [values], 0
    while layer:
        depth += 1
        if depth > _DEEPEST:
            raise ValueError("values are nested too deep")
        inner: list[Any] = []
        for value in layer:
            if isinstance(value, dict):
                for name in value:
                    name.encode()  # of surrogates, that is an error
                inner += value.values()
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, str):
                value.encode()
        layer = inner
