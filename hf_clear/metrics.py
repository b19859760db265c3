"""Metrics that work offline."""

from __future__ import annotations

import datasets
import evaluate
import numpy as np
from sklearn.metrics import accuracy_score, average_precision_score, precision_score, recall_score, roc_auc_score


class Accuracy(evaluate.Metric):
    """Share of correct predictions. As `evaluate.load("accuracy")`, which needs the Hub.

    Example:

    ```python
    >>> Accuracy().compute(predictions=[0, 1], references=[0, 0])
    {'accuracy': 0.5}
    ```
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of correct predictions.",
            citation="",
            inputs_description="predictions and references: class numbers.",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions, references) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}


def detection_metrics(clean_probability: np.ndarray, is_noisy: np.ndarray) -> dict[str, float]:
    """How well clean probabilities find the wrong labels, where the truth is known. Wrong labels are the positives.

    Args:
        clean_probability (`np.ndarray` of shape `[num_samples]`): in [0, 1].
        is_noisy (`np.ndarray` of shape `[num_samples]`): True where the given label is wrong.

    Returns:
        `dict[str, float]`: `detection_auroc` and `detection_average_precision` of the ranking by clean probability
        (lowest first), `detection_precision` and `detection_recall` of the samples below 0.5. Empty where all labels
        are right or all are wrong: there is nothing to tell apart.
    """
    clean_probability, is_noisy = np.asarray(clean_probability), np.asarray(is_noisy, dtype=bool)
    if is_noisy.all() or not is_noisy.any():
        return {}
    flagged = clean_probability < 0.5
    return {
        "detection_auroc": float(roc_auc_score(is_noisy, -clean_probability)),
        "detection_average_precision": float(average_precision_score(is_noisy, -clean_probability)),
        "detection_precision": float(precision_score(is_noisy, flagged, zero_division=0.0)),
        "detection_recall": float(recall_score(is_noisy, flagged)),
    }
