"""The mixture of losses with an answer of their own for classes that the model has not learned."""

from __future__ import annotations

import logging
from typing import cast

import numpy as np

from ._evidence import CleanProbabilityEstimate, check_rows
from ._registry import register_estimator
from ._two_gaussians import NoMixture, fit_two_gaussians
from .mixtures import CLASS_SAMPLES, gaussian_mixture, listed, one_dimensional

logger = logging.getLogger(__name__)

_LEAST_SHARE = 0.5  # of the mean clean probability of all
_SIGNIFICANCE = 0.01  # how rarely a class that is like all others gets an answer of its own
OWN_CLASSES = "mixture_own_classes"  # a diagnostic


def class_guarded_gaussian_mixture(
    losses: np.ndarray, labels: np.ndarray | None, seed: int = 0
) -> CleanProbabilityEstimate:
    """[`gaussian_mixture`], and for a class whose mean clean probability is less than half of that of all samples, a
    mixture of its own.

    A class that the model has not learned yet has large losses, whether its labels are right or wrong. The mixture of
    all samples calls them wrong; then no module acts on these samples, so that the class is never learned. The mixture
    of the class itself still tells its smaller losses from its larger ones (as in TURN, arXiv 2310.17668), and as soon
    as the class is learned, the mixture of all samples is enough. A mixture for each class
    ([`per_class_gaussian_mixture`]) would split the classes without wrong labels, too. The price: if most labels of
    such a class are indeed wrong, some of them are trusted.

    In such a class a sample gets the larger of both clean probabilities. If that leaves their mean where it was, below
    half of that of all, or if the class has fewer than 20 finite losses, or no two groups of them, none is below the
    mean of all. A class has to be so far behind by more than accident: of few samples, some have no luck (binomial
    test of how many are called wrong, at 1 % over all classes).

    Args:
        losses (`np.ndarray` of shape `[num_samples]`): the loss of every training sample, in nats.
        labels (`np.ndarray` of shape `[num_samples]`, *optional*): the given class labels; -100 for none. If there are
            none, this is [`gaussian_mixture`].
        seed (`int`, *optional*, defaults to 0): seeds the k-means initialization.

    Returns:
        [`CleanProbabilityEstimate`]: with the diagnostics of [`gaussian_mixture`], and `mixture_own_classes`, the
        number of classes with an answer of their own.

    Raises:
        ValueError: if `losses` or `labels` is not one-dimensional, or they differ in length.
    """
    of_all = gaussian_mixture(losses, seed=seed)
    if labels is None:
        return CleanProbabilityEstimate(of_all.clean_probability, {**of_all.diagnostics, OWN_CLASSES: 0.0})
    losses, labels = one_dimensional("losses", losses), one_dimensional("labels", labels)
    check_rows("labels", labels, len(losses))
    probability, finite = of_all.clean_probability.copy(), np.isfinite(losses) & (labels >= 0)
    mean = float(of_all.clean_probability[finite].mean()) if finite.any() else 0.0
    behind = _far_behind(of_all.clean_probability[finite], labels[finite])
    for label in behind:
        members = np.flatnonzero(finite & (labels == label))
        own = np.maximum(probability[members], _of_class(losses[members], seed))
        probability[members] = own if own.mean() >= _LEAST_SHARE * mean else np.maximum(own, mean)
    if behind:
        logger.warning(
            f"The mixture of all losses finds less than half as many right labels with label {listed(behind)} as over "
            "all. Either the model has not learned these classes yet, or most of their labels are wrong: they are "
            "judged by themselves."
        )
    return CleanProbabilityEstimate(probability, {**of_all.diagnostics, OWN_CLASSES: float(len(behind))})


def _far_behind(p: np.ndarray, labels: np.ndarray) -> list[int]:
    from scipy.stats import binom

    if len(p) == 0:
        return []
    classes, of_sample, size = np.unique(labels, return_inverse=True, return_counts=True)
    wrong, means = np.bincount(of_sample, weights=p < 0.5), np.bincount(of_sample, weights=p) / size
    accident = binom.sf(wrong - 1, size, (p < 0.5).mean()) * len(classes)
    return classes[(means < _LEAST_SHARE * p.mean()) & (accident <= _SIGNIFICANCE)].tolist()


def _of_class(losses: np.ndarray, seed: int) -> np.ndarray:
    if len(losses) >= CLASS_SAMPLES:
        try:
            return fit_two_gaussians(losses, seed)[0]
        except NoMixture:
            pass
    return np.zeros(len(losses))


register_estimator(
    "class_guarded_gaussian_mixture",
    lambda e: class_guarded_gaussian_mixture(e.losses, cast(np.ndarray, e.labels)),
    uses_labels=True,
    uses_probabilities=False,
)
