"""What the labels of one half of the samples say of a noise model that was fitted to the other half. No trainer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..transition_matrices import is_symmetric
from ._matrix_fit import LEAST_SKILL, fit_matrix
from ._weights import Rows

LEAST_GAIN = 1e-3  # nats: less makes no difference, whatever its sign is
_SIGNIFICANCE, _SEED = 0.01, 71_205
_LEAST_AGREEMENT = 2.33  # standard deviations: chance gives as much in 1 % of all cases
# If it hardly matters whether the matrix is free, the answer hangs on how halves are drawn: then several are asked. In
# simulations with few samples, from 0.001 to 0.003 nats it is nearly the same; a test at 1 % rarely finds rates that
# differ by class there. Below 0.003 nats, sentiment and topics without wrong labels would have a few.
_LEAST_LEAD, _MOST_DRAWS, _SURE = 3e-3, 5, 4.0
_LEAST = float(np.finfo(np.float32).tiny)


class Judged(NamedTuple):
    """What held-out labels say.

    Attributes:
        gain (`float`): by how much one is likelier than if all samples had the same prediction, in nats; the mean.
        is_supported (`bool`): whether they agree with what is predicted for them, by more than chance.
        is_free (`bool`): whether another matrix than symmetric noise makes them likelier.
        is_certain (`bool`): whether the gain is above 0 by a one-sided t-test at 1 %, too. It takes more samples.
    """

    gain: float
    is_supported: bool
    is_free: bool
    is_certain: bool = False


def fit_halves(some: Rows, num_labels: int) -> list[tuple[np.ndarray, Rows]]:
    """The matrix that one half of the samples gives, free if predictions have enough skill, with the rows of the other;
    twice."""
    return [(fit_matrix(some.select(half), num_labels, None)[0], some.select(~half)) for half in _halves(some)]


def judge_by_halves(
    some: Rows,
    num_labels: int,
    known: np.ndarray | None,
    least_skill: float = LEAST_SKILL,
    start: np.ndarray | None = None,
) -> Judged:
    """Fits the noise model to each half, and looks at the labels of the other. Of these, the fits know one number: the
    rate that they begin with. Arguments are those of [`fit_matrix`]."""
    from scipy.stats import t

    may_be_free = known is None and least_skill <= 1
    forms = (True, False) if may_be_free else (known is not None,)
    gains, leads, agreements = np.empty(0), [], np.zeros((len(forms), 2))
    for draw in range(_MOST_DRAWS):
        halves = _halves(some, draw)
        if not (halves[0].any() and halves[1].any()):
            return Judged(float("nan"), False, False)
        likelihoods, same_for_all = np.empty((2, len(forms), len(some.labels)))
        for rows in halves:
            seen, held_out = some.select(rows), some.select(~rows)
            for form, is_free in enumerate(forms):
                matrix, weights = fit_matrix(seen, num_labels, known, least_skill, start, is_free)
                f = weights.predict(held_out.scores)
                likelihoods[form, ~rows] = (f * matrix[:, held_out.labels]).sum(axis=0)
                if draw == 0:
                    agreements[form] += _agreement(_of_given(f, matrix), held_out.labels)
                same_for_all[form, ~rows] = (weights.predict(seen.scores).mean(axis=1) @ matrix)[held_out.labels]
        likelihoods, same_for_all = (np.log(np.maximum(table, _LEAST)) for table in (likelihoods, same_for_all))
        gains = likelihoods - same_for_all if draw == 0 else gains
        lead = likelihoods[0] - likelihoods[-1]
        leads.append(lead.mean())
        if not may_be_free or abs(leads[-1] - _LEAST_LEAD) >= _SURE * _standard_error(lead):
            break
    is_free = may_be_free and float(np.mean(leads)) > _LEAST_LEAD
    own = 0 if is_free else -1
    gain, (excess, variance) = float(gains[own].mean()), agreements[own]
    agrees = excess > _LEAST_AGREEMENT * np.sqrt(variance)
    is_supported = bool(gain > LEAST_GAIN and agrees)
    is_certain = is_supported and gain > t.isf(_SIGNIFICANCE, len(some.labels) - 1) * _standard_error(gains[own])
    return Judged(gain, is_supported, is_free, bool(is_certain))


def _of_given(f: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The probability of each given label, `[num_labels, rows]`. Symmetric noise is left out: the order stays
    the same without it."""
    keeps_order = matrix[0, 0] * len(matrix) > 1
    return f if keeps_order and is_symmetric(matrix) else matrix.T.astype(np.float32) @ f


def _agreement(predicted: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """How much probability labels have, beyond what they have on average if they are permuted; and the variance of that
    (Hoeffding, 1951). The gain has no such test: a few samples of which a fit is too sure can hide it.

    Args:
        predicted (`np.ndarray` of shape `[num_labels, rows]`): probabilities of the given labels.
        labels (`np.ndarray` of shape `[rows]`): the given classes.
    """
    rows = len(labels)
    counts = np.bincount(labels, minlength=len(predicted))
    of_row = (counts / rows) @ predicted
    excess = predicted[labels, np.arange(rows)].sum(dtype=np.float64) - of_row.sum(dtype=np.float64)
    left = predicted - predicted.mean(axis=1, keepdims=True) - (of_row - of_row.mean()).astype(np.float32)
    variance = counts @ np.square(left, out=left).sum(axis=1, dtype=np.float64) / max(rows - 1, 1)
    return float(excess), float(variance)


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _halves(some: Rows, draw: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Which samples are in each half, class by class."""
    order = np.random.default_rng(_SEED + draw).permutation(len(some.labels))
    order = order[np.argsort(some.labels[order], kind="stable")]
    half = np.zeros(len(order), dtype=bool)
    half[order[::2]] = True
    return half, ~half
