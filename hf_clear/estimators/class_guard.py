"""The mixture of losses that locks no class out: a class that the model has not learned has a mixture of its own."""

from __future__ import annotations

import logging
from typing import cast

import numpy as np

from ._evidence import CleanProbabilityEstimate, check_rows
from ._registry import register_estimator
from ._two_gaussians import NoMixture, fit_two_gaussians
from .mixtures import CLASS_SAMPLES, gaussian_mixture, listed

logger = logging.getLogger(__name__)

_LOST = 0.5  # of the mean clean probability of all: a class below has not been learned
LOST = "mixture_lost_classes"  # a diagnostic


def class_guarded_gaussian_mixture(
    losses: np.ndarray, labels: np.ndarray | None, seed: int = 0
) -> CleanProbabilityEstimate:
    """[`gaussian_mixture`], and for a class whose mean clean probability is less than half of that of all samples, a
    mixture of its own.

    A class that the model has not learned yet has large losses, whether its labels are right or wrong. The mixture of
    all samples calls them wrong; then no module acts on these samples, so that the class is never learned. The mixture
    of the class itself still tells its smaller losses from its larger ones (as in TURN, arXiv 2310.17668), and as soon
    as the class is learned, the mixture of all samples is enough. A mixture for each class
    ([`per_class_gaussian_mixture`]) would split the classes without wrong labels, too.

    In such a class a sample gets the larger of both clean probabilities. If the class has fewer than 20 finite losses,
    or no two groups of them, its samples get the mean of all, which says nothing of them.

    Args:
        losses (`np.ndarray` of shape `[num_samples]`): the loss of every training sample, in nats.
        labels (`np.ndarray` of shape `[num_samples]`, *optional*): the given class labels; -100 for none. If there are
            none, this is [`gaussian_mixture`].
        seed (`int`, *optional*, defaults to 0): seeds the k-means initialization.

    Returns:
        [`CleanProbabilityEstimate`]: with the diagnostics of [`gaussian_mixture`], and `mixture_lost_classes`, the
        number of classes with an answer of their own.

    Raises:
        ValueError: if `losses` or `labels` is not one-dimensional, or they differ in length.
    """
    of_all = gaussian_mixture(losses, seed=seed)
    losses, probability = np.asarray(losses), of_all.clean_probability.copy()
    lost: list[int] = []
    if labels is not None:
        labels = np.asarray(labels)
        check_rows("labels", labels, len(losses))
        finite = np.isfinite(losses) & (labels >= 0)
        mean = float(of_all.clean_probability[finite].mean()) if finite.any() else 0.0
        for label in np.unique(labels[finite]).tolist():
            members = np.flatnonzero(finite & (labels == label))
            if probability[members].mean() < _LOST * mean:
                lost.append(label)
                probability[members] = np.maximum(probability[members], _of_class(losses[members], mean, seed))
    if lost:
        logger.warning(
            f"The mixture of all losses calls the labels of label {listed(lost)} wrong more than twice as often as "
            "others. It is likely that the model has not learned them yet: they have a mixture of their own."
        )
    return CleanProbabilityEstimate(probability, {**of_all.diagnostics, LOST: float(len(lost))})


def _of_class(losses: np.ndarray, mean: float, seed: int) -> np.ndarray:
    if len(losses) >= CLASS_SAMPLES:
        try:
            return fit_two_gaussians(losses, seed)[0]
        except NoMixture:
            pass
    return np.full(len(losses), mean)


register_estimator(
    "class_guarded_gaussian_mixture",
    lambda e: class_guarded_gaussian_mixture(e.losses, cast(np.ndarray, e.labels)),
    uses_labels=True,
    uses_probabilities=False,
)
