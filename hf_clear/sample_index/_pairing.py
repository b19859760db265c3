"""Which sample each row of a batch is."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import torch

from .._names import SAMPLE_INDEX
from ._rows import agrees_mostly, all_match, copied, count_rows, fields_of, matches, parts_of, scalar

REMEDY = (
    "Let the index of each sample through: while hf_clear collates, every item (a dict) has it under the key "
    f"`hf_clear.SAMPLE_INDEX` ({SAMPLE_INDEX!r}). In the collator: `if SAMPLE_INDEX in kept[0]: batch[SAMPLE_INDEX] = "
    "torch.tensor([item[SAMPLE_INDEX] for item in kept])`, with the items that the rows are made of, in their order."
)


class Pairing:
    """Collates items with any collator and finds which item each row of the batch is.

    The index of a sample travels through the collator, as one more entry of its item, if the collator lets it: batches
    may then be smaller, larger or in another order. If not, row i has to be item i, which is tried out before the first
    batch ([`~hf_clear.sample_index._trial.try_out`]), and held against what items and batches have in common in every
    batch. Labels always are.

    Args:
        collator (`Callable`): from a list of items to a dict of tensors.
        label_names (`Sequence[str]`): of labels, in items and in batches.

    Attributes:
        is_tried (`bool`): whether it is known how the collator goes about it.
        travels (`bool`): whether the index comes through.
        compared (`tuple`, *optional*): a part of the items and the field of the batch that it becomes.
        is_strict (`bool`): whether every row of that field has to be its item: nothing random happens to it.
        label_part (`Hashable`, *optional*): the part of an item that is its label.
    """

    def __init__(self, collator: Callable, label_names: Sequence[str]):
        self.collator = collator
        self.label_names = label_names
        self.is_tried, self.travels, self.is_strict = False, False, False
        self.num_trials = 0
        self.compared: tuple[Hashable, str] | None = None
        self.label_part: Hashable | None = None
        self._classes: dict[Any, Any] = {}  # from the label in an item to that in the batch

    def __call__(self, items: list[Any], indices: Sequence[int]) -> tuple[MutableMapping[str, Any], list[int]]:
        """The batch, and the index of each of its rows.

        Raises:
            ValueError: if a row can't be, or is not, the sample that it should be.
        """
        found = self.with_index(items, indices) if self.travels else None
        batch, rows = found or (self.without_index(items), list(indices))
        of_rows = items
        if rows != list(indices):
            by_index = dict(zip(indices, items))
            of_rows = [by_index[row] for row in rows]
        self._check_places(batch, of_rows, rows)
        self.check_classes(batch, of_rows, rows)
        return batch, rows

    # ---- The two ways ----

    def with_index(self, items: list[Any], indices: Sequence[int]) -> tuple[MutableMapping[str, Any], list[int]] | None:
        """The batch of items that carry their index, and what came back. None if the collator doesn't let the
        index through, or fails with it."""
        try:
            batch = self.collator([_indexed(item, index) for item, index in zip(items, indices)])
        except Exception:  # of a key that it doesn't know; if of anything else, it fails without the key too
            return None
        rows = _whole_numbers(batch.pop(SAMPLE_INDEX, None)) if isinstance(batch, MutableMapping) else None
        if rows is None:
            return None
        num_rows = count_rows(batch, self.label_names)
        asked = set(indices)
        strange = next((row for row in rows if row not in asked), None)
        if num_rows != len(rows) or strange is not None:
            what = f"{len(rows)} indices for {num_rows} rows" if strange is None else f"the index {strange}"
            raise ValueError(
                f"The collator {name_of(self.collator)} was given the samples {_few(indices)} and returned {what} "
                f"under {SAMPLE_INDEX!r}: one index a row is needed, of a sample that was given."
            )
        if not rows:
            raise ValueError(
                f"The collator {name_of(self.collator)} has dropped all samples of a batch ({_few(indices)}): nothing "
                "is left to train on. Take broken samples out of the training set, or let it keep one."
            )
        return batch, rows

    def plain(self, items: list[Any]) -> MutableMapping[str, Any]:
        """The batch of items as they are.

        Raises:
            ValueError: if it is no dict.
        """
        batch = self.collator([copied(item) for item in items])  # it may take the labels out of the items it is given
        if not isinstance(batch, MutableMapping):
            raise ValueError(
                f"hf_clear needs a data collator that returns a dict of tensors, got a {type(batch).__name__}."
            )
        return batch

    def without_index(self, items: list[Any]) -> MutableMapping[str, Any]:
        """As [`plain`], with one row an item.

        Raises:
            ValueError: if it is no dict, or has more rows than items, or fewer.
        """
        batch = self.plain(items)
        num_rows = count_rows(batch, self.label_names)
        if num_rows is not None and num_rows != len(items):
            raise ValueError(
                f"The collator {name_of(self.collator)} made {num_rows} rows of {len(items)} samples, so that nobody "
                "knows which row is which sample. It drops, repeats, mixes or flattens samples (for padding-free "
                f"training, which can't be used: turn that off). {REMEDY}"
            )
        return batch

    # ---- What has to hold ----

    def check_classes(self, batch: Mapping[str, Any], items: Sequence[Any], indices: Sequence[int]) -> None:
        """Makes sure that the label of every row is that of its sample. A collator may make another of it (a number of
        a string), but always the same."""
        labels: Any = next((batch[name] for name in self.label_names if name in batch), None)
        if self.label_part is None or getattr(labels, "ndim", 0) != 1 or len(labels) != len(items):
            return
        for row, (item, label) in enumerate(zip(items, labels.tolist())):
            given = scalar(parts_of(item).get(self.label_part))
            self._check_one_label(item, given, label, indices[row])
            known = label if given is None else self._classes.setdefault(given, label)
            if known != label and known == known:
                raise ValueError(
                    f"Row {row} of a batch should be sample {indices[row]}, whose label is {given!r}, and has the "
                    f"label {label}; elsewhere, {given!r} is {known}. The collator {name_of(self.collator)} "
                    f"puts samples into other places, replaces or mixes them. {REMEDY}"
                )

    def _check_one_label(self, item: Any, given: Any, label: Any, index: int) -> None:
        """Raises a ValueError if a row has the label of another column than the one that is looked at."""
        parts = parts_of(item)
        for name in (name for name in self.label_names if name != self.label_part and name in parts):
            other = scalar(parts[name])
            if given is not None and other != given and other == label:
                raise ValueError(
                    f"The training set has two labels, and they differ: of sample {index}, {self.label_part!r} is "
                    f"{given!r}, and {name!r} is {other!r}, which the collator {name_of(self.collator)} takes. Keep "
                    "one of the two columns: `dataset.remove_columns(...)`."
                )

    def _check_places(self, batch: Mapping[str, Any], items: Sequence[Any], indices: Sequence[int]) -> None:
        """Makes sure that row i is item i and no other, as far as they can be compared."""
        if self.compared is None:
            return
        part, name = self.compared
        field = fields_of(batch, len(items)).get(name)
        values = [parts_of(item).get(part) for item in items]
        if field is None or any(value is None for value in values):
            return
        found = all_match(field, values)
        if all(found):
            return
        for row, is_own in enumerate(found):
            if is_own is not False or matches(field[row], values[row]) is not False:
                continue
            other = next((i for i, value in enumerate(values) if i != row and matches(field[row], value)), None)
            if other is None and (not self.is_strict or agrees_mostly(field[row], values[row])):
                continue
            instead = "no sample there" if other is None else f"sample {indices[other]}"
            raise ValueError(
                f"Row {row} of a batch should be sample {indices[row]}, and its {name!r} is that of {instead}. The "
                f"collator {name_of(self.collator)} puts samples into other places, replaces or mixes them. {REMEDY}"
            )


def name_of(collator: Callable) -> str:
    """For messages."""
    name = getattr(collator, "__qualname__", None) or getattr(getattr(collator, "func", None), "__qualname__", None)
    return f"`{name or type(collator).__name__}`"


def can_carry(item: Any) -> bool:
    return isinstance(item, MutableMapping)


def _indexed(item: MutableMapping, index: int) -> MutableMapping:
    """A copy with the index: the data set may keep the item."""
    item = copied(item)
    item[SAMPLE_INDEX] = index
    return item


def _whole_numbers(index: Any) -> list[int] | None:
    """What came back, if it is one whole number a row."""
    if isinstance(index, (list, tuple)):
        index = list(index)
        return index if all(type(value) is int for value in index) else None
    if isinstance(index, np.ndarray):
        index = torch.from_numpy(index) if index.dtype.kind in "iu" else None
    is_whole = isinstance(index, torch.Tensor) and index.ndim == 1 and not index.is_floating_point()
    return index.tolist() if is_whole and index.dtype != torch.bool else None


def _few(indices: Sequence[int]) -> str:
    return ", ".join(map(str, indices[:8])) + ", ..." * (len(indices) > 8)
