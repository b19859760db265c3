"""Labels that become the next class, or the one before."""

from __future__ import annotations

from functools import partial

import numpy as np

from ._matrix import check_rate, class_conditional
from ._registry import register_noise_type


def asymmetric_transition_matrix(num_labels: int, noise_rate: float, shift: int = 1) -> np.ndarray:
    """Class c is replaced by class `c + shift` (modulo K) with probability `noise_rate`.

    Args:
        num_labels (`int`): number of classes K, 2 or more.
        noise_rate (`float`): probability in [0, 1] that a label is replaced.
        shift (`int`, *optional*, defaults to 1): no multiple of K. CleaR's official code has -1.

    Returns:
        `np.ndarray` of shape `[num_labels, num_labels]`: row i, column j: probability that true class i becomes j.

    Raises:
        ValueError: if an argument is out of range.
    """
    check_rate(num_labels, noise_rate)
    if shift % num_labels == 0:
        raise ValueError(f"A `shift` of {shift} leaves each of {num_labels} classes where it is: take 1 or -1.")
    identity = np.eye(num_labels)
    return (1 - noise_rate) * identity + noise_rate * np.roll(identity, shift, axis=1)


register_noise_type("asymmetric", class_conditional(asymmetric_transition_matrix))
register_noise_type("asymmetric_previous", class_conditional(partial(asymmetric_transition_matrix, shift=-1)))
