"""The scales of sources of scores, by the likelihood of the given labels. numpy and scipy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .._names import IGNORED_LABEL

_FIRST_LOG_SCALE = -1.0
_LOG_SCALES = (-10.0, 6.0)
_MOST_NUMBERS = 2**24  # of a table that scales are fitted to; more samples hardly change them
_MOST_ROWS, _LEAST_ROWS = 32_768, 4_096
_LEAST_PROBABILITY = 1e-12


@dataclass(frozen=True)
class Rows:
    """The samples that scales are fitted to.

    Attributes:
        scores (`list[np.ndarray]` of shape `[rows, num_labels]`): of each source, in float32, centered in each row.
        labels (`np.ndarray` of shape `[rows]`): the given classes.
    """

    scores: list[np.ndarray]
    labels: np.ndarray

    @classmethod
    def drawn(cls, tables: list[np.ndarray], labels: np.ndarray) -> Rows:
        """All samples with a label; of very many, some that are drawn with a fixed seed."""
        rows = np.flatnonzero(labels != IGNORED_LABEL)
        most = int(np.clip(_MOST_NUMBERS // tables[0].shape[1], _LEAST_ROWS, _MOST_ROWS))
        if len(rows) > most:
            rows = np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
        return cls([centered(table[rows]) for table in tables], labels[rows])

    def select(self, rows: np.ndarray) -> Rows:
        return Rows([table[rows] for table in self.scores], self.labels[rows])

    def prediction(self, scales: np.ndarray) -> np.ndarray:
        """`softmax(sum_j s_j z_j)`: `[rows, num_labels]`."""
        return _softmax(self.scores, scales)


def score_tables(scores: np.ndarray | Sequence[np.ndarray]) -> list[np.ndarray]:
    """One table for each source.

    Raises:
        ValueError: if there is none, or they are not of the same shape `[num_samples, num_labels]`.
    """
    tables = [scores] if isinstance(scores, np.ndarray) and scores.ndim == 2 else list(scores)
    tables = [np.asarray(table) for table in tables]
    if not tables:
        raise ValueError("`scores` is empty: the noise model needs one source of scores or more.")
    shapes = [list(table.shape) for table in tables]
    if tables[0].ndim != 2 or 0 in tables[0].shape or any(shape != shapes[0] for shape in shapes):
        raise ValueError(
            f"`scores` has to be of shape [num_samples, num_labels], the same for each source; got {shapes}."
        )
    return tables


def centered(table: np.ndarray) -> np.ndarray:
    """Scores in float32, with mean 0 in each row, which a softmax doesn't see. A row that is not finite becomes 0."""
    table = table.astype(np.float32)
    finite = np.isfinite(table).all(axis=1)
    table[~finite] = 0
    return table - table.mean(axis=1, keepdims=True)


def prediction(tables: list[np.ndarray], scales: np.ndarray) -> np.ndarray:
    """`softmax(sum_j s_j z_j)`: `[rows, num_labels]`, in float32."""
    return _softmax([centered(table) for table in tables], scales)


def fit_scales(
    rows: Rows, matrix: np.ndarray, start: np.ndarray | None = None, steps: int = 100
) -> tuple[np.ndarray, np.ndarray]:
    """Maximizes `sum_i log (f_i T)[y_i]` over the scales, which are positive.

    Args:
        matrix (`np.ndarray` of shape `[num_labels, num_labels]`): T.
        start (`np.ndarray` of shape `[num_sources]`, *optional*): scales to begin with.
        steps (`int`, *optional*, defaults to 100): of L-BFGS, at most.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: the scales, `[num_sources]`, and their posterior, `[rows, num_labels]`.
    """
    from scipy.optimize import minimize

    likelihood = matrix.T[rows.labels].astype(np.float32)  # of the given label, by true class

    def posterior(scales: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        f = _softmax(rows.scores, scales)
        joint = f * likelihood
        total = np.maximum(joint.sum(axis=1), _LEAST_PROBABILITY)
        return f, joint / total[:, None], total

    def loss(log_scales: np.ndarray) -> tuple[float, np.ndarray]:
        f, t, total = posterior(np.exp(log_scales))
        along = [float((z * (t - f)).sum(dtype=np.float64)) for z in rows.scores]
        return -float(np.log(total).mean(dtype=np.float64)), -np.exp(log_scales) * np.array(along) / len(f)

    first = np.full(len(rows.scores), _FIRST_LOG_SCALE) if start is None else np.log(start)
    if len(rows.labels):
        bounds = [_LOG_SCALES] * len(first)
        first = minimize(loss, first, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": steps}).x
    scales = np.exp(first)
    return scales, posterior(scales)[1]


def _softmax(scores: list[np.ndarray], scales: np.ndarray) -> np.ndarray:
    total = sum(np.float32(scale) * z for scale, z in zip(scales, scores))
    total -= total.max(axis=1, keepdims=True)
    np.exp(total, out=total)
    total /= total.sum(axis=1, keepdims=True)
    return total
