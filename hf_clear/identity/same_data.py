"""Whether a data set is the one that a run was made on: its rows are what is told of samples."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np

from .._names import LABEL_COLUMNS
from .._typing import AnyTrainer
from ..labels.known import labels_without_items
from ..sample_store import SampleStore
from .fingerprint import Fingerprint, fingerprint
from .training import fingerprint_of

logger = logging.getLogger(__name__)


def is_certainly(before: Any, dataset: Any) -> bool:
    """Whether a data set is the one from before, which nothing can have changed: a list may have been sorted since."""
    return dataset is before and isinstance(dataset, datasets.Dataset)


def check_not_replaced(trainer: AnyTrainer, before: Fingerprint, identified: Any) -> None:
    """Makes sure that the training set is still the one that the probe was trained on.

    Args:
        before (`Fingerprint`): of the training set when its probe was trained.
        identified (`Any`): the object that it was.

    Raises:
        ValueError: if the training set is another one now. Of the same object, labels alone are compared: others of its
            attributes may change as it is read.
    """
    data = trainer.train_dataset
    if is_certainly(identified, data):
        return
    now = fingerprint_of(trainer, data)
    changed = now.differences(before.as_json(), before.label_values)
    if data is identified:
        changed = ["labels, or the order of the samples,"] * (now.labels != before.labels)
    if changed:
        raise ValueError(
            f"The training set was replaced since the probe was trained: {' and '.join(changed)} changed. Begin again "
            "with `linear_probe()`."
        )


def check_same_data(
    what: str, dataset: Any, store: SampleStore, label_names: Sequence[str] | None, before: Any = None
) -> None:
    """Looks whether the data set is that of a run, as far as this can be told.

    Args:
        what (`str`): what is of the run, for messages.
        dataset (`Sized`): with the columns of the model's inputs, or the labels.
        store ([`SampleStore`]): of the run.
        label_names (`Sequence[str]`, *optional*): the names of the classes, in the order of their numbers.
        before (`Sized`, *optional*): the object that was it, if that is known.

    Raises:
        ValueError: if it is not, or if nothing can be told.
    """
    if is_certainly(before, dataset):
        return
    if len(dataset) != len(store.losses):
        raise ValueError(
            f"{what} is of a run on {len(store.losses):,} samples, and the data set has {len(dataset):,}. Give the "
            "training set as the trainer had it: after splits, filters and shuffling."
        )
    earlier = (store.identity or {}).get("data") or {"inputs": {}, "labels": None, "rows": ""}
    is_known = {*earlier["inputs"], *LABEL_COLUMNS}
    now = fingerprint(dataset, LABEL_COLUMNS, lambda name: name in is_known)
    is_alike = now.kind == earlier.get("kind", now.kind)  # others have other hashes
    common = sorted(earlier["inputs"].keys() & now.inputs.keys()) if is_alike else []
    changed = [name for name in common if earlier["inputs"][name] != now.inputs[name]]
    if dataset is before:  # attributes may change as it is read, and hold other labels than its items
        if None in (earlier["labels"], now.labels) or earlier["labels"] == now.labels:
            return
        if changed or not common:
            raise ValueError(
                f"{what} is of the training set as it was before: its labels, or the order of the samples, have "
                "changed in place since. Train again, or give it in the order that it had."
            )
        logger.warning(f"{what}: labels have changed in place since. The table shows those of the run.")
        return
    relabelled = _relabelled(dataset, store, label_names, earlier, now)
    if changed:
        order = earlier["inputs"].keys() == now.inputs.keys() and earlier["rows"] == now.rows
        differs = "the order of the samples" if order else f"the inputs ({', '.join(changed)})"
        raise ValueError(
            f"{what} is of a run on other data: {differs} changed. Give the training set as the trainer had it: after "
            "splits, filters and shuffling."
        )
    if not common and relabelled is None:
        raise ValueError(
            f"Nothing tells whether this data set is that of {what}: it has no inputs of the run "
            f"({', '.join(earlier['inputs']) or 'which could not be compared'}), and no labels. Give the training set "
            "as the trainer had it, tokenized."
        )
    if not common and relabelled:
        raise ValueError(
            f"{what} is of a run on other data, or on these in another order: {relabelled}. Give the training set as "
            "the trainer had it: after splits, filters and shuffling."
        )
    if relabelled:
        logger.warning(f"{what}: the inputs are those of the run, and {relabelled}. The table shows those of the run.")
    elif not common:
        logger.warning(
            f"{what}: the labels are those of the run, one by one. Its inputs ({', '.join(earlier['inputs'])}) can't "
            "be compared with this data set, so whether texts of one class have changed places can't be told."
        )


def _relabelled(
    dataset: Any, store: SampleStore, label_names: Sequence[str] | None, earlier: dict[str, Any], now: Fingerprint
) -> str | None:
    """Which labels differ from those of the run, for a message: `""` if none does, None if they can't be compared."""
    labels, before = labels_without_items(dataset, LABEL_COLUMNS), store.labels.cpu().numpy()
    known = before >= 0
    if labels is None or not known.any():
        is_told = None not in (earlier["labels"], now.labels)
        return None if not is_told else "" if earlier["labels"] == now.labels else "labels differ"
    ids = {name: number for number, name in enumerate(label_names or ())}
    given = np.array([ids.get(label, -1) if isinstance(label, str) else label for label in labels])
    if given.dtype.kind not in "iu" or given.shape != before.shape:
        return None
    rows = np.flatnonzero(known & (given != before))
    if len(rows) == 0:
        return ""
    row = int(rows[0])
    unnamed = isinstance(labels[row], str) and labels[row] not in ids
    return (
        f"{len(rows):,} of {len(before):,} labels differ (row {row}: {labels[row]!r}, and {before[row]} in the run"
        f"{'; if that is its name, give the names of the classes in `label_names`' if unnamed else ''})"
    )
