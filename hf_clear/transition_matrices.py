"""Transition matrices: the probability of each given label, by true class. numpy only."""

from __future__ import annotations

import numpy as np


def symmetric_matrix(num_labels: int, rate: float) -> np.ndarray:
    """Each label is wrong with probability `rate`, and then any other class alike; `[num_labels, num_labels]`, 2 or
    more."""
    matrix = np.full((num_labels, num_labels), rate / (num_labels - 1))
    np.fill_diagonal(matrix, 1 - rate)
    return matrix


def is_symmetric(matrix: np.ndarray) -> bool:
    """Whether it is a [`symmetric_matrix`], of whatever rate; of two classes or more."""
    return bool(np.allclose(matrix, symmetric_matrix(len(matrix), 1 - float(np.diag(matrix).mean())), atol=1e-9))


def check_transition_matrix(matrix: np.ndarray) -> np.ndarray:
    """The matrix as an array.

    Raises:
        ValueError: if it is not square, or a row is no distribution.
    """
    try:
        matrix = np.asarray(matrix, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"A transition matrix holds numbers, in rows of equal length: {error}.") from error
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 0:
        raise ValueError(f"A transition matrix has shape [num_labels, num_labels]; got {list(matrix.shape)}.")
    for index, row in enumerate(matrix):
        if not ((row >= 0) & (row <= 1)).all():
            raise ValueError(f"Row {index} of the transition matrix has to lie in [0, 1]; got {row}.")
        if abs(row.sum() - 1) > 1e-6:
            raise ValueError(f"Row {index} of the transition matrix has to sum to 1; it sums to {row.sum():.6g}.")
    return matrix
