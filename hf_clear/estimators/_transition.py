"""The noise matrix `T[true, given]`: the probability of each given label, by true class. numpy only."""

from __future__ import annotations

import numpy as np

from ..transition_matrices import symmetric_matrix


def matrix_of_counts(counts: np.ndarray) -> np.ndarray:
    """From counts of given labels by true class to a noise matrix: each row is drawn towards symmetric noise of the
    overall rate, by as many pseudo-counts as there are classes. So a class with few samples has the rate of all.

    Args:
        counts (`np.ndarray` of shape `[num_labels, num_labels]`): row: true class; column: given label. May be expected
            counts, or weighted ones.

    Returns:
        `np.ndarray` of the same shape: rows sum to 1, and no entry is 0 unless no label is ever wrong.
    """
    num_labels, total = len(counts), counts.sum()
    rate = 1 - np.trace(counts) / total if total > 0 else 0.0
    prior = num_labels * symmetric_matrix(num_labels, float(rate))
    return (counts + prior) / (counts.sum(axis=1, keepdims=True) + num_labels)


def expected_counts(posterior: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How often each given label goes with each true class: the posteriors of the samples with this label, added up.

    Args:
        posterior (`np.ndarray` of shape `[num_labels, rows]`): over the true class.
        labels (`np.ndarray` of shape `[rows]`): the given classes.

    Returns:
        `np.ndarray` of shape `[num_labels, num_labels]`: row: true class; column: given label.
    """
    counts = np.zeros((len(posterior), len(posterior)))
    order = np.argsort(labels, kind="stable")
    given, first = np.unique(labels[order], return_index=True)
    if len(given):
        counts[:, given] = np.add.reduceat(np.take(posterior, order, axis=1), first, axis=1, dtype=np.float64)
    return counts
