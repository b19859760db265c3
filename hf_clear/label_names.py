"""The names of a model's classes: in its config and, beside an adapter, in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from .files import write_atomically

LABEL_NAMES_FILE = "label_names.json"  # beside an adapter: nothing of peft's says what its classes are called


def is_classifier(model: nn.Module) -> bool:
    """Whether a model of transformers has a head for classes, which its config counts and may name."""
    return "Classification" in type(model).__name__ and bool(getattr(getattr(model, "config", None), "id2label", None))


def names_in(config: Any) -> list[str]:
    """The names of the classes in a model's config, in the order of the head's rows; empty if there are gaps between
    their numbers, or two names are the same."""
    names = {int(number): str(name) for number, name in (getattr(config, "id2label", None) or {}).items()}
    complete = sorted(names) == list(range(len(names))) and len(set(names.values())) == len(names)
    return [names[number] for number in sorted(names)] if complete else []


def are_names(trained: Sequence[str]) -> bool:
    """Whether somebody gave the classes these names; transformers calls them `LABEL_0` and so on."""
    return len(trained) > 0 and list(trained) != [f"LABEL_{i}" for i in range(len(trained))]


def name_classes(config: Any, names: Sequence[str]) -> None:
    """Writes names of the classes into a model's config, in the order of the head's rows."""
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}


def write_label_names(folder: str | os.PathLike, names: Sequence[str]) -> None:
    """Writes `label_names.json`: a list of names, in the order of the head's rows."""
    content = json.dumps(list(names), indent=2, ensure_ascii=False) + "\n"
    write_atomically(Path(folder) / LABEL_NAMES_FILE, content.encode())


def read_label_names(path: str | os.PathLike) -> list[str]:
    """What [`write_label_names`] wrote.

    Raises:
        ValueError: if the file holds no names.
    """
    with open(path, "rb") as file:
        try:
            names = json.load(file)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} can't be read as JSON: {error}") from error
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names) or len(set(names)) < len(names):
        raise ValueError(f"{path} has to hold a list of different names, those of the classes.")
    return names
