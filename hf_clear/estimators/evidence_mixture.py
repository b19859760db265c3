"""A mixture of two Gaussians over the losses and what models say that have not seen the labels."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import cast

import numpy as np

from .._argument_checks import check_seed
from ._evidence import CleanProbabilityEstimate, SampleEvidence
from ._registry import register_estimator
from ._two_gaussians import NoMixture, TwoGaussians, draw_in, falling_log_odds, fit_two_gaussians, separation
from .mixtures import gaussian_mixture, mixture_estimate

_VARIANCE_FLOOR = 0.01  # added to that of a component, as a share of the variance of all samples
_STARTS = 4  # of the fit, of which the likeliest counts
_FITTED = 2**15  # samples that scikit-learn is given at most
_LEAST, _MOST = 1e-12, 1 - 1e-6  # clean probabilities with log odds that a Gaussian can hold
_OF_CLASS = 0.75  # share of variance; constant predictions have 1, and 0.5 was the most of those that told something
EVIDENCE_SEPARATION = "mixture_evidence_separation"  # a diagnostic


def evidence_mixture(evidence: SampleEvidence, seed: int = 0) -> CleanProbabilityEstimate:
    """Fits a mixture of two Gaussians with diagonal covariances to two numbers of each sample: its loss, and the log
    odds against its label by the evidence from outside the sample. The clean probability is the posterior of the
    component of the right labels.

    A model that has begun to learn wrong labels has small losses on them. Models that have not seen a label can't have
    learned it, but they may know less. The fit weighs the two: what doesn't tell the components apart has nearly the
    same density in both. The component of the wrong labels has the larger mean of what tells them apart better; if the
    other's mean is smaller there, the other is left out, and a mixture of one dimension is fitted.

    It is [`gaussian_mixture`] in two dimensions: outliers have the same limits, and a hundredth of the variance of all
    samples is added to that of each component. With one number given, a larger other one never means a larger clean
    probability. A sample without log odds goes by its loss alone.

    If the losses say hardly more than the given class does (three quarters of their variance or more is between
    classes), as those of a model that predicts the same for all samples, they are left out, too. If fewer than half of
    the samples have log odds, or there are no two groups in two dimensions, this is [`gaussian_mixture`].

    Of more than 32,768 samples, as many that are evenly spaced by loss stand for all in the fit.

    Args:
        evidence ([`SampleEvidence`]): `losses`, `held_out_clean_probability`, and `labels` if there are any.
        seed (`int`, *optional*, defaults to 0): seeds the k-means initialization.

    Returns:
        [`CleanProbabilityEstimate`]: with the diagnostics of [`gaussian_mixture`], of the losses (NaN if they are left
        out), and `mixture_evidence_separation`, that of the log odds; NaN if they are not used, or no mixture is.

    Raises:
        ValueError: if `evidence` or `seed` is none.
    """
    if not isinstance(evidence, SampleEvidence):
        raise ValueError(
            "`evidence` has to be a SampleEvidence, `SampleEvidence(losses=..., held_out_clean_probability=...)`; got "
            f"a {type(evidence).__name__}."
        )
    told, separation_of_told = evidence.held_out_clean_probability, float("nan")
    if told is None:
        return _with(gaussian_mixture(evidence.losses, seed), separation_of_told)
    is_scored = np.isfinite(evidence.losses)
    if evidence.labels is not None and _follows_class(evidence.losses[is_scored], evidence.labels[is_scored]):
        return held_out_mixture(evidence, seed)

    def fit(losses: np.ndarray, seed: int) -> tuple[np.ndarray, TwoGaussians]:
        nonlocal separation_of_told
        try:
            p, mixture, separation_of_told = _fit_both(losses, _log_odds_against(told[is_scored]), seed)
            return p, mixture
        except NoMixture:
            return fit_two_gaussians(losses, seed)

    try:
        return _with(mixture_estimate(evidence.losses, seed, fit), separation_of_told)
    except _Contradicted:
        return held_out_mixture(evidence, seed)


def held_out_mixture(evidence: SampleEvidence, seed: int = 0) -> CleanProbabilityEstimate:
    """A mixture of two Gaussians over what models say that have not seen the labels, without the losses. The clean
    probability is 1 for a sample of which they say nothing, and for all if there are no two groups."""
    check_seed(seed)
    against = _log_odds_against(cast(np.ndarray, evidence.held_out_clean_probability))
    is_scored = np.isfinite(evidence.losses)
    p, rows = is_scored.astype(np.float64), is_scored & np.isfinite(against)
    apart, mixture, is_supported = float("nan"), TwoGaussians(), False
    with contextlib.suppress(NoMixture):
        p[rows], found = fit_two_gaussians(against[rows], seed)
        apart, mixture, is_supported = separation(found.means, found.stds), TwoGaussians(weights=found.weights), True
    return _with(CleanProbabilityEstimate(p, mixture.diagnostics(), is_supported=is_supported), apart)


def _with(estimate: CleanProbabilityEstimate, found: float) -> CleanProbabilityEstimate:
    return replace(estimate, diagnostics={**estimate.diagnostics, EVIDENCE_SEPARATION: found})


class _Contradicted(Exception):
    """The evidence tells more than the losses, which speak against it."""


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


def _fit_both(losses: np.ndarray, against: np.ndarray, seed: int) -> tuple[np.ndarray, TwoGaussians, float]:
    """The clean probabilities `[num_samples]`, the mixture of the losses, and the separation of the log odds.

    Raises:
        NoMixture: if there is no evidence of two groups in both.
        _Contradicted: if the losses are to be left out.
    """
    from scipy.special import expit
    from sklearn.mixture import GaussianMixture

    rows = np.flatnonzero(np.isfinite(against))
    if len(rows) < max(2, len(losses) / 2):
        raise NoMixture("Too few samples with evidence")
    if len(rows) > _FITTED:
        by_loss = rows[np.lexsort((against[rows], losses[rows]))]  # ties: the same in every order of the samples
        rows = by_loss[(2 * np.arange(_FITTED) + 1) * len(by_loss) // (2 * _FITTED)]
    columns = [losses.astype(np.float64), against]
    columns = [draw_in(column, np.sort(column[rows])) for column in columns]
    sample = np.stack([column[rows] for column in columns], axis=1)
    centers, scales = sample.mean(axis=0), sample.std(axis=0)
    if (scales <= np.finfo(np.float32).eps * np.abs(sample).max(axis=0)).any():
        raise NoMixture("All are the same")
    # From one start, a column that says nothing may be what is cut in two.
    settings = {"covariance_type": "diag", "random_state": seed, "max_iter": 500, "n_init": _STARTS}
    fitted = GaussianMixture(2, reg_covar=_VARIANCE_FLOOR, **settings).fit((sample - centers) / scales)
    if fitted.weights_.min() * len(rows) < 1:
        raise NoMixture("One component got no sample")
    means, stds = (centers + scales * fitted.means_).T, (scales * np.sqrt(fitted.covariances_)).T
    apart = [separation(tuple(mean), tuple(std)) for mean, std in zip(means, stds)]
    order = np.argsort(means[int(np.argmax(apart))])
    means, stds, weights = means[:, order], stds[:, order], fitted.weights_[order]
    if means[1, 0] >= means[1, 1]:  # the losses tell more, and the evidence speaks against them
        raise NoMixture("Evidence that contradicts the losses")
    if means[0, 0] >= means[0, 1]:
        raise _Contradicted
    odds = np.full(len(losses), np.log(weights[0] / weights[1]))
    for column, mean, std in zip(columns, means, stds):
        odds += np.nan_to_num(falling_log_odds(column, mean, std))  # without evidence, none
    mixture = TwoGaussians(*(tuple(values.tolist()) for values in (means[0], stds[0], weights)))
    return expit(odds), mixture, apart[1]


register_estimator("evidence_mixture", evidence_mixture, uses_probabilities=False, uses_held_out=True)
