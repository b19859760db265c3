"""Training on the posterior of a tiny model."""

from dataclasses import replace

import numpy as np
import torch
from transformers import TrainerCallback

from helpers.toy import collate, tiny_bert
from helpers.turn import noisy_dataset
from hf_clear import CleanProbabilityCallback, ClearLoraConfig, ClearTrainer
from hf_clear.estimators import CleanProbabilityEstimate, NamedEstimator, SampleEvidence, get_estimator
from hf_clear.estimators.noise_model import EXPLAINED, SKILL

POSTERIOR = {
    **{"clear_loss": "posterior", "clear_estimator": "noise_model", "clear_warmup": "evidence"},
    **{"clear_routing": "none", "clear_loss_source": "online", "clear_ensemble_size": 1, "probe_epochs": 30},
}
LEARNED = {"initializer_range": 0.2}  # features that tell the classes
# What an estimator says of its predictions: skill, and the share explained.
WEAK, UNEXPLAINED, GOOD, NOTHING = (0.4, np.nan), (0.9, 0.2), (0.8, 0.6), (np.nan, np.nan)
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def trainer_of(arguments, dataset=None, model=None, trainer_class=ClearTrainer, **kwargs):
    return trainer_class(
        tiny_bert(**LEARNED, **NO_DROPOUT) if model is None else model,
        arguments,
        train_dataset=noisy_dataset() if dataset is None else dataset,
        data_collator=collate,
        peft_config=ClearLoraConfig(task_type="SEQ_CLS", r=4),
        **kwargs,
    )


class ExplainsLater:
    """The noise model, and what it says of itself at each fit: skill and the share explained."""

    def __init__(self, *told: tuple[float, float]):
        self.told = list(told)

    def __call__(self, evidence: SampleEvidence) -> CleanProbabilityEstimate:
        skill, explained = self.told.pop(0)
        found = get_estimator("noise_model")(evidence)
        return replace(found, diagnostics={**found.diagnostics, SKILL: skill, EXPLAINED: explained})

    def callback(self) -> CleanProbabilityCallback:
        return CleanProbabilityCallback(NamedEstimator("later", self, uses_labels=True, gives_posterior=True))


class Modes(TrainerCallback):
    """What is trained, step by step."""

    def __init__(self):
        self.seen = {}

    def on_step_begin(self, args, state, control, **kwargs):
        refit = self.trainer._refit
        gates = refit.gates(torch.arange(4), 0)
        self.seen[int(state.epoch + 1e-6)] = (refit.settings.clear_loss, refit.settings.clear_routing, gates is None)
