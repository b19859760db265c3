"""The noise matrix and the weights of the prediction, by expectation maximization in turns. numpy and scipy only."""

from __future__ import annotations

import numpy as np

from ..transition_matrices import symmetric_matrix
from ._transition import expected_counts, matrix_of_counts
from ._weights import Rows, Weights, fit_weights, posterior

# Between that of predictions on intents and news (0.85 and more), and on sentiment and questions (0.54 and less); see
# benchmarks/evidence.py. Chosen with a look at true labels: below, a free matrix calls half of clean labels wrong.
LEAST_SKILL = 0.6
_START_RATES = (0.1, 0.3, 0.5, 0.7, 0.9)
# Steps of a fit of the prediction: to compare these rates, and else. With fewer, the result hangs on rounding.
_SEARCHED, _FITTED = 5, 20
_ROUNDS, _STEPS = 30, 3  # of expectation maximization: fits of the prediction, and of the noise matrix in each
_CONVERGED = 1e-3
_ROUGH = 1e-7  # of the fits of the prediction before the last one: half of the time, and nearly the same matrix


def skill(prediction: np.ndarray) -> float:
    """How far predictions go from the best constant one (0) to perfect ones (1), if they are calibrated: the expected
    accuracy, the mean of `max f_i`, between that of the constant one, the largest class mean of f, and 1.

    Args:
        prediction (`np.ndarray` of shape `[num_samples, num_labels]`): f.
    """
    accuracy = float(prediction.max(axis=1).mean(dtype=np.float64))
    constant = float(prediction.mean(axis=0, dtype=np.float64).max())
    return (accuracy - constant) / (1 - constant) if constant < 1 else 0.0


def fit_matrix(
    some: Rows,
    num_labels: int,
    known: np.ndarray | None,
    least_skill: float = LEAST_SKILL,
    start: np.ndarray | None = None,
    is_free: bool = True,
) -> tuple[np.ndarray, Weights]:
    """T, and the weights of the prediction.

    Args:
        known (`np.ndarray` of shape `[num_labels, num_labels]`, *optional*): T, if it is not to be found.
        least_skill (`float`, *optional*): of the predictions, for another T than symmetric noise.
        start (`np.ndarray` of shape `[num_labels, num_labels]`, *optional*): the symmetric T to begin with; by default
            [`likeliest_symmetric`].
        is_free (`bool`, *optional*, defaults to `True`): whether T may be another than symmetric noise.
    """
    if known is not None:
        return known, fit_weights(some, known)
    matrix = likeliest_symmetric(some, num_labels) if start is None else start
    weights = fit_weights(some, matrix, steps=_FITTED)
    symmetric = matrix, weights
    if not is_free:
        return _one_rate(some, *symmetric)
    # Without them, T could explain a class away: all of its samples are another one's, wrongly labelled.
    frequencies = weights.predict(some.scores).mean(axis=1, dtype=np.float64) if len(some.labels) else None
    for _ in range(_ROUNDS):
        f, before = weights.predict(some.scores), matrix
        for _ in range(_STEPS):
            t, _ = posterior(f, some.likelihood(matrix))
            matrix = matrix_of_counts(expected_counts(t, some.labels))
        weights = fit_weights(some, matrix, weights, _FITTED, frequencies, _ROUGH)
        if np.abs(matrix - before).max() < _CONVERGED:
            break
    weights = fit_weights(some, matrix, weights, _FITTED, frequencies)
    is_weak = len(some.labels) > 0 and skill(weights.predict(some.scores).T) < least_skill
    return _one_rate(some, *symmetric) if is_weak else (matrix, weights)


def _one_rate(some: Rows, matrix: np.ndarray, weights: Weights) -> tuple[np.ndarray, Weights]:
    """Symmetric noise of the likeliest rate, from the likeliest of `_START_RATES`. By a search: if predictions tell
    little, the likelihood hardly changes with the rate, and expectation maximization stays where it begins."""
    from scipy.optimize import minimize_scalar

    most = 1 - 1 / len(matrix)
    rate, between = 1 - matrix[0, 0], (_START_RATES[1] - _START_RATES[0]) * most

    def fit(rate: float) -> tuple[np.ndarray, Weights]:
        noise = symmetric_matrix(len(matrix), rate)
        return noise, fit_weights(some, noise, weights, steps=_FITTED)

    bounds = (max(rate - between, 0.0), min(rate + between, most))
    found = minimize_scalar(
        lambda rate: -_log_likelihood(some, *fit(rate)), bounds=bounds, options={"xatol": _CONVERGED}
    )
    return fit(found.x)


def likeliest_symmetric(some: Rows, num_labels: int) -> np.ndarray:
    """Of a few rates of symmetric noise, the T of the likeliest: expectation maximization is slow to find it."""
    matrices, likelihoods, weights = [], [], None
    for share in _START_RATES:
        matrices.append(symmetric_matrix(num_labels, share * (1 - 1 / num_labels)))  # at 1, labels say nothing
        weights = fit_weights(some, matrices[-1], weights, steps=_SEARCHED)
        likelihoods.append(_log_likelihood(some, matrices[-1], weights))
    return matrices[int(np.argmax(likelihoods))]


def _log_likelihood(some: Rows, matrix: np.ndarray, weights: Weights) -> float:
    """The mean over samples, in nats."""
    _, total = posterior(weights.predict(some.scores), some.likelihood(matrix))
    return float(np.log(total).mean(dtype=np.float64)) if len(total) else 0.0
