"""Mixtures of two Gaussians over the losses: one for all samples, or one for each class."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import cast

import numpy as np

from .._argument_checks import check_seed
from ._evidence import CleanProbabilityEstimate, check_rows
from ._registry import register_estimator
from ._two_gaussians import NoMixture, TwoGaussians, fit_two_gaussians

logger = logging.getLogger(__name__)
Fit = Callable[[np.ndarray, int], tuple[np.ndarray, TwoGaussians]]  # of finite losses, with a seed

_NAMED = 10  # how many sample indices or classes a message lists
CLASS_SAMPLES = 20  # finite losses that a class needs for a mixture of its own: five parameters are fitted


def gaussian_mixture(losses: np.ndarray, seed: int = 0) -> CleanProbabilityEstimate:
    """Fits a Gaussian mixture of two components to the losses: the clean probability is the posterior of the component
    with the smaller mean (CleaR, arXiv 2411.00873; Arazo et al., 2019).

    Networks learn correct labels before wrong ones, so that early in training wrong labels show as large losses. The
    losses are standardized before the fit: scale and offset do not matter.

    A smaller loss never means a smaller clean probability. The bare posterior breaks this if the components differ
    in width: the tail of the wider one overtakes the narrower one on its far side. There, the value at the last point
    in order is kept.

    No component is narrower than a tenth of the standard deviation of all losses. As training goes on, the losses of
    the clean samples pile up at 0: a component of their width would call every clean sample wrong that has not been
    learned yet. And outliers, which could make a component of their own, are drawn in: no loss counts as further from
    the central 99 % than their width.

    Of more than 32,768 losses, as many evenly spaced quantiles stand for them in the fit. That changes the answer by
    about as much as another `seed` does; time and memory are then those of sorting.

    If a mixture makes no sense, the answer is defined, and a warning says so:

    - A loss that is NaN or infinite is left out of the fit and its clean probability is 0, which is no evidence of a
      wrong label; the warning names the samples. If no loss is finite, all are 0.
    - Fewer than two finite losses, losses that are all the same (to float32 precision), or a component that ends up
      with less than one sample's mass: there is no evidence of two groups, and every finite loss gets clean probability
      1. Training then goes on with every module active. `is_supported` of the estimate is False.

    Args:
        losses (`np.ndarray` of shape `[num_samples]`): the loss of every training sample, in nats.
        seed (`int`, *optional*, defaults to 0): seeds the k-means initialization.

    Returns:
        [`CleanProbabilityEstimate`]: its diagnostics are `mixture_mean_clean`, `mixture_mean_noisy`,
        `mixture_std_clean` and `mixture_std_noisy`, means and standard deviations of the components in the unit of
        `losses`; `mixture_weight_noisy`, the noisy component's share of the samples, which estimates the noise rate (0
        if no mixture could be fitted); and `mixture_separation`, the distance of the means in pooled standard
        deviations (above 2, a mixture of equal weights has two peaks: Ashman et al., 1994). NaN if no mixture could
        be fitted.

    Raises:
        ValueError: if `losses` is not one-dimensional, or `seed` is none.
    """
    return mixture_estimate(losses, seed, fit_two_gaussians)


def mixture_estimate(losses: np.ndarray, seed: int, fit: Fit) -> CleanProbabilityEstimate:
    """What `fit` finds, with the answers of [`gaussian_mixture`] if it can't, or if losses are not finite."""
    check_seed(seed)
    losses = _as_float(one_dimensional("losses", losses))
    finite = np.isfinite(losses)
    all_finite = finite.all()
    if not all_finite:
        logger.warning(f"The loss of {_samples(~finite)} is not finite: left out of the mixture, clean probability 0.")
    try:
        posterior, mixture = fit(losses if all_finite else losses[finite], seed)
    except NoMixture as reason:
        logger.warning(f"{reason}: clean probability 1 for every finite loss.")
        return CleanProbabilityEstimate(finite.astype(np.float64), TwoGaussians().diagnostics(), is_supported=False)
    if all_finite:
        return CleanProbabilityEstimate(posterior, mixture.diagnostics())
    probability = np.zeros(len(losses))
    probability[finite] = posterior
    return CleanProbabilityEstimate(probability, mixture.diagnostics())


def per_class_gaussian_mixture(losses: np.ndarray, labels: np.ndarray, seed: int = 0) -> CleanProbabilityEstimate:
    """[`gaussian_mixture`] for each given class by itself (TURN, arXiv 2310.17668).

    Classes are learned at different speeds: the correct labels of a hard class can have losses as large as the wrong
    labels of an easy one, and a single mixture takes the one for the other. The price: a class without wrong labels is
    split in two as well.

    A class has no mixture of its own if it has fewer than 20 finite losses, or if [`gaussian_mixture`] would find
    no evidence of two groups in it. Its samples get their answer from the mixture of all samples, and a warning names
    the class. As there, a loss that is not finite means clean probability 0.

    Args:
        losses (`np.ndarray` of shape `[num_samples]`): the loss of every training sample, in nats.
        labels (`np.ndarray` of shape `[num_samples]`): the given class labels.
        seed (`int`, *optional*, defaults to 0): seeds the k-means initialization.

    Returns:
        [`CleanProbabilityEstimate`]: with the diagnostics of [`gaussian_mixture`]. Means, standard deviations and
        weights are averages over the classes with a mixture of their own, weighted by their finite losses; the
        separation is that of these averages. Without any such class they are those of the mixture of all samples.

    Raises:
        ValueError: if `losses` or `labels` is not one-dimensional, `labels` is None, they differ in length, or `seed`
            is none.
    """
    if labels is None:
        raise ValueError(
            "`labels` is None: a mixture per class needs one class label for each sample, which token-level tasks "
            "don't have. 'gaussian_mixture' does without."
        )
    losses, labels = _as_float(one_dimensional("losses", losses)), one_dimensional("labels", labels)
    check_rows("labels", labels, len(losses))
    of_all = gaussian_mixture(losses, seed=seed)
    probability = of_all.clean_probability.copy()
    fitted, sizes, without = [], [], []
    by_class = np.argsort(labels, kind="stable")
    classes, counts = np.unique(labels, return_counts=True)
    for label, members in zip(classes, np.split(by_class, counts.cumsum()[:-1])):
        members = members[np.isfinite(losses[members])]
        try:
            if len(members) < CLASS_SAMPLES:
                raise NoMixture("Too few finite losses")
            probability[members], mixture = fit_two_gaussians(losses[members], seed)
        except NoMixture:
            without.append(label)
            continue
        fitted.append(mixture)
        sizes.append(len(members))
    if without:
        logger.warning(
            f"No mixture of their own for {len(without)} of the {len(without) + len(fitted)} classes (label "
            f"{listed(without)}): the mixture of all samples stands in."
        )
    if not fitted:
        return of_all
    averages = (np.average(values, axis=0, weights=sizes).tolist() for values in zip(*fitted))
    return CleanProbabilityEstimate(probability, TwoGaussians(*map(tuple, averages)).diagnostics())


def _as_float(values: np.ndarray) -> np.ndarray:
    """In float64, except for float32: of millions of losses, a copy counts."""
    if values.dtype.kind not in "fiub":
        raise ValueError(f"`losses` has to hold numbers; got {values.dtype}.")
    return values if values.dtype == np.float32 else values.astype(np.float64, copy=False)


def one_dimensional(name: str, values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 1:
        raise ValueError(f"`{name}` has to be of shape [num_samples], got {list(values.shape)}.")
    return values


def _samples(mask: np.ndarray) -> str:
    index = np.flatnonzero(mask)
    return f"{len(index)} sample{'s' if len(index) > 1 else ''} (index {listed(index)})"


def listed(values) -> str:
    return ", ".join(map(str, values[:_NAMED])) + (", ..." if len(values) > _NAMED else "")


register_estimator("gaussian_mixture", lambda e: gaussian_mixture(e.losses), uses_probabilities=False)
register_estimator(
    "per_class_gaussian_mixture",
    lambda e: per_class_gaussian_mixture(e.losses, cast(np.ndarray, e.labels)),
    uses_labels=True,
    uses_probabilities=False,
)
register_estimator(
    "ema_gaussian_mixture", lambda e: gaussian_mixture(cast(np.ndarray, e.mean_losses)), uses_probabilities=False
)
