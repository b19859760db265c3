"""One statistical model of wrong labels: what the true class of each sample is, and how it came by its label."""

from __future__ import annotations

import logging
import numbers
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .._argument_checks import as_array
from .._names import IGNORED_LABEL
from ..transition_matrices import check_transition_matrix, is_symmetric
from ._evidence import CleanProbabilityEstimate, SampleEvidence
from ._halves import LEAST_GAIN, Judged, judge_by_halves
from ._matrix_fit import LEAST_SKILL, fit_matrix, likeliest_symmetric, skill
from ._registry import register_estimator
from ._weights import (
    Rows,
    Weights,
    centered,
    classes_first,
    has_scores,
    in_usual_units,
    least_probability,
    of_classes,
    posterior,
    score_tables,
)

logger = logging.getLogger(__name__)

MOST_CLASSES = 4096  # a matrix of more takes minutes to fit, and several in float64 take gigabytes
EXPLAINED, SKILL, RATE = "noise_model_explained", "noise_model_skill", "noise_model_rate"  # diagnostics


@dataclass(frozen=True)
class NoiseModel:
    """What [`fit_noise_model`] found.

    Attributes:
        transition_matrix (`np.ndarray` of shape `[num_labels, num_labels]`): T; row: true class; column: given label.
        scales (`np.ndarray` of shape `[num_sources]`): s, the weight of each source of scores; near 0 for one that says
            nothing about the labels.
        prediction (`np.ndarray` of shape `[num_samples, num_labels]`): f, the probability of each true class before the
            given label is looked at.
        target (`np.ndarray` of shape `[num_samples, num_labels]`): t, the same after it, by Bayes' rule:
            `t_ik = f_ik T[k, y_i] / sum_k' f_ik' T[k', y_i]`. If there is no label (-100), it is f.
        labels (`np.ndarray` of shape `[num_samples]`): the given labels.
        has_scores (`np.ndarray` of shape `[num_samples]`): False for samples without a finite row of scores. Nothing is
            known of them: their target is the given label, and they are no part of any fit, share or mean.
        log_likelihood (`float`): the mean of `log sum_k f_ik T[k, y_i]` over samples with a label and a score, in nats.
        gain (`float`): by how much a label is likelier than if all samples had the same prediction, in nats: the mean
            over samples that scales and T were not fitted to (two halves). About 0 or below if the scores say nothing.
        is_supported (`bool`): whether these labels agree with what is predicted for them, by more than if they were
            permuted (a one-sided test at 1 %), and the gain is above 0.001. If not, nothing is known: `target` is the
            given label, `clean_probability` is 1, and `prediction` the same for all classes that occur.
        is_free (`bool`): whether T is given, or another than symmetric noise since that makes held-out labels likelier.
        is_certain (`bool`): whether the gain is above 0 by a one-sided t-test at 1 %, too. With few samples, scores may
            be supported, and a training that begins by them still would follow their errors.
    """

    transition_matrix: np.ndarray = field(repr=False)
    scales: np.ndarray
    prediction: np.ndarray = field(repr=False)
    target: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    has_scores: np.ndarray = field(repr=False)
    log_likelihood: float
    gain: float
    is_supported: bool
    is_free: bool = False
    is_certain: bool = False

    @property
    def clean_probability(self) -> np.ndarray:
        """The probability that the given label is the true class, `t_i[y_i]`: `[num_samples]`; 1 without one."""
        of_label = self.target[np.arange(len(self.labels)), np.maximum(self.labels, 0)].astype(np.float64)
        return np.where(self.labels == IGNORED_LABEL, 1.0, of_label.clip(0, 1))

    @property
    def suggestion(self) -> np.ndarray:
        """The most probable true class of each sample, `argmax t_i`: `[num_samples]`."""
        return self.target.argmax(axis=1)

    @property
    def suggestion_confidence(self) -> np.ndarray:
        """The probability of the suggestion: `[num_samples]`."""
        return self.target.max(axis=1)

    @property
    def expected_skill(self) -> float:
        """How far predictions go from the best constant one (0) to perfect ones (1), if f is calibrated: the expected
        accuracy, the mean of `max f_i`, between that of the constant one, the largest class mean of f, and 1."""
        return skill(self.prediction[self.has_scores]) if self.has_scores.any() else 0.0

    @property
    def explained(self) -> float:
        """The share of what speaks against the given labels that the noise matrix takes for wrong labels: the noise
        rate over the mean of `1 - f_i[y_i]`. Near 1 if T says how labels went wrong. Near 0 if there are hardly any
        wrong ones, or people erred on samples that f is in doubt about, too. NaN if nothing speaks against a label, or
        predictions tell too little (`expected_skill` below 0.6): their doubts are about everything."""
        known = np.flatnonzero((self.labels != IGNORED_LABEL) & self.has_scores)
        if not len(known):
            return float("nan")
        doubt = 1 - self.prediction[known, self.labels[known]].astype(np.float64).mean()
        found = 1 - self.clean_probability[known].mean()
        is_told = self.is_supported and self.expected_skill >= LEAST_SKILL and doubt > LEAST_GAIN
        return float(np.clip(found / doubt, 0, 1)) if is_told else float("nan")

    @property
    def noise_rate(self) -> float:
        """The estimated share of wrong labels, 1 - the mean clean probability of samples with a label and a score. NaN
        if no scores support one."""
        known = (self.labels != IGNORED_LABEL) & self.has_scores
        return float(1 - self.clean_probability[known].mean()) if self.is_supported else float("nan")


def fit_noise_model(
    scores: np.ndarray | Sequence[np.ndarray],
    labels: np.ndarray,
    transition_matrix: np.ndarray | None = None,
    least_skill: float = LEAST_SKILL,
) -> NoiseModel:
    """Fits how scores tell the true class, and how the given labels come from it.

    The prediction `f = softmax(sum_j s_j z_j + b)` weighs the sources of scores z; the noise matrix `T[true, given]`
    says how labels go wrong. Both make the given labels likely: `sum_i log (f_i T)[y_i]`. A source that says nothing
    gets a scale near 0, and without any that does, the target stays the given label.

    A class that no label has is left out, unless T is given: no sample is predicted to be of it. Symmetric noise among
    all classes would make it likely that none is wrong, since no label is of these.

    T is found by expectation maximization, in turns with scales s and class biases b, from symmetric noise of the
    likeliest rate (Goldberger and Ben-Reuven, 2017). Its rows are drawn towards symmetric noise of the same rate, by as
    many pseudo-counts as there are classes; b has a standard normal prior. A free T can take what predictions get wrong
    for wrong labels: the noise rate is then too high, and predictions look surer than they are. So T is symmetric noise
    of the likeliest rate, unless a free one makes labels likelier that it was not fitted to: by 0.003 nats a label, the
    mean over up to five draws of two halves.

    Scores have to come from models that have not seen the label of the sample that they are for, or from training that
    doesn't follow it, as the targets of this model: for one that has learned labels by heart, all of them are right.

    Args:
        scores (`np.ndarray` of shape `[num_samples, num_labels]`, or a sequence of them): logits, or logarithms of
            probabilities, of each source, in any unit. Minus infinity is the logarithm of 0. A row of it alone, or with
            NaN or infinity in it, says nothing.
        labels (`np.ndarray` of shape `[num_samples]`): the given classes; -100 for none.
        transition_matrix (`np.ndarray` of shape `[num_labels, num_labels]`, *optional*): T, if it is known; rows sum to
            1. Then the weights of the prediction alone are fitted.
        least_skill (`float`, *optional*, defaults to 0.6): if `expected_skill` is below it, predictions tell too little
            for a free T, which can't be told from classes that they confuse: it is symmetric noise of the likeliest
            rate. 0 for predictions that follow the targets of this model, as at its refits in training; above 1 never
            leaves T free.

    Returns:
        [`NoiseModel`]

    Raises:
        ValueError: if there is no score, shapes don't fit, a label is no class, rows of T are no probabilities, or
            there are more than 4,096 classes.

    Example:

    ```python
    >>> model = fit_noise_model(np.log(pred_probs), labels)   # pred_probs from cross-validation
    >>> model.noise_rate, model.suggestion[model.clean_probability < 0.5]
    ```
    """
    tables = score_tables(scores)
    labels = _labels(labels, *tables[0].shape)
    num_labels = tables[0].shape[1]
    check_num_labels(num_labels)
    known = None if transition_matrix is None else _matrix(transition_matrix, num_labels)
    if isinstance(least_skill, bool) or not isinstance(least_skill, numbers.Real) or not 0 <= least_skill:
        raise ValueError(f"`least_skill` has to be a number, 0 or above; got {least_skill!r}.")
    occurring = np.unique(labels[labels != IGNORED_LABEL])
    if known is None and 0 < len(occurring) < num_labels:
        of_these = fit_noise_model(*of_classes(occurring, tables, labels), None, least_skill)
        return _among_all(of_these, occurring, labels, num_labels)
    tables, units = in_usual_units(tables)
    some = Rows.drawn(tables, labels)
    if num_labels == 1:
        known = np.ones((1, 1))
    start = likeliest_symmetric(some, num_labels) if known is None else None
    found = judge_by_halves(some, num_labels, known, least_skill, start)
    matrix, weights = fit_matrix(some, num_labels, known, least_skill, start, found.is_free)
    # A free one is given up if predictions tell too little.
    is_free = transition_matrix is not None or (found.is_free and not is_symmetric(matrix))
    model = _model(tables, labels, matrix, weights, found._replace(is_free=is_free))
    return replace(model, scales=model.scales / units)


def _among_all(model: NoiseModel, occurring: np.ndarray, labels: np.ndarray, num_labels: int) -> NoiseModel:
    """A model of the classes that occur, as one of all."""
    matrix = np.eye(num_labels)
    matrix[np.ix_(occurring, occurring)] = model.transition_matrix
    prediction, target = (np.zeros((len(labels), num_labels), dtype=model.target.dtype) for _ in range(2))
    prediction[:, occurring], target[:, occurring] = model.prediction, model.target
    return replace(model, transition_matrix=matrix, labels=labels, prediction=prediction, target=target)


def check_num_labels(num_labels: int) -> None:
    """Raises a ValueError if there are more than `MOST_CLASSES`."""
    if num_labels > MOST_CLASSES:
        raise ValueError(
            f"There are {num_labels} classes. A noise matrix is for {MOST_CLASSES} at most: its time and memory grow "
            "with their square. Leave out classes without samples, or judge labels within groups of classes."
        )


def _model(
    tables: list[np.ndarray], labels: np.ndarray, matrix: np.ndarray, weights: Weights, judged: Judged
) -> NoiseModel:
    shape, is_labelled, known = tables[0].shape, labels != IGNORED_LABEL, has_scores(tables)
    kind = np.float16 if all(table.dtype == np.float16 for table in tables) else np.float32
    predictions, target, total = np.empty(shape, dtype=kind), np.empty(shape, dtype=kind), 0.0
    for rows in _blocks(len(labels)):
        block = Rows([classes_first(centered(table[rows])) for table in tables], np.maximum(labels[rows], 0))
        f, labelled = weights.predict(block.scores), is_labelled[rows]
        t, sums = posterior(f, np.where(labelled, block.likelihood(matrix), np.float32(1)))
        total += np.log(sums[labelled & known[rows]]).sum(dtype=np.float64)
        predictions[rows], target[rows] = f.T, t.T
    if not judged.is_supported:
        predictions[:] = 1 / shape[1]
    stays = is_labelled & ~(known & judged.is_supported)  # nothing is known against these labels
    target[stays] = 0
    target[stays, labels[stays]] = 1
    log_likelihood = float(total / (is_labelled & known).sum()) if (is_labelled & known).any() else float("nan")
    return NoiseModel(matrix, weights.scales, predictions, target, labels, known, log_likelihood, *judged)


def _labels(labels: np.ndarray, num_samples: int, num_labels: int) -> np.ndarray:
    labels = labels if isinstance(labels, np.ndarray) else as_array("labels", labels)
    if labels.shape != (num_samples,):
        raise ValueError(f"`labels` has to be of shape {[num_samples]}, one for each row; got {list(labels.shape)}.")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"`labels` has to hold whole numbers, the classes; got {labels.dtype}.")
    wrong = np.flatnonzero((labels != IGNORED_LABEL) & ((labels < 0) | (labels >= num_labels)))
    if len(wrong):
        raise ValueError(
            f"`labels[{wrong[0]}]` is {labels[wrong[0]]}, and there are scores for {num_labels} classes: labels are "
            f"from 0 to {num_labels - 1}, or -100 for none."
        )
    return labels.astype(np.int64)


def _matrix(matrix: np.ndarray, num_labels: int) -> np.ndarray:
    matrix = check_transition_matrix(matrix)
    if len(matrix) != num_labels:
        raise ValueError(f"`transition_matrix` is for {len(matrix)} classes, and there are scores for {num_labels}.")
    return matrix


def _blocks(size: int, rows: int = 4096) -> list[slice]:
    return [slice(start, min(start + rows, size)) for start in range(0, size, rows)]


def log_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """As scores: probabilities of 0 are a little above; a row that sums to 0, or is not finite, becomes NaN."""
    with np.errstate(invalid="ignore"):
        above = np.maximum(probabilities, least_probability(probabilities), dtype=np.float32)
        scores = np.log(above).astype(probabilities.dtype)
    scores[~(probabilities.sum(axis=1, dtype=np.float32) > 0)] = np.nan
    return scores


def warn_if_unsupported(model: NoiseModel) -> None:
    if model.is_supported:
        return
    found = f"say nothing about the labels (gain of likelihood: {model.gain:.2g} nats a sample)"
    if model.gain > LEAST_GAIN:
        count = int(((model.labels != IGNORED_LABEL) & model.has_scores).sum())
        found = (
            f"may say something about the labels, but {count:,} are too few to be sure of it (gain of likelihood: "
            f"{model.gain:.2g} nats a sample)"
        )
    logger.warning(f"The predictions {found}: by them, no label is called wrong.")


def noise_model(evidence: SampleEvidence) -> CleanProbabilityEstimate:
    """The estimator `"noise_model"`: [`fit_noise_model`] to the predicted probabilities."""
    if evidence.labels is None or evidence.probabilities is None:
        raise ValueError("The noise model needs one class label and one vector of class probabilities for each sample.")
    model = fit_noise_model(log_probabilities(evidence.probabilities), evidence.labels, least_skill=0.0)
    diagnostics = {
        RATE: model.noise_rate,
        "noise_model_scale": float(model.scales[0]),
        "noise_model_gain": model.gain,
        EXPLAINED: model.explained,
        SKILL: model.expected_skill if model.is_supported else float("nan"),
        "noise_model_diagonal": float(np.diag(model.transition_matrix).mean()),
        "noise_model_free": float(model.is_free),
    }
    found = model.clean_probability, diagnostics, model.target, model.transition_matrix
    return CleanProbabilityEstimate(*found, is_supported=model.is_supported)


register_estimator("noise_model", noise_model, uses_labels=True, gives_posterior=True)
