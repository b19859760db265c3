"""An audit of labels: the table of suspects, and how far to trust it. Arrays in; no model, no trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import datasets
import numpy as np

from .._argument_checks import check_counts, check_label_names
from .._names import IGNORED_LABEL
from ..detection import LabelEvidence
from ..estimators import NoiseModel
from ..estimators._weights import centered
from ..report.issue_table import DEFAULT_THRESHOLD, check_threshold
from ..trust import (
    CleanAccuracy,
    NoiseRate,
    PlantedErrors,
    clean_accuracy,
    estimate_noise_rate,
    expected_precision,
    plant_and_find,
)


@dataclass(frozen=True)
class LabelAudit:
    """What [`audit_labels`] found; [`~hf_clear.audit.summary`] says it in a few lines.

    Attributes:
        table (`datasets.Dataset`): every sample with a label, worst first, as of [`~hf_clear.find_label_issues`].
        noise_rate ([`~hf_clear.trust.NoiseRate`]): the share of wrong labels by two estimators, and a range.
        expected_precision (`list[dict]`): how many of the first labels of the list are wrong, see
            [`~hf_clear.trust.expected_precision`].
        planted ([`~hf_clear.trust.PlantedErrors`]): errors that were planted, and how many of them were found.
        accuracy ([`~hf_clear.trust.CleanAccuracy`]): of the predictions that the audit goes by (each made without the
            label of its sample): on the given labels, and estimated on the true ones.
        transition_matrix (`np.ndarray` of shape `[num_labels, num_labels]`): T; row: true class; column: given label.
        is_supported (`bool`): whether the predictions say anything about the labels. If not, there are no suspects.
        measured (`dict[str, float]`, *optional*): how good the list is by true labels, if there are any:
            `true_labels`, their number, `noise_rate`, and what [`~hf_clear.metrics.detection_metrics`] gives.
        threshold (`float`, *optional*, defaults to 0.5): a label is a suspect if its score is below it.
    """

    table: datasets.Dataset = field(repr=False)
    noise_rate: NoiseRate
    expected_precision: list[dict[str, float]] = field(repr=False)
    planted: PlantedErrors
    accuracy: CleanAccuracy
    transition_matrix: np.ndarray = field(repr=False)
    is_supported: bool
    measured: dict[str, float] | None = None
    threshold: float = DEFAULT_THRESHOLD

    @property
    def label_issues(self) -> datasets.Dataset:
        """The suspects alone, worst first."""
        return self.table.select(np.flatnonzero(np.array(self.table["is_label_issue"], dtype=bool)))

    @property
    def precision_of_issues(self) -> dict[str, float] | None:
        """The row of `expected_precision` for all suspects; None if there are none."""
        size = sum(self.table["is_label_issue"])
        return next((row for row in self.expected_precision if row["num_labels"] == size), None)


def audit_labels(
    labels: np.ndarray,
    pred_probs: np.ndarray | None = None,
    features: np.ndarray | Sequence[np.ndarray] | None = None,
    *,
    texts: datasets.Dataset | Mapping[str, Sequence] | Sequence[str] | None = None,
    label_names: Sequence[str] | None = None,
    threshold: float | None = None,
    cuts: Sequence[int] | None = None,
    seed: int = 0,
) -> LabelAudit:
    """Finds labels that are more likely wrong than right, and says how far to trust the list.

    That is told without the truth: errors are planted, in 5 % of the labels, and it is counted how many are found,
    with probes that are trained anew on labels with these errors. Predictions (`pred_probs`) stay as they are: the
    model that they are of is not trained anew. The noise rate is a range, wide if hard samples and wrong labels look
    alike. What is stated is about errors at random: those that annotators repeat look right to all that is learned from
    them.

    Args:
        cuts (`Sequence[int]`, *optional*): lengths of the list to state the expected precision of; by default 10, 20,
            50 and so on, and the number of suspects.
        labels, pred_probs, features, texts, label_names, threshold, seed: as of [`~hf_clear.find_label_issues`].

    Returns:
        [`LabelAudit`]

    Raises:
        ValueError: as [`~hf_clear.find_label_issues`].

    Example:

    ```python
    >>> audit = audit_labels(labels, features=embeddings, texts={"text": texts}, label_names=names)
    >>> print(hf_clear.audit.summary(audit))    # what `hf-clear audit` prints
    >>> audit.noise_rate.low, audit.noise_rate.high
    (0.34, 0.44)
    >>> audit.precision_of_issues
    {'num_labels': 1081, 'threshold': 0.48, 'precision_mixture': 0.98, 'precision_planted': 0.98, ...}
    ```
    """
    check_label_names(label_names)
    cuts = None if cuts is None else check_counts("cuts", cuts)
    num_labels = None if label_names is None else len(label_names)
    evidence = LabelEvidence.of(labels, pred_probs, features, num_labels, seed)
    table = evidence.table(texts, label_names, threshold, return_all=True)
    labels_scored = np.where(evidence.model.has_scores, evidence.labels, IGNORED_LABEL)
    model, rate = evidence.model, estimate_noise_rate(evidence.model, evidence.scores, labels_scored)
    planted = plant_and_find(model, evidence.rescore, seed) if model.is_supported else PlantedErrors.none(model)
    score, suspects = evidence.label_score, int(sum(table["is_label_issue"]))
    if cuts is None:
        cuts = default_cuts(suspects, int(np.isfinite(score).sum()))
    cuts = sorted({*cuts, *([suspects] if suspects else [])})
    predicted = np.mean([centered(own) for own in evidence.scores], axis=0).argmax(axis=1)
    known = model.has_scores & (evidence.labels != IGNORED_LABEL)
    return LabelAudit(
        table=table,
        noise_rate=rate,
        expected_precision=expected_precision(score, rate, planted, cuts),
        planted=planted,
        accuracy=_accuracy(predicted[known], evidence.labels[known], model, rate),
        transition_matrix=model.transition_matrix,
        is_supported=model.is_supported,
        threshold=check_threshold(threshold),
    )


def default_cuts(num_suspects: int, num_samples: int) -> list[int]:
    """10, 20, 50, 100 and so on, up to twice the number of suspects."""
    most = min(max(2 * num_suspects, 20), num_samples)
    steps = [factor * 10**power for power in range(1, 10) for factor in (1, 2, 5)]
    return [step for step in steps if step <= most]


def _accuracy(predicted: np.ndarray, labels: np.ndarray, model: NoiseModel, rate: NoiseRate) -> CleanAccuracy:
    """NaN if it can't be estimated."""
    if not len(labels):
        return CleanAccuracy(float("nan"), float("nan"), 0.0, 1.0)
    found = clean_accuracy(predicted, labels, model.transition_matrix, (rate.low, rate.high))
    return found if model.is_supported else CleanAccuracy(found.given, float("nan"), 0.0, 1.0)
