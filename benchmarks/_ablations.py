"""`recommended` with one part left out, changed, or added: what each is worth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback

from hf_clear import CleanProbabilityCallback, ClearTrainer
from hf_clear.estimators import CleanProbabilityEstimate, Estimator, NamedEstimator, SampleEvidence, fit_noise_model
from hf_clear.estimators.noise_model import EXPLAINED, log_probabilities, noise_model

_NEVER_FREE = 2.0  # a skill that no prediction has: the noise matrix stays symmetric


def symmetric_noise_model(evidence: SampleEvidence) -> CleanProbabilityEstimate:
    """`"noise_model"` with symmetric noise of the likeliest rate in the matrix's place."""
    scores = log_probabilities(evidence.probabilities)
    model = fit_noise_model(scores, evidence.labels, least_skill=_NEVER_FREE)
    diagnostics = {"noise_model_rate": model.noise_rate, EXPLAINED: model.explained}
    return CleanProbabilityEstimate(model.clean_probability, diagnostics, model.target, model.transition_matrix)


class FirstNoiseModel:
    """`"noise_model"` that answers as it did when it was first called."""

    def __init__(self):
        self.first: CleanProbabilityEstimate | None = None

    def __call__(self, evidence: SampleEvidence) -> CleanProbabilityEstimate:
        if self.first is None:
            self.first = noise_model(evidence)
        return self.first


class OwnHead(TrainerCallback):
    """Gives the model the head back that it had before training, when the first step begins."""

    def __init__(self, model: torch.nn.Module):
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        self._before = {name: model.get_parameter(name).data.clone() for name in names}

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == 0:
            for name, parameter in model.named_parameters():
                if name in self._before:
                    parameter.data.copy_(self._before[name])


def _refits_by(name: str, estimator: Estimator) -> CleanProbabilityCallback:
    return CleanProbabilityCallback(NamedEstimator(name, estimator, uses_labels=True, gives_posterior=True))


# By name: settings beside those of `preset("recommended")`.
ABLATIONS: dict[str, dict[str, Any]] = {
    "without_probes": {"clear_warmup": "epochs"},  # the first fit is to what plain epochs predict
    "with_folds": {"clear_warmup": "cross_fit"},
    "with_symmetric_matrix": {},
    "without_refresh": {},
    "without_head_start": {},
    "without_choice": {"clear_min_explained": 0.0},  # the posterior, whatever the matrix explains
    "with_gates": {"clear_routing": "clean"},  # beside the posterior
}
# What some of them take besides: no argument has it.
CALLBACKS: dict[str, Callable[[ClearTrainer], TrainerCallback]] = {
    "with_symmetric_matrix": lambda trainer: _refits_by("symmetric_noise_model", symmetric_noise_model),
    "without_refresh": lambda trainer: _refits_by("first_noise_model", FirstNoiseModel()),
    "without_head_start": lambda trainer: OwnHead(trainer.model),
}
