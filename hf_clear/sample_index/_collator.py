"""The collator of an indexed dataloader."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import torch

from .._names import IGNORED_LABEL, SAMPLE_INDEX
from ._labels import check_labels
from ._pairing import Pairing
from ._trial import try_out


class IndexCollator:
    """Collates the items of an [`IndexedDataset`] with any collator and adds to the batch which sample each row is.

    Args:
        pairing (`Pairing`): of the collator.
        label_names (`Sequence[str]`): keys under which an item may, and the batch has to, hold the labels; empty
            if no label is needed. They are checked in both: a collator may fail on a bad label without a word of
            which, or make the labels itself.
        num_labels (`int`, *optional*): the number of classes; None if it is unknown.
        takes_part (`torch.BoolTensor` of shape `[num_samples]`, *optional*): False for samples that are left out of
            batches. Of a batch that would be empty, the first sample stays, with -100 for a label.
        prepare (`Callable`, *optional*): what happens to the list of items before they are collated.
    """

    def __init__(
        self,
        pairing: Pairing,
        label_names: Sequence[str],
        num_labels: int | None = None,
        takes_part: torch.Tensor | None = None,
        prepare: Callable[[list[Any]], list[Any]] | None = None,
    ):
        self.pairing = pairing
        self.label_names = label_names
        self.num_labels = num_labels
        self.takes_part = takes_part
        self.prepare = prepare

    def __call__(self, indexed_items: list[tuple[int, Any]]) -> MutableMapping[str, Any]:
        is_empty = False
        if self.takes_part is not None:
            kept = [(index, item) for index, item in indexed_items if self.takes_part[index]]
            is_empty, indexed_items = not kept, kept or indexed_items[:1]
        indices, given = zip(*indexed_items)
        for name in self.label_names:
            if all(isinstance(item, Mapping) and name in item for item in given):
                check_labels((item[name] for item in given), self.num_labels, indices)
        items = list(given) if self.prepare is None else self.prepare(list(given))
        if not self.pairing.is_tried:
            try_out(self.pairing, items, indices)
        batch, rows = self.pairing(items, indices)
        label = next((name for name in self.label_names if name in batch), None)
        if label is None and self.label_names:
            raise ValueError(
                f"The batch of sample {indices[0]} has no labels: expected one of {', '.join(self.label_names)}, got "
                f"{', '.join(batch)}."
            )
        if label is not None and isinstance(batch[label], torch.Tensor):
            check_labels(batch[label].tolist(), self.num_labels, rows)
        if label is not None and is_empty:
            batch[label] = torch.full_like(batch[label], IGNORED_LABEL)
        batch[SAMPLE_INDEX] = torch.tensor(rows, dtype=torch.long)
        return batch
