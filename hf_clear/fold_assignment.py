"""Which sample is in which fold. numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def assign_folds(
    num_samples: int, num_folds: int, seed: int, labels: Sequence | np.ndarray | None = None
) -> np.ndarray:
    """Deals the samples out to the folds, class by class and in a random order within each: the shares of a class
    differ by one at most, and so do the folds.

    A pure function of its arguments: no state, no order of batches.

    Args:
        labels (`Sequence` of shape `[num_samples]`, *optional*): the given classes. None if they are not known before
            batches are made: then all samples are dealt out as one class.

    Returns:
        `np.ndarray` of shape `[num_samples]` with numbers from 0 to `num_folds - 1`.
    """
    key = np.random.default_rng(seed).permutation(num_samples)
    classes = np.zeros(num_samples, dtype=np.int64)
    if labels is not None:
        _, classes = np.unique(np.asarray(labels), return_inverse=True)
    folds = np.empty(num_samples, dtype=np.int64)
    folds[np.lexsort((key, classes))] = np.arange(num_samples) % num_folds
    return folds
