"""A validation set taken from the training set."""

from __future__ import annotations

import logging

import numpy as np
from datasets import Dataset
from sklearn.model_selection import train_test_split

from .._argument_checks import check_seed

logger = logging.getLogger(__name__)


def train_validation_split(dataset: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Takes a validation set from a training set, class by class if each has enough samples.

    Args:
        dataset (`Dataset`): class numbers in `label`.
        share (`float`): of the samples that go to the validation set, above 0 and below 1; at least one sample.
        seed (`int`): of the draw.

    Returns:
        `tuple[Dataset, Dataset]`: training and validation set, each in the order of `dataset`.

    Raises:
        ValueError: if no sample would be left to train on, or `seed` is none.
    """
    check_seed(seed)
    rows, labels = np.arange(len(dataset)), np.array(dataset["label"])
    size = max(1, round(share * len(dataset)))
    if size >= len(dataset):
        raise ValueError(f"{len(dataset)} training samples are too few to take a validation set from.")
    counts = np.unique(labels, return_counts=True)[1]
    stratify = labels if counts.min() >= 2 and min(size, len(dataset) - size) >= len(counts) else None
    kept, taken = train_test_split(rows, test_size=size, random_state=seed, stratify=stratify)
    return dataset.select(np.sort(kept)), dataset.select(np.sort(taken))


def check_classes(
    dataset: Dataset, before: Dataset | None = None, advice: str = "Take a smaller share for validation."
) -> None:
    """Warns of classes without a sample, and refuses those that a split left without one.

    Args:
        dataset (`Dataset`): the training set; `label` is a `ClassLabel`.
        before (`Dataset`, *optional*): the training set before the split.
        advice (`str`, *optional*): what to do, for the message.

    Raises:
        ValueError: if `before` has a class that `dataset` has not.
    """
    label_names = dataset.features["label"].names
    missing = sorted(set(range(len(label_names))) - set(dataset["label"]))
    if not missing:
        return
    names = ", ".join(label_names[label] for label in missing[:10])
    names += ", ..." * (len(missing) > 10)
    message = f"No training sample is left of {len(missing)} of the {len(label_names)} classes ({names})."
    if before is not None and set(before["label"]).intersection(missing):
        raise ValueError(f"{message} {advice}")
    logger.warning(message)
