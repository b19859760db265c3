"""Labels that become any other class, whatever class and sample."""

from __future__ import annotations

from functools import partial

import numpy as np

from ..transition_matrices import symmetric_matrix
from ._matrix import check_rate, class_conditional
from ._registry import register_noise_type


def symmetric_transition_matrix(num_labels: int, noise_rate: float, include_true_class: bool = False) -> np.ndarray:
    """Each label is replaced with probability `noise_rate` by another class, drawn uniformly.

    Args:
        num_labels (`int`): number of classes K, 2 or more.
        noise_rate (`float`): probability in [0, 1] that a label is replaced.
        include_true_class (`bool`, *optional*, defaults to `False`): draw from all classes, the true one included. Then
            a label changes with probability `noise_rate * (K - 1) / K` only. The convention of CleaR's official code.

    Returns:
        `np.ndarray` of shape `[num_labels, num_labels]`: row i, column j: probability that true class i becomes j.

    Raises:
        ValueError: if an argument is out of range.
    """
    check_rate(num_labels, noise_rate)
    if include_true_class:
        return (1 - noise_rate) * np.eye(num_labels) + noise_rate / num_labels
    return symmetric_matrix(num_labels, noise_rate)


register_noise_type("symmetric", class_conditional(symmetric_transition_matrix))
register_noise_type(
    "symmetric_including_true_class", class_conditional(partial(symmetric_transition_matrix, include_true_class=True))
)
