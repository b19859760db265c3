"""Other methods as training losses or as an estimator: nothing is routed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from transformers import TrainerCallback

from hf_clear import CleanProbabilityCallback, ClearTrainer
from hf_clear.estimators import CleanProbabilityEstimate, NamedEstimator, SampleEvidence
from hf_clear.noise import TRUE_LABEL

# A training loss alone: a mixture of the losses that training makes anyway finds wrong labels.
LOSS_ALONE = {
    "clear_routing": "none",
    "clear_warmup": "epochs",
    "clear_warmup_epochs": 1,
    "clear_estimator": "gaussian_mixture",
    "clear_loss_source": "online",
    "clear_ensemble_source": "online",
    "clear_ensemble_size": 2,
}
# By name: settings.
LOSSES = {
    "elr": {**LOSS_ALONE, "clear_loss": "elr", "clear_ensemble_size": 3},  # the paper's beta of 0.7
    "gce": {**LOSS_ALONE, "clear_loss": "gce"},
    "sce": {**LOSS_ALONE, "clear_loss": "sce"},
    "small_loss": {**LOSS_ALONE, "clear_loss": "weighted", "clear_warmup_epochs": 3},  # see `SmallestLosses`
}


class SmallestLosses:
    """Trusts the samples with the smallest losses, as many as have a right label: the criterion of Co-teaching (Han et
    al., 2018, arXiv 1804.06872), with the true noise rate, as there.

    Args:
        noise_rate (`float`): the share of samples that are not trusted.
    """

    def __init__(self, noise_rate: float):
        self.noise_rate = noise_rate

    def __call__(self, evidence: SampleEvidence) -> CleanProbabilityEstimate:
        losses = np.nan_to_num(evidence.losses, nan=np.inf)
        kept = np.argsort(losses, kind="stable")[: round((1 - self.noise_rate) * len(losses))]
        clean = np.zeros(len(losses))
        clean[kept] = np.isfinite(losses[kept])
        return CleanProbabilityEstimate(clean)


def smallest_losses(trainer: ClearTrainer) -> TrainerCallback:
    train = trainer.train_dataset
    rate = float(np.mean(np.array(train["label"]) != np.array(train[TRUE_LABEL])))
    return CleanProbabilityCallback(NamedEstimator("small_loss", SmallestLosses(rate)))


# What stands in the place of `clear_estimator`, and knows the true noise rate.
ESTIMATORS = {"small_loss": "small_loss"}
CALLBACKS: dict[str, Callable[[ClearTrainer], TrainerCallback]] = {"small_loss": smallest_losses}
