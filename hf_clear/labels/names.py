"""The names of a model's classes: in its config and, beside an adapter, in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ..files import write_atomically

LABEL_NAMES_FILE = "label_names.json"  # beside an adapter: nothing of peft's says what its classes are called


def is_classifier(model: nn.Module) -> bool:
    """Whether a model of transformers, or of a class below one of its, has a head for classes, which its config counts
    and may name."""
    is_one = isinstance(model, PreTrainedModel) and any(
        "Classification" in kind.__name__ for kind in type(model).__mro__
    )
    return is_one and bool(getattr(model.config, "id2label", None))


def names_in(config: Any) -> list[str]:
    """The names of the classes in a model's config, in the order of the head's rows; empty if there are gaps between
    their numbers, or two names are the same."""
    names = {int(number): str(name) for number, name in (getattr(config, "id2label", None) or {}).items()}
    complete = sorted(names) == list(range(len(names))) and len(set(names.values())) == len(names)
    return [names[number] for number in sorted(names)] if complete else []


def are_names(trained: Sequence[str]) -> bool:
    """Whether somebody gave the classes these names; transformers calls them `LABEL_0` and so on."""
    return len(trained) > 0 and list(trained) != [f"LABEL_{i}" for i in range(len(trained))]


def agreed_names(own: Sequence[str], of_data: Sequence[str], num_labels: int) -> tuple[list[str], str]:
    """What the rows of a head stand for that is trained on a data set.

    They are numbered as the labels are. So if the model's config has the names of the data in another order, that of
    the data counts. Other names than those of the data stay, and the data's are taken if the config has none.

    Args:
        own (`Sequence[str]`): the names in the config.
        of_data (`Sequence[str]`): those of the data; empty if there are none.
        num_labels (`int`): the rows of the head.

    Returns:
        `tuple[list[str], str]`: the names, empty if there are none for all rows; and what is to be said, or "".
    """
    own, of_data = list(own), list(of_data)
    if of_data and len(of_data) != num_labels:
        said = (
            f"The training set has names for {len(of_data)} classes, and the head {num_labels} rows: they are not used."
        )
        return own, said
    if not of_data or not are_names(own) or own == of_data:
        names = own if are_names(own) else of_data or own
        return (names if len(names) == num_labels else []), ""
    said = f"The model's config numbers its classes {_shown(own)}, the training set {_shown(of_data)}. "
    if set(own) == set(of_data):
        return of_data, f"{said}The head is trained on the latter: the config has their order now."
    return own, f"{said}What is saved has the names of the former, reports those of the latter."


def _shown(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(map(repr, names[:most])) + (", ..." if len(names) > most else "")


def name_classes(config: Any, names: Sequence[str]) -> None:
    """Writes names of the classes into a model's config, in the order of the head's rows."""
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}


def write_label_names(folder: str | os.PathLike, names: Sequence[str]) -> None:
    """Writes `label_names.json`: a list of names, in the order of the head's rows."""
    content = json.dumps(list(names), indent=2) + "\n"
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
