"""From losses to clean probabilities: mixtures of two Gaussians. numpy and scikit-learn only: no model, no trainer."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np

logger = logging.getLogger(__name__)

_NAMED = 10  # how many sample indices or classes a message lists
_VARIANCE_FLOOR = 0.01  # of a component, as a share of the variance of all losses
_OUTER = 0.005  # share of the losses at either end that may be outliers
_FITTED = 2**15  # losses that scikit-learn is given at most: of more, so many quantiles
_CHUNK = 2**15  # losses whose posterior is computed at once, so that intermediate results stay small
_CLASS_SAMPLES = 20  # finite losses that a class needs for a mixture of its own: five parameters are fitted


@dataclass(frozen=True)
class CleanProbabilityEstimate:
    """What an estimator returns.

    Attributes:
        clean_probability (`np.ndarray` of shape `[num_samples]`): the probability in [0, 1] that a label is correct.
        means (`tuple[float, float]`): mean of the clean and of the noisy component, in the unit of what the mixture was
            fitted to: nats for losses. NaN where no mixture could be fitted.
        stds (`tuple[float, float]`): their standard deviations, in the same unit.
        weights (`tuple[float, float]`): their shares of the samples. The second estimates the noise rate.

    Raises:
        ValueError: where `clean_probability` is not one-dimensional or holds anything but probabilities.
    """

    clean_probability: np.ndarray
    means: tuple[float, float] = (float("nan"), float("nan"))
    stds: tuple[float, float] = (float("nan"), float("nan"))
    weights: tuple[float, float] = (1.0, 0.0)

    def __post_init__(self):
        probability = np.asarray(self.clean_probability, dtype=np.float64)
        wrong = ~((probability >= 0) & (probability <= 1))
        if probability.ndim != 1 or wrong.any():
            raise ValueError(
                "`clean_probability` has to hold one number in [0, 1] for each sample; got "
                + (f"{probability[wrong][0]}." if probability.ndim == 1 else f"shape {list(probability.shape)}.")
            )
        object.__setattr__(self, "clean_probability", probability)

    @property
    def separation(self) -> float:
        """Distance of the two means in pooled standard deviations, `|μ1 - μ0| / sqrt((σ0² + σ1²) / 2)`.

        Above 2, a mixture of equal weights has two peaks (Ashman et al., 1994). NaN where no mixture was fitted.
        """
        pooled = (sum(float(std) ** 2 for std in self.stds) / 2) ** 0.5
        return abs(float(self.means[1]) - float(self.means[0])) / pooled if pooled else float("nan")


def gaussian_mixture(losses: np.ndarray, seed: int = 0) -> CleanProbabilityEstimate:
    """Fits a Gaussian mixture of two components to the losses: the clean probability is the posterior of the component
    with the smaller mean (CleaR, arXiv 2411.00873; Arazo et al., 2019).

    Networks learn correct labels before wrong ones, so that early in training wrong labels show as large losses. The
    losses are standardized before the fit: scale and offset do not matter.

    A smaller loss never means a smaller clean probability. The bare posterior breaks this where the components differ
    in width: the tail of the wider one overtakes the narrower one on its far side. There, the value at the last point
    in order is kept.

    No component is narrower than a tenth of the standard deviation of all losses. As training goes on, the losses of
    the clean samples pile up at 0: a component of their width would call every clean sample wrong that has not been
    learned yet. And outliers, which could make a component of their own, are drawn in: no loss counts as further from
    the central 99 % than their width.

    Of more than 32,768 losses, as many evenly spaced quantiles stand for them in the fit. That changes the answer by
    about as much as another `seed` does; time and memory are then those of sorting.

    Where a mixture makes no sense, the answer is defined, and a warning says so:

    - A loss that is NaN or infinite is left out of the fit and its clean probability is 0; the warning names the
      samples. If no loss is finite, all are 0.
    - Fewer than two finite losses, losses that are all the same (to float32 precision), or a component that ends up
      with less than one sample's mass: there is no evidence of two groups, and every finite loss gets clean probability
      1. Training then goes on with every module active.

    Args:
        losses (`np.ndarray` of shape `[num_samples]`): the loss of every training sample, in nats.
        seed (`int`, *optional*, defaults to 0): seeds the k-means initialization.

    Returns:
        [`CleanProbabilityEstimate`]

    Raises:
        ValueError: where `losses` is not one-dimensional.
    """
    losses = _as_float(_one_dimensional("losses", losses))
    finite = np.isfinite(losses)
    all_finite = finite.all()
    if not all_finite:
        logger.warning(f"The loss of {_samples(~finite)} is not finite: left out of the mixture, clean probability 0.")
    try:
        fitted = _fit(losses if all_finite else losses[finite], seed)
    except _NoMixture as reason:
        logger.warning(f"{reason}: clean probability 1 for every finite loss.")
        return CleanProbabilityEstimate(finite.astype(np.float64))
    if all_finite:
        return fitted
    probability = np.zeros(len(losses))
    probability[finite] = fitted.clean_probability
    return replace(fitted, clean_probability=probability)


def per_class_gaussian_mixture(losses: np.ndarray, labels: np.ndarray, seed: int = 0) -> CleanProbabilityEstimate:
    """[`gaussian_mixture`] for each given class by itself (TURN, arXiv 2310.17668).

    Classes are learned at different speeds: the correct labels of a hard class can have losses as large as the wrong
    labels of an easy one, and a single mixture takes the one for the other. The price: a class without wrong labels is
    split in two as well.

    A class has no mixture of its own where it has fewer than 20 finite losses, or where [`gaussian_mixture`] would find
    no evidence of two groups in it. Its samples get their answer from the mixture of all samples, and a warning names
    the class. As there, a loss that is not finite means clean probability 0.

    Args:
        losses (`np.ndarray` of shape `[num_samples]`): the loss of every training sample, in nats.
        labels (`np.ndarray` of shape `[num_samples]`): the given class labels.
        seed (`int`, *optional*, defaults to 0): seeds the k-means initialization.

    Returns:
        [`CleanProbabilityEstimate`]: means, stds and weights are averages over the classes with a mixture of their own,
        weighted by their finite losses: `separation` then tells of the average class. Without any such class they are
        those of the mixture of all samples.

    Raises:
        ValueError: where `losses` or `labels` is not one-dimensional, `labels` is None, or they differ in length.
    """
    if labels is None:
        raise ValueError(
            "`labels` is None: a mixture per class needs one class label for each sample, which token-level tasks "
            "don't have. 'gaussian_mixture' does without."
        )
    losses, labels = _as_float(_one_dimensional("losses", losses)), _one_dimensional("labels", labels)
    check_rows("labels", labels, len(losses))
    of_all = gaussian_mixture(losses, seed=seed)
    probability = of_all.clean_probability.copy()
    fitted, sizes, without = [], [], []
    by_class = np.argsort(labels, kind="stable")
    classes, counts = np.unique(labels, return_counts=True)
    for label, members in zip(classes, np.split(by_class, counts.cumsum()[:-1])):
        members = members[np.isfinite(losses[members])]
        try:
            if len(members) < _CLASS_SAMPLES:
                raise _NoMixture("Too few finite losses")
            fitted.append(_fit(losses[members], seed))
        except _NoMixture:
            without.append(label)
            continue
        sizes.append(len(members))
        probability[members] = fitted[-1].clean_probability
    if without:
        logger.warning(
            f"No mixture of their own for {len(without)} of the {len(without) + len(fitted)} classes (label "
            f"{_listed(without)}): the mixture of all samples stands in."
        )
    if not fitted:
        return of_all
    averages = {
        name: tuple(np.average([getattr(estimate, name) for estimate in fitted], axis=0, weights=sizes).tolist())
        for name in ("means", "stds", "weights")
    }
    return CleanProbabilityEstimate(probability, **averages)


class _NoMixture(Exception):
    """Why two components can't be fitted."""


def _fit(losses: np.ndarray, seed: int) -> CleanProbabilityEstimate:
    """The mixture of [`gaussian_mixture`], for losses that are all finite."""
    from sklearn.mixture import GaussianMixture

    if len(losses) < 2:
        raise _NoMixture(f"{len(losses)} finite losses are too few for a mixture")
    ordered, size = np.sort(losses), min(len(losses), _FITTED)
    outer = int(_OUTER * len(losses))
    low, high = ordered[[outer, -1 - outer]].astype(np.float64)
    low, high = 2 * low - high, 2 * high - low
    sample = losses
    if size < len(losses):  # the midpoints of as many equal parts; their mixture errs by 1 / size, not 1 / sqrt(size)
        sample = ordered[(2 * np.arange(size) + 1) * len(losses) // (2 * size)]
    sample = sample.astype(np.float64).clip(low, high)
    center, scale = sample.mean(), sample.std()
    if scale <= np.finfo(np.float32).eps * max(abs(center), np.abs(sample).max()):
        raise _NoMixture("All losses are the same, up to outliers, which tells nothing about the labels")

    standardized = ((sample - center) / scale).reshape(-1, 1)
    mixture = GaussianMixture(n_components=2, random_state=seed, max_iter=500).fit(standardized)
    if mixture.weights_.min() * size < 1:
        raise _NoMixture("One component of the mixture got no sample, so there is no sign of wrong labels")
    clean_first = np.argsort(mixture.means_.ravel())
    means = center + scale * mixture.means_.ravel()[clean_first]
    stds = scale * np.sqrt(np.maximum(mixture.covariances_.ravel()[clean_first], _VARIANCE_FLOOR))
    weights = mixture.weights_[clean_first]
    bounds = ordered[[0, -1]].astype(np.float64).clip(low, high)
    del ordered
    return CleanProbabilityEstimate(
        _posterior(losses, bounds, means, stds, weights),
        means=tuple(means.tolist()),
        stds=tuple(stds.tolist()),
        weights=tuple(weights.tolist()),
    )


def _posterior(
    losses: np.ndarray, bounds: np.ndarray, means: np.ndarray, stds: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """The posterior of the clean component, the first, for losses drawn in to `bounds`; made to fall with the loss.

    The log odds of the components are a parabola in the loss that falls between the means, and rises again beyond its
    vertex. They are computed from the distance to the end of the falling part: so rounding can't break the order.
    """
    from scipy.special import expit

    low, high = bounds
    inverse = stds**-2
    curvature = (inverse[1] - inverse[0]) / 2
    rises_below = curvature <= 0  # the vertex is below both means, else above
    vertex = (inverse[1] * means[1] - inverse[0] * means[0]) / (2 * curvature) if curvature else -np.inf
    end = max(vertex, low) if rises_below else min(vertex, high)
    slope = min(inverse @ (np.array([-1, 1]) * (end - means)), 0.0)
    level = np.log(weights / stds) @ [1, -1] + inverse @ (np.array([-1, 1]) * (end - means) ** 2) / 2
    probability = np.empty(len(losses))
    for start in range(0, len(losses), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        distance = losses[chunk].astype(np.float64).clip(low, high) - end
        expit(level + distance * (slope + curvature * distance), out=probability[chunk])
    if rises_below:
        probability[losses < vertex] = probability.max()
    else:
        probability[losses > vertex] = probability.min()
    return probability


def _as_float(values: np.ndarray) -> np.ndarray:
    """In float64, except for float32: of millions of losses, a copy counts."""
    return values if values.dtype == np.float32 else values.astype(np.float64, copy=False)


def _one_dimensional(name: str, values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 1:
        raise ValueError(f"`{name}` has to be of shape [num_samples], got {list(values.shape)}.")
    return values


def check_rows(name: str, values: np.ndarray, num_samples: int) -> None:
    if len(values) != num_samples:
        raise ValueError(f"`{name}` has {len(values)} rows for {num_samples} samples.")


def _samples(mask: np.ndarray) -> str:
    index = np.flatnonzero(mask)
    return f"{len(index)} sample{'s' if len(index) > 1 else ''} (index {_listed(index)})"


def _listed(values) -> str:
    return ", ".join(map(str, values[:_NAMED])) + (", ..." if len(values) > _NAMED else "")
