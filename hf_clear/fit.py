"""The fit: from predictions for the training set to clean probabilities in the sample store."""

from __future__ import annotations

import numpy as np
import torch
from transformers import Trainer

from ._processes import run_on_main
from .estimators import NamedEstimator, SampleEvidence
from .metrics import detection_metrics, memorization
from .passes import SamplePredictions
from .sample_store import SampleStore


def store_of(predictions: SamplePredictions) -> SampleStore:
    """A store that knows losses and labels, and no clean probability yet."""
    store = SampleStore.empty(len(predictions.losses))
    store.add_losses(predictions.losses, predictions.labels)
    return store


def fitted_store(
    trainer: Trainer,
    estimator: NamedEstimator,
    predictions: SamplePredictions,
    features: torch.Tensor | None = None,
    true_labels: np.ndarray | None = None,
) -> tuple[SampleStore, dict[str, float]]:
    """A store of its own for one fit, and what was found; see [`fit_clean_probability`]."""
    store = SampleStore.empty(len(predictions.losses))
    logs = fit_clean_probability(trainer, store, estimator, predictions, features, true_labels)
    store.fitted_epoch = 0
    return store, logs


def fit_clean_probability(
    trainer: Trainer,
    store: SampleStore,
    estimator: NamedEstimator,
    predictions: SamplePredictions,
    features: torch.Tensor | None = None,
    true_labels: np.ndarray | None = None,
) -> dict[str, float]:
    """Puts predictions for the training set, and what the estimator makes of them, into the store. The main process
    estimates, all processes get its answer.

    Args:
        features (`torch.Tensor` of shape `[num_samples, dim]`, *optional*): of the frozen model.
        true_labels (`np.ndarray` of shape `[num_samples]`, *optional*): for metrics alone; negative where unknown.

    Returns:
        `dict[str, float]`: `clean_fraction` (share of samples with clean probability above 0.5), `estimated_noise_rate`
        (1 - the mean clean probability), `non_finite_losses` (the number of samples that the fit left out), the
        diagnostics of the estimator, and if true labels are known, how well it finds the wrong ones.
    """
    store.add_losses(predictions.losses, predictions.labels)
    per_token = predictions.probabilities is None
    evidence = SampleEvidence(
        losses=predictions.losses.numpy(),
        labels=None if per_token else predictions.labels.numpy(),
        mean_losses=store.mean_losses.cpu().numpy().copy(),  # the store's change
        probabilities=None if per_token else predictions.probabilities.numpy(),
        features=None if features is None else features.numpy(),
    )
    estimate = run_on_main(trainer.accelerator, f"The estimator {estimator.name!r}", estimator, evidence)
    store.clean_probability.copy_(torch.from_numpy(estimate.clean_probability))
    logs = {
        "clean_fraction": float((estimate.clean_probability > 0.5).mean()),
        "estimated_noise_rate": float(1 - estimate.clean_probability.mean()),
        "non_finite_losses": int((~predictions.losses.isfinite()).sum()),
    }
    twice = sorted(logs.keys() & estimate.diagnostics.keys())
    if twice:
        raise ValueError(
            f"The estimator {estimator.name!r} calls a diagnostic {twice[0]!r}, which is in the log already: choose "
            "another name."
        )
    logs |= estimate.diagnostics
    if true_labels is not None:
        known, labels = true_labels >= 0, predictions.labels.numpy()
        logs |= detection_metrics(estimate.clean_probability[known], (true_labels != labels)[known])
        logs |= memorization(predictions.probabilities.argmax(dim=1).numpy(), labels, true_labels)
    return logs
