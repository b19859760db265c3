"""Accuracy on true labels, from validation labels of which some are wrong. numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._argument_checks import as_array
from .._names import IGNORED_LABEL
from ..transition_matrices import check_transition_matrix, symmetric_matrix
from ._checks import as_classes, as_probabilities, check_range
from .noise_rate import scaled_matrix

_Z = 1.96  # of intervals of 95 %


@dataclass(frozen=True)
class CleanAccuracy:
    """What [`clean_accuracy`] found; shares of the samples.

    Attributes:
        given (`float`): accuracy as measured on the given labels.
        estimate (`float`): of accuracy on the true labels.
        low (`float`): the lower end of its 95 % interval.
        high (`float`): the upper end.
    """

    given: float
    estimate: float
    low: float
    high: float


def clean_accuracy(
    predictions: np.ndarray,
    labels: np.ndarray,
    transition_matrix: np.ndarray,
    noise_rate: tuple[float, float] | None = None,
) -> CleanAccuracy:
    """How many predictions are the true class, when validation labels are noisy.

    The mean of `inv(T)[given, predicted]` is an unbiased estimate (the backward correction of Natarajan et al., 2013,
    and Patrini et al., 2017, arXiv 1609.03683, for the loss 0 and 1), if the noise depends on the true class alone and
    the predictions are of a model that has not been trained on these labels. A model that makes the errors of the
    annotators looks better than it is.

    Args:
        predictions (`np.ndarray` of shape `[num_samples]`): the predicted classes, integers.
        labels (`np.ndarray` of shape `[num_samples]`): the given classes; samples with -100 are left out.
        transition_matrix (`np.ndarray` of shape `[num_labels, num_labels]`): T; row: true class; column: given label.
        noise_rate (`tuple[float, float]`, *optional*): the ends of the range of the noise rate, such as `low` and
            `high` of [`NoiseRate`]. The interval then reaches from one end to the other, for T scaled to each and for
            symmetric noise.

    Returns:
        [`CleanAccuracy`]: the estimate is between 0 and 1; the interval is all of that if T can't be inverted.

    Raises:
        ValueError: if shapes don't fit, a number is none of a class, no sample has a label, rows of T are no
            probabilities, or `noise_rate` is no pair of numbers in [0, 1], the lower end first.

    Example:

    ```python
    >>> clean_accuracy(predictions, validation["label"], model.transition_matrix)
    CleanAccuracy(given=0.57, estimate=0.94, low=0.91, high=0.97)
    ```
    """
    matrix = check_transition_matrix(as_array("transition_matrix", transition_matrix))
    labels = as_classes("labels", labels)
    predictions = as_classes("predictions", predictions, len(labels))
    rates = [] if noise_rate is None else _ends(noise_rate)
    known = labels != IGNORED_LABEL
    if not known.any():
        raise ValueError("No sample has a label: there is nothing to measure accuracy on.")
    check_range("predictions", predictions, len(matrix), known)
    check_range("labels", labels, len(matrix), known)
    predictions, labels = predictions[known], labels[known]
    given = float((predictions == labels).mean())
    shares = np.bincount(labels, minlength=len(matrix)) / len(labels)
    share = np.linalg.lstsq(matrix.T, shares, rcond=None)[0].clip(0)  # of true classes
    found = 1 - float(share @ np.diag(matrix)) / max(share.sum(), 1e-12)
    matrices, most = [matrix], 1 / max((1 - np.diag(matrix)).max(), 1e-12)
    for rate in rates if len(matrix) > 1 else ():
        if found > 0:
            matrices.append(scaled_matrix(matrix, min(rate / found, most)))
        matrices.append(symmetric_matrix(len(matrix), min(rate, 1 - 1 / len(matrix))))
    ends = [_corrected(predictions, labels, own) for own in matrices]
    estimate = float(np.clip(ends[0][0], 0, 1))
    low = min([estimate, *(value - _Z * error for value, error in ends)])
    high = max([estimate, *(value + _Z * error for value, error in ends)])
    return CleanAccuracy(given, estimate, float(np.clip(low, 0, 1)), float(np.clip(high, 0, 1)))


def _ends(noise_rate: Any) -> list[float]:
    try:
        ends = as_probabilities("noise_rate", noise_rate, may_be_missing=False).tolist()
    except ValueError:
        ends = []
    if len(ends) != 2 or ends[0] > ends[1]:
        raise ValueError(
            "`noise_rate` has to be the two ends of a range in [0, 1], the lower one first, such as (0.1, 0.3); got "
            f"{noise_rate!r}. A rate that is known is (rate, rate)."
        )
    return ends


def _corrected(predictions: np.ndarray, labels: np.ndarray, matrix: np.ndarray) -> tuple[float, float]:
    """The estimate and its standard error; an endless one if T can't be inverted."""
    if np.linalg.cond(matrix) > 1e6:
        return 0.5, np.inf
    values = np.linalg.inv(matrix)[labels, predictions]
    return float(values.mean()), float(values.std() / np.sqrt(len(values)))
