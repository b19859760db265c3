"""A mixture of two Gaussians over the losses and what models say that have not seen the labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ._evidence import CleanProbabilityEstimate, SampleEvidence
from ._registry import register_estimator
from ._two_gaussians import NoMixture, TwoGaussians, draw_in, falling_log_odds, fit_two_gaussians, separation
from .mixtures import mixture_estimate

_VARIANCE_FLOOR = 0.01  # of a component, as a share of the variance of all samples; as in one dimension
_FITTED = 2**15  # samples that scikit-learn is given at most
_LEAST, _MOST = 1e-12, 1 - 1e-6  # clean probabilities with log odds that a Gaussian can hold
_OF_CLASS = 0.75  # share of variance; constant predictions have 1, and 0.5 was the most of those that told something
EVIDENCE_SEPARATION = "mixture_evidence_separation"  # a diagnostic


def evidence_mixture(evidence: SampleEvidence, seed: int = 0) -> CleanProbabilityEstimate:
    """Fits a mixture of two Gaussians with diagonal covariances to two numbers of each sample: its loss, and the log
    odds against its label by the evidence from outside the sample. The clean probability is the posterior of the
    component with the smaller mean loss.

    A model that has begun to learn wrong labels has small losses on them. Models that have not seen a label can't have
    learned it, but they may know less. The fit weighs the two: what doesn't tell the components apart has nearly the
    same density in both.

    It is [`gaussian_mixture`] in two dimensions, with the same floor of the variances and the same limits for outliers.
    With one number given, a larger other one never means a larger clean probability. A sample without log odds goes by
    its loss alone. Without any, or if they are not larger in the component with the larger losses, this is
    [`gaussian_mixture`].

    If the losses say hardly more than the given class does (three quarters of their variance or more is between
    classes), as those of a model that predicts the same for all samples, the log odds alone count.

    Of more than 32,768 samples, as many that are evenly spaced by loss stand for all in the fit.

    Args:
        evidence ([`SampleEvidence`]): `losses`, `held_out_clean_probability`, and `labels` if there are any.
        seed (`int`, *optional*, defaults to 0): seeds the k-means initialization.

    Returns:
        [`CleanProbabilityEstimate`]: with the diagnostics of [`gaussian_mixture`], of the losses, and
        `mixture_evidence_separation`, that of the log odds; NaN if they are not used.
    """
    found = float("nan")

    def fit(losses: np.ndarray, seed: int) -> tuple[np.ndarray, TwoGaussians]:
        nonlocal found
        told, labels = evidence.held_out_clean_probability, evidence.labels
        if told is not None:
            if len(losses) < len(told):  # without those that are not finite
                finite = np.isfinite(evidence.losses)
                told, labels = told[finite], None if labels is None else labels[finite]
            fit_told = _fit_evidence if labels is not None and _follows_class(losses, labels) else _fit_both
            try:
                p, mixture, found = fit_told(losses, _log_odds_against(told), seed)
                return p, mixture
            except NoMixture:
                pass
        return fit_two_gaussians(losses, seed)

    estimate = mixture_estimate(evidence.losses, seed, fit)
    return replace(estimate, diagnostics={**estimate.diagnostics, EVIDENCE_SEPARATION: found})


def _log_odds_against(told: np.ndarray) -> np.ndarray:
    p = told.astype(np.float64).clip(_LEAST, _MOST)
    return np.log1p(-p) - np.log(p)


def _follows_class(losses: np.ndarray, labels: np.ndarray) -> bool:
    """Whether the losses say hardly more than the given class does, as those of a model that predicts the same for all
    samples: `_OF_CLASS` of their variance or more is between classes, adjusted for their number (Kelley, 1935)."""
    _, of_class, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    free, losses = len(losses) - len(sizes), losses.astype(np.float64)
    if not free:
        return False
    within = ((losses - (np.bincount(of_class, losses) / sizes)[of_class]) ** 2).sum()
    total = ((losses - losses.mean()) ** 2).sum()
    return bool(within / free <= (1 - _OF_CLASS) * total / (len(losses) - 1))


def _fit_evidence(losses: np.ndarray, against: np.ndarray, seed: int) -> tuple[np.ndarray, TwoGaussians, float]:
    """As `_fit_both`, by the log odds alone. Without any, the clean probability is 1."""
    rows, p = np.isfinite(against), np.ones(len(against))
    p[rows], found = fit_two_gaussians(against[rows], seed)
    return p, TwoGaussians(weights=found.weights), separation(found.means, found.stds)


def _fit_both(losses: np.ndarray, against: np.ndarray, seed: int) -> tuple[np.ndarray, TwoGaussians, float]:
    """The clean probabilities `[num_samples]`, the mixture of the losses, and the separation of the log odds.

    Raises:
        NoMixture: if there is no evidence of two groups in both.
    """
    from scipy.special import expit
    from sklearn.mixture import GaussianMixture

    rows = np.flatnonzero(np.isfinite(against))
    if len(rows) < 2:
        raise NoMixture("Too few samples with evidence")
    if len(rows) > _FITTED:
        by_loss = rows[np.argsort(losses[rows], kind="stable")]
        rows = by_loss[(2 * np.arange(_FITTED) + 1) * len(by_loss) // (2 * _FITTED)]
    columns = [losses.astype(np.float64), against]
    columns = [draw_in(column, np.sort(column[rows])) for column in columns]
    sample = np.stack([column[rows] for column in columns], axis=1)
    centers, scales = sample.mean(axis=0), sample.std(axis=0)
    if (scales <= np.finfo(np.float32).eps * np.abs(sample).max(axis=0)).any():
        raise NoMixture("All are the same")
    settings = {"covariance_type": "diag", "random_state": seed, "max_iter": 500, "reg_covar": _VARIANCE_FLOOR}
    fitted = GaussianMixture(2, **settings).fit((sample - centers) / scales)
    order = np.argsort(fitted.means_[:, 0])
    means = (centers + scales * fitted.means_)[order].T
    stds = (scales * np.sqrt(fitted.covariances_))[order].T
    weights = fitted.weights_[order]
    if weights.min() * len(rows) < 1 or means[1, 0] >= means[1, 1]:
        raise NoMixture("No two groups that differ in both")
    odds = np.full(len(losses), np.log(weights[0] / weights[1]))
    for column, mean, std in zip(columns, means, stds):
        odds += np.nan_to_num(falling_log_odds(column, mean, std))  # without evidence, none
    mixture = TwoGaussians(*(tuple(values.tolist()) for values in (means[0], stds[0], weights)))
    return expit(odds), mixture, separation(tuple(means[1]), tuple(stds[1]))


register_estimator("evidence_mixture", evidence_mixture, uses_probabilities=False, uses_held_out=True)
