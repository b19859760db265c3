"""Labels that flip by the sample's features."""

from __future__ import annotations

from typing import cast

import numpy as np
from scipy.optimize import brentq
from scipy.special import softmax
from scipy.stats import truncnorm

from ._matrix import check_rate, draw_rows
from ._registry import register_noise_type


def instance_dependent_noise(
    labels: np.ndarray,
    num_labels: int,
    noise_rate: float,
    rng: np.random.Generator,
    features: np.ndarray | None,
) -> np.ndarray:
    """Noise that depends on the sample, after Xia et al. 2020 (arXiv 2006.07836), Algorithm 2.

    Sample i keeps its label y with probability `1 - q_i`. The flip rates `q_i` are normal with standard deviation 0.1,
    truncated to [0, 1]; we choose the location such that their mean is `noise_rate` (theirs is the location, so that
    the truncation moves the mean). The wrong class is drawn from the softmax of the scores `x_i W_y` without class y,
    with `W_y ~ N(0, 1)` of shape `[dim, num_labels]`, one for each true class, and `x_i` the features, standardized
    column by column. With many features the scores are large, and nearly always the best wrong class is drawn.

    In one thing we differ. In Xia et al. `q_i` has nothing to do with `x_i`: features decide where a label flips to,
    not whether it does. Here, within each true class, the larger `q_i` go to the samples with the larger score of
    their best wrong class. The flip then depends on the features too, and the distribution of the rates stays.

    Args:
        labels (`np.ndarray` of shape `[num_samples]`): true classes.
        num_labels (`int`): number of classes.
        noise_rate (`float`): mean flip rate in [0, 1].
        rng (`np.random.Generator`): source of all draws.
        features (`np.ndarray` of shape `[num_samples, dim]`): in any unit.

    Returns:
        `np.ndarray` of shape `[num_samples]`: noisy classes.

    Raises:
        ValueError: if `features` is of another shape, or not finite, or another argument is out of range.
    """
    check_rate(num_labels, noise_rate)
    features = _standardized(cast(np.ndarray, features), len(labels))  # `uses_features`
    rates = _flip_rates(noise_rate, len(labels), rng)
    probabilities = np.zeros((len(labels), num_labels))
    for label in range(num_labels):
        weights = rng.standard_normal((features.shape[1], num_labels))
        rows = np.flatnonzero(labels == label)
        scores = features[rows] @ weights
        scores[:, label] = -np.inf
        order = scores.max(axis=1).argsort()
        rows, scores = rows[order], scores[order]
        rates[rows] = np.sort(rates[rows])
        probabilities[rows] = rates[rows, None] * softmax(scores, axis=1)
        probabilities[rows, label] = 1 - rates[rows]
    return draw_rows(probabilities, rng)


def _flip_rates(noise_rate: float, num_samples: int, rng: np.random.Generator, spread: float = 0.1) -> np.ndarray:
    """`[num_samples]`: from a normal truncated to [0, 1] with mean `noise_rate` after the truncation."""
    if not 1e-3 <= noise_rate <= 1 - 1e-3:  # so near to 0 or 1 no spread is left
        return np.full(num_samples, float(noise_rate))

    def truncated(location: float):
        return truncnorm(-location / spread, (1 - location) / spread, loc=location, scale=spread)

    # The location runs off as the mean nears 0 or 1: by about spread² / 0.001 = 10.
    location = brentq(lambda location: truncated(location).mean() - noise_rate, -11, 12)
    return truncated(location).rvs(num_samples, random_state=rng)


def _standardized(features: np.ndarray, num_samples: int) -> np.ndarray:
    """Columns of mean 0 and standard deviation 1 (0 if a column is constant): `[num_samples, dim]`."""
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or len(features) != num_samples or features.shape[1] == 0:
        raise ValueError(f"`features` has to be of shape [{num_samples}, dim]; got {list(features.shape)}.")
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        raise ValueError(f"`features` of sample {finite.argmin()} are not finite. Repair them, or drop the sample.")
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    varies = deviation > 1e-12 * np.abs(mean)  # a constant such as 0.1 differs from its mean by rounding
    return np.where(varies, (features - mean) / np.where(varies, deviation, 1.0), 0.0)


register_noise_type("instance_dependent", instance_dependent_noise, uses_features=True)
