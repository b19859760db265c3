"""The fit: from predictions for the training set to clean probabilities in the sample store."""

from __future__ import annotations

import logging
from typing import cast

import numpy as np
import torch

from ._names import IGNORED_LABEL
from ._processes import run_on_main
from ._typing import AnyTrainer
from .class_tables import table_type
from .estimators import CleanProbabilityEstimate, NamedEstimator, SampleEvidence
from .estimators.neighbors import MOST_NEIGHBORS, neighbors_disagree
from .estimators.noise_model import SKILL
from .fit_checks import check_fit
from .metrics import detection_metrics, memorization
from .passes import SamplePredictions
from .sample_index import num_labels
from .sample_store import SampleStore

logger = logging.getLogger(__name__)


def store_of(predictions: SamplePredictions) -> SampleStore:
    """A store that knows losses and labels, and no clean probability yet."""
    store = SampleStore.empty(len(predictions.losses))
    store.add_losses(predictions.losses, predictions.labels)
    return store


def fitted_store(
    trainer: AnyTrainer,
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
    trainer: AnyTrainer,
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
        true_labels (`np.ndarray` of shape `[num_samples]`, *optional*): for metrics alone; negative if unknown.

    Returns:
        `dict[str, float]`: `clean_fraction` (share of samples with clean probability above 0.5; absent if no loss is
        finite), `non_finite_losses` (the number of samples that the fit left out, here and in all that follows), what
        [`check_fit`] finds, with `estimated_noise_rate` if the fit supports one, the diagnostics of the estimator, and
        if true labels are known, how well it finds the wrong ones.
    """
    store.add_losses(predictions.losses, predictions.labels)
    per_token = predictions.predicted is None
    evidence = _evidence(store, predictions, features, store.mean_losses.cpu().numpy().copy())  # the store's change
    estimate = _estimate(trainer, estimator, evidence)
    store.clean_probability.copy_(torch.from_numpy(estimate.clean_probability))
    finite = predictions.losses.isfinite().numpy()
    store.posterior = _table(estimate.posterior, finite, store.losses.device)
    if store.posterior is not None and store.posterior.shape[1] != (num_labels(trainer) or store.posterior.shape[1]):
        raise ValueError(
            f"The estimator {estimator.name!r} gives a posterior over {store.posterior.shape[1]} classes, and the "
            f"model has {num_labels(trainer)}."
        )
    _suggest(store, predictions, finite)
    if features is not None and not per_token and (estimator.uses_features or len(features) <= MOST_NEIGHBORS):
        _look_at_neighbors(trainer, store, evidence)
    matrix = estimate.transition_matrix
    store.transition_matrix = None if matrix is None else torch.from_numpy(matrix).float()
    logs = {"clean_fraction": float((estimate.clean_probability[finite] > 0.5).mean())} if finite.any() else {}
    logs["non_finite_losses"] = int((~finite).sum())
    logs |= _look(trainer, store, predictions, estimate)
    twice = sorted(logs.keys() & estimate.diagnostics.keys())
    if twice:
        raise ValueError(
            f"The estimator {estimator.name!r} calls a diagnostic {twice[0]!r}, which is in the log already: choose "
            "another name."
        )
    logs |= estimate.diagnostics
    if true_labels is not None:
        known, labels = (true_labels >= 0) & finite, predictions.labels.numpy()
        logs |= detection_metrics(estimate.clean_probability[known], (true_labels != labels)[known])
        logs |= memorization(
            cast(torch.Tensor, predictions.predicted).numpy(), labels, np.where(known, true_labels, IGNORED_LABEL)
        )
    return logs


def expected_skill(
    trainer: AnyTrainer,
    store: SampleStore,
    estimator: NamedEstimator,
    features: torch.Tensor | None,
    predictions: SamplePredictions,
) -> dict[str, float]:
    """The skill that an estimator expects of predictions for the training set, by its name in the log; NaN if they say
    nothing about the labels. Empty if it expects none. Changes nothing."""
    found = _estimate(trainer, estimator, _evidence(store, predictions, features)).diagnostics
    return {SKILL: found[SKILL]} if SKILL in found else {}


def _evidence(
    store: SampleStore,
    predictions: SamplePredictions,
    features: torch.Tensor | None,
    mean_losses: np.ndarray | None = None,
) -> SampleEvidence:
    probabilities, held_out = predictions.probabilities, store.held_out_clean_probability
    return SampleEvidence(
        losses=predictions.losses.numpy(),
        labels=None if predictions.predicted is None else predictions.labels.numpy(),
        mean_losses=mean_losses,
        probabilities=None if probabilities is None else probabilities.numpy(),
        features=None if features is None else features.numpy(),
        held_out_clean_probability=None if held_out is None else held_out.cpu().numpy().copy(),
    )


def _estimate(trainer: AnyTrainer, estimator: NamedEstimator, evidence: SampleEvidence) -> CleanProbabilityEstimate:
    return run_on_main(trainer.accelerator, f"The estimator {estimator.name!r}", estimator, evidence)


def _suggest(store: SampleStore, predictions: SamplePredictions, finite: np.ndarray) -> None:
    """Notes the most probable true class of each sample."""
    found = predictions.predicted, predictions.confidence
    if store.posterior is not None:
        confidence, suggestion = store.posterior.max(dim=1)
        found = suggestion, confidence
    if found[0] is None or found[1] is None:
        return
    suggestion, confidence = found[0].to(store.losses.device), found[1].to(store.losses.device)
    unknown = ~torch.from_numpy(finite).to(store.losses.device)
    store.suggestion = suggestion.long().masked_fill(unknown, IGNORED_LABEL)
    store.suggestion_confidence = confidence.float().masked_fill(unknown, torch.nan)


def _look_at_neighbors(trainer: AnyTrainer, store: SampleStore, evidence: SampleEvidence) -> None:
    """Once: neither the features of the frozen model nor the labels change."""
    if store.neighbors_disagree is None:
        found = run_on_main(
            trainer.accelerator, "The search for neighbors", neighbors_disagree, evidence.features, evidence.labels
        )
        store.neighbors_disagree = torch.from_numpy(found).to(store.losses.device)


def _table(posterior: np.ndarray | None, finite: np.ndarray, device: torch.device) -> torch.Tensor | None:
    if posterior is None:
        return None
    table = torch.from_numpy(np.array(posterior))  # the estimator may keep its own
    table[~torch.from_numpy(finite)] = 0  # nothing is known of them
    return table.to(device, table_type(*table.shape))


def _look(
    trainer: AnyTrainer, store: SampleStore, predictions: SamplePredictions, estimate: CleanProbabilityEstimate
) -> dict[str, float]:
    """Notes in the store what [`check_fit`] finds, and warns of what the fit before this one had not. The same on every
    process."""
    predicted = predictions.predicted  # None if every token has a label
    config = getattr(trainer.accelerator.unwrap_model(trainer.model), "config", None)
    before = store.findings.warnings
    store.findings, logs = check_fit(
        predictions.losses.numpy(),
        estimate.clean_probability,
        None if predicted is None else predictions.labels.numpy(),
        None if predicted is None else predicted.numpy(),
        getattr(config, "id2label", None),
        estimate.transition_matrix,
        estimate.is_supported,
    )
    if trainer.is_world_process_zero():
        for text in (text for kind, text in store.findings.warnings.items() if kind not in before):
            logger.warning(text)
    return logs
