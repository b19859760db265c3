"""The mixture of two Gaussians itself: fit, posterior, and what is logged of it. numpy, scipy and scikit-learn only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SEPARATION = "mixture_separation"  # a diagnostic
_VARIANCE_FLOOR = 0.01  # of a component, as a share of the variance of all losses
_OUTER = 0.005  # share of the losses at either end that may be outliers
_FITTED = 2**15  # losses that scikit-learn is given at most: of more, so many quantiles
_CHUNK = 2**15  # losses whose posterior is computed at once, so that intermediate results stay small


class TwoGaussians(NamedTuple):
    """The clean component first. Without arguments: no mixture, for want of evidence of two groups.

    Attributes:
        means (`tuple[float, float]`): in the unit of what was fitted: nats for losses.
        stds (`tuple[float, float]`): standard deviations, in the same unit.
        weights (`tuple[float, float]`): shares of the samples.
    """

    means: tuple[float, float] = (float("nan"), float("nan"))
    stds: tuple[float, float] = (float("nan"), float("nan"))
    weights: tuple[float, float] = (1.0, 0.0)

    def diagnostics(self) -> dict[str, float]:
        return {
            "mixture_mean_clean": self.means[0],
            "mixture_mean_noisy": self.means[1],
            "mixture_std_clean": self.stds[0],
            "mixture_std_noisy": self.stds[1],
            "mixture_weight_noisy": self.weights[1],
            SEPARATION: separation(self.means, self.stds),
        }


class NoMixture(Exception):
    """Why two components can't be fitted."""


def separation(means: tuple[float, float], stds: tuple[float, float]) -> float:
    """Distance of the two means in pooled standard deviations, `|μ1 - μ0| / sqrt((σ0² + σ1²) / 2)`.

    Above 2, a mixture of equal weights has two peaks (Ashman et al., 1994). NaN if no mixture was fitted.
    """
    pooled = (sum(std**2 for std in stds) / 2) ** 0.5
    return abs(means[1] - means[0]) / pooled if pooled else float("nan")


def fit_two_gaussians(losses: np.ndarray, seed: int) -> tuple[np.ndarray, TwoGaussians]:
    """The fit of [`~hf_clear.estimators.gaussian_mixture`], for losses that are all finite.

    Returns:
        `tuple[np.ndarray, TwoGaussians]`: the clean probabilities, `[num_samples]`, and the mixture.

    Raises:
        NoMixture: if there is no evidence of two groups.
    """
    from sklearn.mixture import GaussianMixture

    if len(losses) < 2:
        raise NoMixture(f"{len(losses)} finite losses are too few for a mixture")
    ordered, size = np.sort(losses), min(len(losses), _FITTED)
    low, high = _limits(ordered)
    sample = losses
    if size < len(losses):  # the midpoints of as many equal parts; their mixture errs by 1 / size, not 1 / sqrt(size)
        sample = ordered[(2 * np.arange(size) + 1) * len(losses) // (2 * size)]
    sample = sample.astype(np.float64).clip(low, high)
    center, scale = sample.mean(), sample.std()
    if scale <= np.finfo(np.float32).eps * max(abs(center), np.abs(sample).max()):
        raise NoMixture("All losses are the same, up to outliers, which tells nothing about the labels")

    standardized = ((sample - center) / scale).reshape(-1, 1)
    fitted = GaussianMixture(n_components=2, random_state=seed, max_iter=500).fit(standardized)
    if fitted.weights_.min() * size < 1:
        raise NoMixture("One component of the mixture got no sample, so there is no sign of wrong labels")
    clean_first = np.argsort(fitted.means_.ravel())
    means = center + scale * fitted.means_.ravel()[clean_first]
    stds = scale * np.sqrt(np.maximum(fitted.covariances_.ravel()[clean_first], _VARIANCE_FLOOR))
    weights = fitted.weights_[clean_first]
    bounds = ordered[[0, -1]].astype(np.float64).clip(low, high)
    del ordered
    mixture = TwoGaussians(tuple(means.tolist()), tuple(stds.tolist()), tuple(weights.tolist()))
    return _posterior(losses, bounds, means, stds, weights), mixture


def _posterior(
    losses: np.ndarray, bounds: np.ndarray, means: np.ndarray, stds: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """The posterior of the clean component, the first, for losses drawn in to `bounds`; made to fall with the loss.

    The log odds are computed from the distance to the end of their falling part: so rounding can't break the order.
    """
    from scipy.special import expit

    low, high = bounds
    fall = _Fall.between(means, stds, weights, low, high)
    probability = np.empty(len(losses))
    for start in range(0, len(losses), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        expit(fall(losses[chunk].astype(np.float64).clip(low, high)), out=probability[chunk])
    if fall.rises_below:
        probability[losses < fall.vertex] = probability.max()
    else:
        probability[losses > fall.vertex] = probability.min()
    return probability


class _Fall(NamedTuple):
    """The log odds of two components, of which the first has the smaller mean: a parabola that falls between the means,
    and rises again beyond its vertex. `end` is that of the part that falls."""

    end: float
    level: float
    slope: float
    curvature: float
    vertex: float
    rises_below: bool

    @classmethod
    def between(cls, means: np.ndarray, stds: np.ndarray, weights: np.ndarray, low: float, high: float) -> _Fall:
        """For values from `low` to `high`."""
        inverse = stds**-2
        curvature = (inverse[1] - inverse[0]) / 2
        rises_below = curvature <= 0  # the vertex is below both means, else above
        vertex = (inverse[1] * means[1] - inverse[0] * means[0]) / (2 * curvature) if curvature else -np.inf
        end = max(vertex, low) if rises_below else min(vertex, high)
        slope = min(float(inverse @ (np.array([-1, 1]) * (end - means))), 0.0)
        level = np.log(weights / stds) @ [1, -1] + inverse @ (np.array([-1, 1]) * (end - means) ** 2) / 2
        return cls(end, level, slope, curvature, vertex, bool(rises_below))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        distance = values - self.end
        return self.level + distance * (self.slope + self.curvature * distance)


def falling_log_odds(values: np.ndarray, means: np.ndarray, stds: np.ndarray) -> np.ndarray:
    """The log odds of the first of two components with the same weight, made to fall with the value: beyond the vertex,
    they stay. NaN for NaN.

    Args:
        values (`np.ndarray` of shape `[num_samples]`): outliers drawn in ([`draw_in`]).
        means (`np.ndarray` of shape `[2]`), stds (`np.ndarray` of shape `[2]`): that of the first mean is the smaller.
    """
    fall = _Fall.between(means, stds, np.ones(2), np.nanmin(values), np.nanmax(values))
    return fall(np.maximum(values, fall.end) if fall.rises_below else np.minimum(values, fall.end))


def draw_in(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """No value further from the central 99 % of `ordered`, sorted ones, than their width."""
    return values.clip(*_limits(ordered))


def _limits(ordered: np.ndarray) -> tuple[float, float]:
    outer = int(_OUTER * len(ordered))
    low, high = ordered[[outer, -1 - outer]].astype(np.float64)
    return 2 * low - high, 2 * high - low
