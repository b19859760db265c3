"""From scores to a prediction, by the likelihood of the given labels. numpy and scipy only.

Tables that are fitted to have classes first, `[num_labels, rows]`: sums over classes then add up whole rows of memory,
which takes a third of the time.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .._argument_checks import as_array
from .._names import IGNORED_LABEL

_FIRST_LOG_SCALE = -1.0
_LOG_SCALES = (-10.0, 6.0)
# A scale times the root mean square of its scores. Below, a softmax is flat; above, it is 0 or 1. A search that gets
# there stays, since the likelihood hardly changes any more.
_SHARPNESS = (0.03, 30.0)
_OTHER_STARTS = (0.5, 1.0, 2.0, 4.0)  # of the sharpness
_USUAL_LOG_UNITS = (-5, 5)  # base 2, of scores
_MOST_NUMBERS = 2**24  # of a table that scales are fitted to; more samples hardly change them
_MOST_ROWS, _LEAST_ROWS = 32_768, 4_096
_LEAST_PROBABILITY = 1e-12
_TIGHT = 2.2e-9
# Of the class frequencies, against a sample's label. Chosen with a look at true labels: without it, if 40 % of each
# class are labelled as the next one, one class in twenty is often taken for its neighbor; from 1 on, noise that strikes
# some classes far more than others is underestimated.
_FREQUENCY_WEIGHT = 0.3


@dataclass(frozen=True)
class Weights:
    """What turns scores into a prediction `f = softmax(sum_j s_j z_j + b)`.

    Attributes:
        scales (`np.ndarray` of shape `[num_sources]`): s, positive.
        bias (`np.ndarray` of shape `[num_labels]`): b, of the classes.
    """

    scales: np.ndarray
    bias: np.ndarray

    def predict(self, tables: list[np.ndarray]) -> np.ndarray:
        """f of score tables that are [`centered`], with classes first: `[num_labels, rows]`, in float32."""
        f = np.multiply(tables[0], np.float32(self.scales[0]))
        for scale, table in zip(self.scales[1:], tables[1:]):
            f += np.float32(scale) * table
        f += self.bias.astype(np.float32)[:, None]
        f -= f.max(axis=0)
        np.exp(f, out=f)
        f /= sum_over(f, axis=0)
        return f


@dataclass(frozen=True)
class Rows:
    """The samples that weights are fitted to.

    Attributes:
        scores (`list[np.ndarray]` of shape `[num_labels, rows]`): of each source, in float32, [`centered`].
        labels (`np.ndarray` of shape `[rows]`): the given classes.
    """

    scores: list[np.ndarray]
    labels: np.ndarray

    @classmethod
    def drawn(cls, tables: list[np.ndarray], labels: np.ndarray) -> Rows:
        """All samples with a label and a score; of very many, some that are drawn with a fixed seed."""
        rows = np.flatnonzero((labels != IGNORED_LABEL) & has_scores(tables))
        most = int(np.clip(_MOST_NUMBERS // tables[0].shape[1], _LEAST_ROWS, _MOST_ROWS))
        if len(rows) > most:
            rows = np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
        return cls([classes_first(centered(table[rows])) for table in tables], labels[rows])

    @functools.cached_property
    def units(self) -> np.ndarray:
        """The root mean square of each source's scores, `[num_sources]`; 1 if all are 0."""
        return np.array([root_mean_square(table) for table in self.scores])

    def select(self, rows: np.ndarray) -> Rows:
        return Rows([np.compress(rows, table, axis=1) for table in self.scores], self.labels[rows])

    def likelihood(self, matrix: np.ndarray) -> np.ndarray:
        """Of the given label, by true class: `T[k, y_i]`, `[num_labels, rows]`, in float32."""
        return np.take(matrix.astype(np.float32), self.labels, axis=1)  # an index would put rows first in memory


def score_tables(scores: np.ndarray | Sequence[np.ndarray]) -> list[np.ndarray]:
    """One table for each source. Minus infinity, the logarithm of 0, becomes that of next to 0.

    Raises:
        ValueError: if there is none, or they are not of the same shape `[num_samples, num_labels]`.
    """
    is_one = getattr(scores, "ndim", None) == 2 or not isinstance(scores, Iterable)
    given = [scores] if is_one else list(scores)
    if given and all(np.ndim(row) == 1 for row in given):  # rows of one source
        given = [np.asarray(given)]
    tables = [table if isinstance(table, np.ndarray) else as_array("scores", table) for table in given]
    if not tables:
        raise ValueError("`scores` is empty: the noise model needs one source of scores or more.")
    shapes = [list(table.shape) for table in tables]
    if tables[0].ndim != 2 or 0 in tables[0].shape or any(shape != shapes[0] for shape in shapes):
        raise ValueError(
            "`scores` has to be of shape [num_samples, num_labels], the same for each source; got "
            f"{', '.join(map(str, shapes[:3]))}{', ...' * (len(shapes) > 3)}."
        )
    return [_without_zeros(table) for table in tables]


def _without_zeros(table: np.ndarray) -> np.ndarray:
    """With a number for minus infinity, in rows that have others: a probability of 0 is a small one, and no reason to
    leave out the sample."""
    if not np.isneginf(table).any():
        return table
    from scipy.special import logsumexp

    total = logsumexp(table, axis=1, keepdims=True)  # NaN or infinite for rows that say nothing
    return np.where(np.isneginf(table) & np.isfinite(total), total + np.log(least_probability(table)), table).astype(
        table.dtype
    )


def least_probability(table: np.ndarray) -> float:
    """What 0 may stand for in numbers of this kind."""
    return 2.0**-25 if table.dtype == np.float16 else float(np.finfo(np.float32).tiny)


def root_mean_square(table: np.ndarray) -> float:
    """1 if all are 0."""
    square = float(np.vdot(table, table)) / max(table.size, 1)
    return square**0.5 if square > 0 else 1.0


def in_usual_units(tables: list[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Scores of which a search for scales can find the order of magnitude: by a power of two, if they are far from it.

    Returns:
        `tuple[list[np.ndarray], np.ndarray]`: the tables, and what each was divided by, `[num_sources]`.
    """
    units = np.ones(len(tables))
    for source, table in enumerate(tables):
        some = table[:: max(1, len(table) // _LEAST_ROWS)]
        finite = some[np.isfinite(some).all(axis=1)].astype(np.float64)
        order = round(np.log2(root_mean_square(finite - finite.mean(axis=1, keepdims=True)))) if len(finite) else 0
        if not _USUAL_LOG_UNITS[0] <= order <= _USUAL_LOG_UNITS[1]:
            units[source] = 2.0**order
    return [table if unit == 1 else (table / unit).astype(np.float32) for table, unit in zip(tables, units)], units


def of_classes(
    classes: np.ndarray, tables: list[np.ndarray], labels: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray]:
    """Scores and labels of some classes alone, which all labels are of; the classes are counted from 0 on."""
    some = []
    for table in tables:
        is_known = np.isfinite(table).all(axis=1, keepdims=True)
        some.append(np.where(is_known, table[:, classes], np.nan).astype(table.dtype))
    return some, np.where(labels == IGNORED_LABEL, IGNORED_LABEL, np.searchsorted(classes, labels))


def has_scores(tables: list[np.ndarray]) -> np.ndarray:
    """Which samples have a finite row in any table: `[num_samples]`."""
    return np.any([np.isfinite(table).all(axis=1) for table in tables], axis=0)


def centered(table: np.ndarray) -> np.ndarray:
    """Scores in float32, with mean 0 in each row, which a softmax doesn't see. A row that is not finite becomes 0."""
    table = table.astype(np.float32)
    finite = np.isfinite(table).all(axis=1)
    table[~finite] = 0
    return table - table.mean(axis=1, keepdims=True)


def classes_first(table: np.ndarray) -> np.ndarray:
    """From `[rows, num_labels]` to `[num_labels, rows]`."""
    return np.ascontiguousarray(table.T)


def sum_over(table: np.ndarray, axis: int) -> np.ndarray:
    """`table.sum(axis)`, as a product of matrices: several times faster."""
    ones = np.ones(table.shape[axis], dtype=table.dtype)
    return ones @ table if axis == 0 else table @ ones


def fit_weights(
    rows: Rows,
    matrix: np.ndarray,
    start: Weights | None = None,
    steps: int = 100,
    frequencies: np.ndarray | None = None,
    tolerance: float = _TIGHT,
) -> Weights:
    """Maximizes `sum_i log (f_i T)[y_i]` over scales and biases, which have a standard normal prior.

    If a search ends with predictions that are all flat, or without any doubt, others follow from between, and the
    likeliest of all is the answer.

    Args:
        matrix (`np.ndarray` of shape `[num_labels, num_labels]`): T.
        start ([`Weights`], *optional*): to begin with.
        steps (`int`, *optional*, defaults to 100): of L-BFGS, at most.
        frequencies (`np.ndarray` of shape `[num_labels]`, *optional*): of the true classes, as far as they are known:
            q. The mean prediction m has to be near them: `0.3 KL(q || m)` a sample (expectation regularization; Mann
            and McCallum, 2007).
        tolerance (`float`, *optional*, defaults to 2.2e-9): the fit ends if a step gains less, as a share of the loss.
    """
    from scipy.optimize import minimize
    from scipy.special import rel_entr

    size, num_sources, num_labels = len(rows.labels), len(rows.scores), len(matrix)
    start = Weights(np.full(num_sources, np.exp(_FIRST_LOG_SCALE)), np.zeros(num_labels)) if start is None else start
    if size == 0:
        return start
    likelihood = rows.likelihood(matrix)

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        weights = _weights(values, num_sources)
        f = weights.predict(rows.scores)
        rise, total = posterior(f, likelihood)
        rise -= f  # along each logit
        penalty = weights.bias @ weights.bias / 2 / size
        if frequencies is not None:
            mean = np.maximum(sum_over(f, axis=1).astype(np.float64) / size, _LEAST_PROBABILITY)
            penalty += _FREQUENCY_WEIGHT * rel_entr(frequencies, mean).sum()
            ratio = (frequencies / mean).astype(np.float32)
            f *= np.float32(_FREQUENCY_WEIGHT) * (ratio[:, None] - ratio @ f)
            rise += f
        along = [float(np.vdot(z, rise)) for z in rows.scores] * weights.scales
        gradient = np.concatenate([along, sum_over(rise, axis=1) - weights.bias])
        return penalty - np.log(total).mean(dtype=np.float64), -gradient / size

    bounds = [_LOG_SCALES] * num_sources + [(None, None)] * num_labels
    options = {"maxiter": steps, "ftol": tolerance}

    def search(start: Weights) -> tuple[float, Weights]:
        first = np.concatenate([np.log(start.scales), start.bias])
        found = minimize(loss, first, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        return found.fun, _weights(found.x, num_sources)

    found = [search(start)]
    sharpness = (found[0][1].scales * rows.units).max()
    if not _SHARPNESS[0] <= sharpness <= _SHARPNESS[1]:
        found += [search(Weights(sharpness / rows.units, np.zeros(num_labels))) for sharpness in _OTHER_STARTS]
    return min(found, key=lambda of_one: of_one[0])[1]


def posterior(f: np.ndarray, likelihood: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bayes' rule: `t_ik = f_ik T[k, y_i] / sum_k' f_ik' T[k', y_i]`.

    Args:
        f (`np.ndarray` of shape `[num_labels, rows]`): the prediction.
        likelihood (`np.ndarray` of the same shape): of the given label, by true class: `T[k, y_i]`.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: t, and the sum below the line, `[rows]`.
    """
    t = f * likelihood
    total = np.maximum(sum_over(t, axis=0), _LEAST_PROBABILITY)
    t /= total
    return t, total


def _weights(values: np.ndarray, num_sources: int) -> Weights:
    return Weights(np.exp(values[:num_sources]), values[num_sources:])
