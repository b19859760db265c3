"""Tables and numbers for a report on a training with wrong labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..estimators import CleanProbabilityEstimate
from ..estimators.neighbors import neighbor_votes


def cleansing_table(
    clean_probability: np.ndarray,
    is_noisy: np.ndarray,
    thresholds: Sequence[float] = (0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7),
) -> list[dict]:
    """What is left of a dataset of known truth if only the samples with a clean probability above a threshold τ are
    kept (TURN, Ahn et al., 2024, arXiv 2310.17668).

    Args:
        clean_probability (`np.ndarray` of shape `[num_samples]`): in [0, 1].
        is_noisy (`np.ndarray` of shape `[num_samples]`): True where the given label is wrong.
        thresholds (`Sequence[float]`, *optional*, defaults to 0.4 to 0.7 in steps of 0.05): the τ, in (0, 1).

    Returns:
        `list[dict]`, one row a threshold: `threshold`; `kept`, the number of samples above it; `purity`, the share of
        the kept whose label is correct (NaN if nothing is kept); `recall`, the share of all correctly labelled
        samples that are kept.

    Raises:
        ValueError: if `clean_probability` or `is_noisy` is of another shape, the former is no probability, a
            threshold is outside (0, 1), or no label is correct.

    Example:

    ```python
    >>> cleansing_table([0.9, 0.6, 0.2], [False, True, False], thresholds=[0.5])
    [{'threshold': 0.5, 'kept': 2, 'purity': 0.5, 'recall': 0.5}]
    ```
    """
    CleanProbabilityEstimate(clean_probability)  # checks it
    probability = np.asarray(clean_probability)  # compared with thresholds in its own precision, as in `select_clean`
    is_correct = ~as_noisy(is_noisy, len(probability))
    if not is_correct.any():
        raise ValueError("No label is correct: recall is not defined. `is_noisy` is True where a given label is wrong.")
    rows = []
    for threshold in map(float, thresholds):
        if not 0 < threshold < 1:
            raise ValueError(f"`thresholds` have to lie between 0 and 1, got {threshold}.")
        kept = probability > threshold
        purity, recall = is_correct[kept].mean() if kept.any() else np.nan, kept[is_correct].mean()
        rows.append({"threshold": threshold, "kept": int(kept.sum()), "purity": float(purity), "recall": float(recall)})
    return rows


def linear_cka(first: np.ndarray, second: np.ndarray) -> float:
    """Linear centered kernel alignment: how similar two sets of features of the same samples are (Kornblith et al.,
    2019, arXiv 1905.00414).

    `||X'Y||² / (||X'X|| ||Y'Y||)` for centered X and Y, with Frobenius norms. Rotation, scale and offset don't matter.
    Features that have nothing in common come close to 0 only with many more samples than dimensions.

    Args:
        first (`np.ndarray` of shape `[num_samples, dim1]`): features. Used in float64.
        second (`np.ndarray` of shape `[num_samples, dim2]`): other features of the same samples, in the same order.

    Returns:
        `float` in [0, 1]: 1 if both are the same up to rotation, scale and offset.

    Raises:
        ValueError: if the shapes are others, a value is not finite, or all samples have the same features.

    Example:

    ```python
    >>> round(linear_cka([[0, 0], [1, 0], [0, 2]], [[5, 5], [5, 4], [7, 5]]), 6)  # rotated and moved
    1.0
    ```
    """
    first, second = _centered("first", first), _centered("second", second)
    if len(first) != len(second):
        raise ValueError(
            f"`first` has {len(first)} samples and `second` {len(second)}: CKA compares features of the same samples."
        )
    between, *within = (np.linalg.norm(x.T @ y) for x, y in [(first, second), (first, first), (second, second)])
    return min(float(between**2 / (within[0] * within[1])), 1.0)  # rounding can exceed 1


def knn_accuracy(features: np.ndarray, labels: np.ndarray, k: int = 10) -> float:
    """How well the classes are apart in the features: the accuracy of a k-nearest-neighbor classifier that sees all
    samples but the one it classifies (leave-one-out), a probe without training (Wu et al., 2018, arXiv 1805.01978).

    Neighbors and their weights are those of [`knn_agreement`]: the `k` other samples with the largest cosine
    similarity, each counting by it. The class with the largest sum wins; of tied classes, that of the nearest neighbor.

    Time grows with the square of the number of samples, memory only with their number.

    Args:
        features (`np.ndarray` of shape `[num_samples, dim]`): used in float32.
        labels (`np.ndarray` of shape `[num_samples]`): the classes, usually the true ones.
        k (`int`, *optional*, defaults to 10): the number of neighbors.

    Returns:
        `float`: the share of samples whose class wins.

    Raises:
        ValueError: if `features` or `labels` is of another shape, there are fewer than two samples, `k` is smaller
            than 1, or the features of a sample are all zero or not finite.

    Example:

    ```python
    >>> knn_accuracy([[1, 0], [2, 0], [0, 1], [0, 3]], [0, 0, 1, 0], k=1)
    0.5
    ```
    """
    votes, weights = neighbor_votes(features, labels, k)
    if len(votes) < 2:
        raise ValueError(f"k-NN accuracy needs at least two samples, got {len(votes)}.")
    sums = np.stack([(weights * (votes == vote[:, None])).sum(axis=1) for vote in votes.T], axis=1)
    winner = votes[np.arange(len(votes)), sums.argmax(axis=1)]  # of equal sums, the first: the nearest neighbor's
    return float((winner == np.asarray(labels)).mean())


def as_noisy(values: np.ndarray, num_samples: int) -> np.ndarray:
    values = np.asarray(values, dtype=bool)
    if values.shape != (num_samples,):
        raise ValueError(f"`is_noisy` has to be of shape [{num_samples}], got {list(values.shape)}.")
    return values


def _centered(name: str, features: np.ndarray) -> np.ndarray:
    """Centered and scaled to at most 1, in float64."""
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or not features.size:
        raise ValueError(f"`{name}` has to be of shape [num_samples, dim], got {list(features.shape)}.")
    if not np.isfinite(features).all():
        raise ValueError(f"`{name}` has values that are NaN or infinite: leave those samples out.")
    centered = features - features.mean(axis=0)
    scale = np.abs(centered).max()
    if scale <= np.finfo(np.float32).eps * np.abs(features).max():
        raise ValueError(f"`{name}` is the same for all samples (to float32 precision): CKA is not defined.")
    return centered / scale
