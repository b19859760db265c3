"""How many labels are wrong, as a range: by the noise model and by a confident joint. numpy and scipy only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .._names import IGNORED_LABEL
from ..estimators import NoiseModel
from ..estimators._halves import fit_halves
from ..estimators._weights import Rows, fit_weights, of_classes, posterior, score_tables
from ..transition_matrices import symmetric_matrix
from ._checks import as_classes, as_probabilities, check_model, check_range

# By how much less likely, in nats a sample, a rate may make the labels and still be in the range: so far off is a
# softmax of scaled scores. Chosen on BANKING77 and SST-5 with injected noise.
_TOLERANCE = 3e-3
_SAME_KIND = 0.05  # nats a sample that one kind of errors may be behind another
_RATES, _STEPS = 8, 6  # tried first; and of bisection, for each end
_LEAST = 1e-6
_LEAST_RATE = 0.01  # below, the matrix of the fit has no direction


@dataclass(frozen=True)
class NoiseRate:
    """The share of wrong labels, in [0, 1]; both estimates are NaN if no scores support one.

    Attributes:
        mixture (`float`): of the noise model ([`~hf_clear.estimators.NoiseModel`], `noise_rate`).
        confident_joint (`float`): of [`confident_joint`].
        low (`float`): the lower end of the range: the lowest of both estimates and of the rates under which the noise
            model makes the labels about as likely.
        high (`float`): the highest of these, or the share of labels that are not what is predicted without them.

    Raises:
        ValueError: if one is not in [0, 1], up to rounding, an end is NaN, or the lower end is above the higher one.
    """

    mixture: float
    confident_joint: float
    low: float
    high: float

    def __post_init__(self):
        for name in ("mixture", "confident_joint", "low", "high"):
            as_probabilities(name, [getattr(self, name)], may_be_missing=name not in ("low", "high"))
        if self.low > self.high:
            raise ValueError(f"`low` has to be `high` or below; got {self.low:g} and {self.high:g}.")


def estimate_noise_rate(model: NoiseModel, scores: np.ndarray | Sequence[np.ndarray], labels: np.ndarray) -> NoiseRate:
    """A range for the share of wrong labels, which is wide if hard samples and wrong labels look alike.

    Scores that never get sure explain the labels by noise as well as by hard samples: the likelihood hardly changes
    with the rate, and the range says so. What no range knows of are errors that annotators repeat: labels of texts of
    one kind that are all wrong in the same way look right to everything that learns from them.

    Args:
        model ([`NoiseModel`]): fitted to these.
        scores (`np.ndarray` of shape `[num_samples, num_labels]`, or a sequence of them): of each source.
        labels (`np.ndarray` of shape `[num_samples]`): the given classes; -100 for none.

    Returns:
        [`NoiseRate`]

    Raises:
        ValueError: if scores or labels are of another shape than those of `model`, a label is no class, or no sample
            has a label and a score.
    """
    check_model(model)
    tables = score_tables(scores)
    labels = as_classes("labels", labels, len(model.labels))
    if tables[0].shape != model.prediction.shape:
        raise ValueError(
            f"`scores` has to be what `model` was fitted to, of shape {list(model.prediction.shape)}; got "
            f"{list(tables[0].shape)}."
        )
    check_range("labels", labels, tables[0].shape[1], labels != IGNORED_LABEL)
    if not model.is_supported:
        return NoiseRate(float("nan"), float("nan"), 0.0, 1.0)
    known = (labels != IGNORED_LABEL) & model.has_scores
    if not known.any():
        raise ValueError("No sample has a label and a score: there is no share of wrong labels to estimate.")
    by_joint = 1 - float(np.trace(confident_joint(model.prediction, labels)))
    likely = _likely_rates(model, tables, labels)
    disputed = float((model.prediction.argmax(axis=1) != labels)[known].mean())
    ends = [model.noise_rate, by_joint, *likely]
    return NoiseRate(model.noise_rate, by_joint, float(min(ends)), float(max(*ends, disputed)))


def confident_joint(pred_probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The joint distribution of given and true label, by counting confident predictions (Northcutt et al., 2021, arXiv
    1911.00068).

    A prediction counts for a class if its probability reaches the mean that samples of this given label have; for the
    most probable one of these. Rows are scaled to the frequencies of the given labels.

    Args:
        pred_probs (`np.ndarray` of shape `[num_samples, num_labels]`): of models that have not seen the label. Rows
            with NaN, and those of zeros, stand for nothing known: the sample is left out.
        labels (`np.ndarray` of shape `[num_samples]`): the given classes; -100 for none.

    Returns:
        `np.ndarray` of shape `[num_labels, num_labels]`: row: given label; column: true class; sums to 1.

    Raises:
        ValueError: if shapes don't fit, a row holds no probabilities that sum to 1, a label is no class, or no sample
            has a label and a prediction.
    """
    probabilities = as_probabilities("pred_probs", pred_probs, num_dims=2).astype(np.float32)
    labels = as_classes("labels", labels, len(probabilities))
    check_range("labels", labels, probabilities.shape[1], labels != IGNORED_LABEL)
    known = (labels != IGNORED_LABEL) & (probabilities.sum(axis=1) > 0)  # False with NaN in it
    if not known.any():
        raise ValueError("No sample has a label and a prediction: there is nothing to count.")
    probabilities, labels = probabilities[known], labels[known]
    num_labels = probabilities.shape[1]
    frequency = np.bincount(labels, minlength=num_labels)
    own = np.bincount(labels, probabilities[np.arange(len(labels)), labels], minlength=num_labels)
    threshold = np.divide(own, frequency, out=np.full(num_labels, np.inf), where=frequency > 0)
    confident = np.where(probabilities >= threshold, probabilities, -1)
    counts, counted = np.zeros((num_labels, num_labels)), confident.max(axis=1) >= 0
    np.add.at(counts, (labels[counted], confident[counted].argmax(axis=1)), 1)
    none = counts.sum(axis=1) == 0
    counts[none, none] = 1
    joint = counts / counts.sum(axis=1, keepdims=True) * frequency[:, None]
    return joint / max(joint.sum(), 1)


def scaled_matrix(matrix: np.ndarray, scale: float) -> np.ndarray:
    """The same kind of errors, `scale` times as many: `I + scale * (T - I)`."""
    return np.eye(len(matrix)) + scale * (matrix - np.eye(len(matrix)))


def _likely_rates(model: NoiseModel, tables: list[np.ndarray], labels: np.ndarray) -> list[float]:
    """The lowest and the highest rate under which the labels are about as likely as they can be, of errors as a free
    matrix has found them, of symmetric ones, or of both if the labels don't tell which."""
    occurring = np.unique(labels[labels != IGNORED_LABEL])
    some, num_labels = Rows.drawn(*of_classes(occurring, tables, labels)), len(occurring)
    halves = fit_halves(some, num_labels)  # the matrix of one half, judged by the other: it fits its own too well
    share = model.prediction[:, occurring].mean(axis=0, dtype=np.float64)
    found = float(np.mean([1 - share @ np.diag(matrix) for matrix, _ in halves]))
    worst = max((1 - np.diag(matrix)).max() for matrix, _ in halves)
    kinds = [_Likelihood([(lambda rate: symmetric_matrix(num_labels, rate), rows) for _, rows in halves])]
    bounds = [(found, 1 - 1 / num_labels)]
    if found > _LEAST_RATE:

        def scaled(matrix: np.ndarray) -> Callable[[float], np.ndarray]:
            return lambda rate: scaled_matrix(matrix, rate / found)

        kinds.append(_Likelihood([(scaled(matrix), rows) for matrix, rows in halves]))
        bounds.append((found, min(found / worst, 1 - 1 / num_labels)))
    tops = [_top(kind, *bound) for kind, bound in zip(kinds, bounds)]
    best, ends = max(value for _, value in tops), []
    for kind, (rate, value), (_, most) in zip(kinds, tops, bounds):
        if value > best - _SAME_KIND:
            ends += [_end(kind, rate, 0.0, value), _end(kind, rate, most, value)]
    return ends


class _Likelihood:
    """Of the labels, by the rate of errors of one kind: the mean over samples, in nats."""

    def __init__(self, halves: list[tuple[Callable[[float], np.ndarray], Rows]]):
        self.halves = halves

    def __call__(self, rate: float) -> float:
        total = 0.0
        for matrix_of, rows in self.halves:
            matrix = np.maximum(matrix_of(rate), _LEAST)
            weights = fit_weights(rows, matrix)  # from the beginning: no way leads back from saturated ones
            _, sums = posterior(weights.predict(rows.scores), rows.likelihood(matrix))
            total += np.log(sums).mean(dtype=np.float64) / len(self.halves)
        return total


def _top(likelihood: _Likelihood, found: float, most: float) -> tuple[float, float]:
    """The likeliest of some rates, and its likelihood."""
    rates = sorted({*np.linspace(0, most, _RATES + 1)[:-1], found})
    return max(((rate, likelihood(rate)) for rate in rates), key=lambda pair: pair[1])


def _end(likelihood: _Likelihood, inside: float, outside: float, best: float) -> float:
    if likelihood(outside) > best - _TOLERANCE:
        return outside
    for _ in range(_STEPS):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if likelihood(middle) > best - _TOLERANCE else (inside, middle)
    return outside
