"""Which sample is in which fold. numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def assign_folds(
    num_samples: int, num_folds: int, seed: int, labels: Sequence | np.ndarray | None = None
) -> np.ndarray:
    """Deals the samples of each class out to the folds, in a random order: a class's shares differ by one at most.

    A pure function of its arguments: no state, no order of batches. Another label for one sample moves samples of its
    old and its new class alone.

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
    order = np.lexsort((key, classes))
    sizes = np.bincount(classes)
    rank = np.arange(num_samples) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # among those of the class
    folds = np.empty(num_samples, dtype=np.int64)
    # Not all classes begin with fold 0, which would then be the largest by as many samples as there are classes.
    folds[order] = (rank + classes[order]) % num_folds
    return folds
