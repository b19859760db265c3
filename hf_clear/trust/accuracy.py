"""Accuracy on true labels, from validation labels of which some are wrong. numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._names import IGNORED_LABEL
from ..transition_matrices import check_transition_matrix, symmetric_matrix
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
        predictions (`np.ndarray` of shape `[num_samples]`): the predicted classes.
        labels (`np.ndarray` of shape `[num_samples]`): the given classes; samples with -100 are left out.
        transition_matrix (`np.ndarray` of shape `[num_labels, num_labels]`): T; row: true class; column: given label.
        noise_rate (`tuple[float, float]`, *optional*): the ends of the range of the noise rate, such as `low` and
            `high` of [`NoiseRate`]. The interval then reaches from one end to the other, for T scaled to each and for
            symmetric noise.

    Returns:
        [`CleanAccuracy`]: the estimate is between 0 and 1; the interval is all of that if T can't be inverted.

    Raises:
        ValueError: if shapes don't fit, no sample has a label, or rows of T are no probabilities.

    Example:

    ```python
    >>> clean_accuracy(predictions, validation["label"], model.transition_matrix)
    CleanAccuracy(given=0.57, estimate=0.94, low=0.91, high=0.97)
    ```
    """
    matrix = check_transition_matrix(transition_matrix)
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.ndim != 1 or predictions.shape != labels.shape:
        raise ValueError(
            "`predictions` and `labels` have to be of one shape, [num_samples]; got "
            f"{list(predictions.shape)} and {list(labels.shape)}."
        )
    known = labels != IGNORED_LABEL
    if not known.any():
        raise ValueError("No sample has a label: there is nothing to measure accuracy on.")
    predictions, labels = predictions[known], labels[known]
    for name, values in (("predictions", predictions), ("labels", labels)):
        if values.min() < 0 or values.max() >= len(matrix):
            raise ValueError(f"`{name}` has to hold classes from 0 to {len(matrix) - 1}, those of `transition_matrix`.")
    given = float((predictions == labels).mean())
    shares = np.bincount(labels, minlength=len(matrix)) / len(labels)
    share = np.linalg.lstsq(matrix.T, shares, rcond=None)[0].clip(0)  # of true classes
    found = 1 - float(share @ np.diag(matrix)) / max(share.sum(), 1e-12)
    matrices, most = [matrix], 1 / max((1 - np.diag(matrix)).max(), 1e-12)
    for rate in (noise_rate or ()) if len(matrix) > 1 else ():
        if found > 0:
            matrices.append(scaled_matrix(matrix, min(rate / found, most)))
        matrices.append(symmetric_matrix(len(matrix), min(rate, 1 - 1 / len(matrix))))
    ends = [_corrected(predictions, labels, own) for own in matrices]
    estimate = float(np.clip(ends[0][0], 0, 1))
    low = min([estimate, *(value - _Z * error for value, error in ends)])
    high = max([estimate, *(value + _Z * error for value, error in ends)])
    return CleanAccuracy(given, estimate, float(np.clip(low, 0, 1)), float(np.clip(high, 0, 1)))


def _corrected(predictions: np.ndarray, labels: np.ndarray, matrix: np.ndarray) -> tuple[float, float]:
    """The estimate and its standard error; an endless one if T can't be inverted."""
    if np.linalg.cond(matrix) > 1e6:
        return 0.5, np.inf
    values = np.linalg.inv(matrix)[labels, predictions]
    return float(values.mean()), float(values.std() / np.sqrt(len(values)))
