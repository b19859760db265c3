"""The classes of a data set as people and spreadsheets write them."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import datasets
from datasets import ClassLabel

from .._argument_checks import check_label_names, is_blank
from ..data.classes import as_class, written
from ..data.labels import listed
from .sheets import unescaped


class WrittenClasses:
    """How the classes of a data set are written, and what stands for them in its label column."""

    def __init__(self, dataset: datasets.Dataset, column: str, label_names: Sequence[str] | None):
        check_label_names(label_names)
        feature, values = dataset.features[column], dataset.with_format(None)[column][:]
        wrong = next((row for row, value in enumerate(values) if isinstance(value, (list, dict))), None)
        if wrong is not None:
            raise ValueError(
                f"Row {wrong} of the data set has the label {values[wrong]!r}: corrections are for one class a sample."
            )
        known = {value: written(value) for value in values if value is not None}
        names = feature.names if isinstance(feature, ClassLabel) else label_names
        self.blank = next((name for name in names or known.values() if is_blank(name)), None)
        if self.blank is not None and isinstance(feature, ClassLabel):
            # Then numbers are in the table, see `class_names`.
            names = label_names or range(len(feature.names))
        if names is not None and all(type(value) is int for value in known):
            known = {number: str(name) for number, name in enumerate(names)}
        self.values = list(known)
        self.names = list(known.values())
        self._ids = {name: number for number, name in enumerate(self.names)}
        folded = [name.strip().casefold() for name in self.names]
        counts = Counter(folded)
        self._folded = {name: number for number, name in enumerate(folded) if counts[name] == 1}

    def find(self, cell: Any) -> Any:
        """The label that a cell stands for; None if it is no class. `TRUE` is `True`, if there is one such class."""
        for text in (unescaped(cell), cell) if isinstance(cell, str) else (cell,):
            number = as_class(text, self._ids)
            if number is None:
                number = self._folded.get(written(text).strip().casefold())
            if number is not None:
                return self.values[number]
        return None

    def shown(self, label: Any) -> str:
        return repr(self.names[self.values.index(label)] if label in self.values else label)

    def advice(self, cell: Any) -> str:
        """What to do about a cell that is no class."""
        close = difflib.get_close_matches(written(cell), self.names, n=1)
        text = f"There are the classes {listed(self.names)}." + (f" Did you mean {close[0]!r}?" if close else "")
        if all(name.lstrip("-").isdigit() for name in self.names):
            text += " If these have names, give them in `label_names`, in the order of the numbers."
        if self.blank is not None:
            text += f" (One class is called {self.blank!r}, which can't be seen: so numbers stand for all.)"
        return text
