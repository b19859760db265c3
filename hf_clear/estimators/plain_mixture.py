"""The mixture of two Gaussians as scikit-learn fits it, with nothing of ours: that of `preset("paper")`."""

from __future__ import annotations

from typing import cast

import numpy as np

from ._evidence import CleanProbabilityEstimate
from ._registry import register_estimator
from ._two_gaussians import NoMixture, TwoGaussians
from .mixtures import mixture_estimate


def plain_gaussian_mixture(losses: np.ndarray, seed: int = 0) -> CleanProbabilityEstimate:
    """Fits a Gaussian mixture of two components to the losses and returns the bare posterior of the one with the
    smaller mean, as CleaR (arXiv 2411.00873) and Arazo et al. (2019) have it.

    [`gaussian_mixture`] is the same with a least width of the components, with outliers drawn in, and with a clean
    probability that never rises with the loss. Here a large loss can have a large clean probability: if one component
    is much wider, its tail overtakes the narrower one on both sides.

    Args:
        losses (`np.ndarray` of shape `[num_samples]`): the loss of every training sample, in nats.
        seed (`int`, *optional*, defaults to 0): seeds the k-means initialization.

    Returns:
        [`CleanProbabilityEstimate`]: with the diagnostics of [`gaussian_mixture`], and its answers if no mixture can be
        fitted or a loss is not finite.

    Raises:
        ValueError: if `losses` is not one-dimensional.
    """
    return mixture_estimate(losses, seed, _fit)


def _fit(losses: np.ndarray, seed: int) -> tuple[np.ndarray, TwoGaussians]:
    from sklearn.mixture import GaussianMixture

    if len(losses) < 2:
        raise NoMixture(f"{len(losses)} finite losses are too few for a mixture")
    losses = losses.astype(np.float64)
    center, scale = losses.mean(), losses.std()
    if scale <= np.finfo(np.float32).eps * np.abs(losses).max():
        raise NoMixture("All losses are the same, which tells nothing about the labels")
    standardized = ((losses - center) / scale)[:, None]
    fitted = GaussianMixture(n_components=2, random_state=seed, max_iter=500).fit(standardized)
    if fitted.weights_.min() * len(losses) < 1:
        raise NoMixture("One component of the mixture got no sample, so there is no sign of wrong labels")
    order = np.argsort(fitted.means_.ravel())
    means, stds = center + scale * fitted.means_.ravel(), scale * np.sqrt(fitted.covariances_.ravel())
    found = (tuple(values[order].tolist()) for values in (means, stds, fitted.weights_))
    return fitted.predict_proba(standardized)[:, order[0]], TwoGaussians(*found)


register_estimator("plain_gaussian_mixture", lambda e: plain_gaussian_mixture(e.losses), uses_probabilities=False)
# As CleaR's official code does for adapters.
register_estimator(
    "plain_ema_gaussian_mixture",
    lambda e: plain_gaussian_mixture(cast(np.ndarray, e.mean_losses)),
    uses_probabilities=False,
)
