"""Suspect labels from the predictions of any model. No trainer."""

from __future__ import annotations

import logging

import datasets
import numpy as np

from .estimators import fit_noise_model
from .estimators.noise_model import log_probabilities, warn_if_unsupported

logger = logging.getLogger(__name__)


def find_label_issues(labels: np.ndarray, pred_probs: np.ndarray, return_all: bool = False) -> datasets.Dataset:
    """Labels that are more likely wrong than right, worst first, with the class that they should have.

    Fits the noise model ([`~hf_clear.estimators.fit_noise_model`]) to predictions of any model, such as those of
    `sklearn.model_selection.cross_val_predict(..., method="predict_proba")`.

    Args:
        labels (`np.ndarray` of shape `[num_samples]`): the given classes, from 0 on; -100 for none.
        pred_probs (`np.ndarray` of shape `[num_samples, num_labels]`): probabilities of the classes for each sample,
            of a model that has not been trained on its label. A row that is not finite, or sums to 0, says nothing: the
            sample is no issue, its `label_score` is NaN, and a warning counts such samples.
        return_all (`bool`, *optional*, defaults to `False`): whether to return every sample with a label, in order of
            suspicion.

    Returns:
        `datasets.Dataset` with the columns `sample_index`, `given_label`, `predicted_label` (the most probable true
        class), `is_label_issue`, `label_score` (the probability that the given label is right) and
        `suggestion_confidence` (that of `predicted_label`).

    Raises:
        ValueError: if shapes don't fit, a label is no class, or `pred_probs` holds anything but probabilities.

    Example:

    ```python
    >>> pred_probs = cross_val_predict(LogisticRegression(), features, labels, method="predict_proba")
    >>> find_label_issues(labels, pred_probs).to_pandas().head()
    ```
    """
    probabilities = np.asarray(pred_probs)
    if probabilities.ndim != 2:
        raise ValueError(f"`pred_probs` has to be of shape [num_samples, num_labels]; got {list(probabilities.shape)}.")
    if probabilities.dtype.kind != "f":
        probabilities = probabilities.astype(np.float64)
    finite = np.isfinite(probabilities).all(axis=1)
    total = probabilities[finite].sum(axis=1)
    wrong = (probabilities[finite] < 0).any(axis=1) | ((np.abs(total - 1) > 0.01) & (total != 0))
    if wrong.any():
        row = int(np.flatnonzero(finite)[wrong.argmax()])
        raise ValueError(
            f"`pred_probs[{row}]` is no distribution: it has to hold probabilities that sum to 1. Of logits, take the "
            "softmax first."
        )
    model = fit_noise_model(log_probabilities(probabilities), labels)
    warn_if_unsupported(model)
    is_labelled = model.labels >= 0
    missing = int((is_labelled & ~model.has_scores).sum())
    if missing:
        logger.warning(f"{missing} of {is_labelled.sum()} labelled samples have no finite prediction: no issues.")
    score, order = np.where(model.has_scores, model.clean_probability, np.nan), np.flatnonzero(is_labelled)
    order = order[np.argsort(score[order], kind="stable")]  # NaN last
    is_issue = score < 0.5
    rows = order if return_all else order[is_issue[order]]
    columns = {
        "sample_index": np.arange(len(score)),
        "given_label": model.labels,
        "predicted_label": model.suggestion,
        "is_label_issue": is_issue,
        "label_score": score,
        "suggestion_confidence": model.suggestion_confidence,
    }
    return datasets.Dataset.from_dict({name: column[rows] for name, column in columns.items()})
