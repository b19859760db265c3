"""What is trained if there is no posterior, since no noise matrix explains the labels: CleaR with gates."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from ._trainer_types import OwnTrainer
from .estimators import NamedEstimator
from .estimators._matrix_fit import LEAST_SKILL
from .estimators._unexplained import GATES_OPEN
from .estimators.evidence_mixture import EVIDENCE_SEPARATION
from .estimators.noise_model import EXPLAINED, SKILL
from .training_args import BY_EVIDENCE, ClearArguments

Settings = TypeVar("Settings", bound=ClearArguments)
logger = logging.getLogger(__name__)

# What makes CleaR with gates (`preset("clear")`). The warm-up stays.
GATES: dict[str, Any] = {
    "clear_loss": "clear",
    "clear_loss_kwargs": None,
    "clear_estimator": "gaussian_mixture",
    "clear_routing": "clean",
    "clear_loss_source": "epoch",  # those of training, which are routed, tell wrong labels less well
    "clear_ensemble_size": 2,
}


def changed(settings: Settings, others: Mapping[str, Any]) -> Settings:
    """A copy of arguments, with others in place of their own."""
    instead = copy.copy(settings)
    for name, value in others.items():
        setattr(instead, name, value)
    return instead


def with_gates(settings: Settings, of_labels: bool = False) -> Settings:
    """A copy of arguments, with `GATES`. Gates that they have already stay, and so does a larger ensemble.

    Args:
        of_labels (`bool`, *optional*, defaults to `False`): whether each sample has one label. Then gates are balanced
            over classes, if some are not learned yet: nobody has chosen a warm-up that is long enough for all.
            After a warm-up by evidence, what models tell that have not seen the labels is used, too.
    """
    routing = "class_balanced" if of_labels else GATES["clear_routing"]
    by_evidence = of_labels and settings.clear_warmup in BY_EVIDENCE
    return changed(
        settings,
        {
            **GATES,
            "clear_estimator": "evidence_mixture" if by_evidence else GATES["clear_estimator"],
            "clear_routing": routing if settings.clear_routing == "none" else settings.clear_routing,
            "clear_ensemble_size": max(GATES["clear_ensemble_size"], settings.clear_ensemble_size),
        },
    )


def leave_posterior(
    trainer: OwnTrainer, loss: str, estimator: NamedEstimator, logs: Mapping[str, float], least: float
) -> None:
    """Says that a fit has no posterior, and what that means.

    Raises:
        ValueError: if the estimator just didn't give one.
    """
    if EXPLAINED not in logs:
        raise ValueError(
            f"The training loss {loss!r} needs a posterior over the true class, and the estimator "
            f"{estimator.name!r} gave none: `CleanProbabilityEstimate(clean_probability, posterior=...)`."
        )
    if trainer.is_world_process_zero():
        _say_unexplained(logs, least)


def _say_unexplained(logs: Mapping[str, float], least: float) -> None:
    skill = logs.get(SKILL, 0.0)  # an estimator of one's own may not tell
    found = (
        f"A noise matrix explains {logs[EXPLAINED]:.0%} of what speaks against the given labels (it takes {least:.0%}, "
        "`clear_min_explained`): hardly any is wrong, or people erred on samples that a model is in doubt about, too."
    )
    if math.isnan(skill):
        found = "The model's predictions say nothing about the labels, and models that have not seen them say a little."
    elif math.isnan(logs[EXPLAINED]) and SKILL in logs:
        found = (
            f"The model's predictions are expected to go {skill:.0%} of the way from a constant one to perfect "
            f"ones. A noise matrix takes {LEAST_SKILL:.0%}: it can't be told from classes that are confused."
        )
    with_evidence = "" if math.isnan(logs.get(EVIDENCE_SEPARATION, math.nan)) else " and of the evidence"
    by = "of the evidence" if math.isnan(skill) else f"of losses{with_evidence}"
    gates = f"Training goes on as CleaR with gates, by a mixture {by}."
    if logs.get(GATES_OPEN) == 1:
        gates = (
            "Training goes on as CleaR, but its gates are open as long as neither losses nor evidence are two groups "
            "(`gates_open`): then samples are hard rather than wrong."
        )
    logger.warning(f"{found} {gates}")


def say_explained(trainer: OwnTrainer, logs: Mapping[str, float]) -> None:
    """Says that a later fit has a posterior, and what that means."""
    if not trainer.is_world_process_zero():
        return
    found = (
        f"By now, a noise matrix explains {logs.get(EXPLAINED, math.nan):.0%} of what speaks against the given labels, "
        f"and the model's predictions are expected to go {logs.get(SKILL, math.nan):.0%} of the way from a constant "
        "one to perfect ones."
    )
    if "clean_fraction" not in logs:
        found = "No prediction is finite any more: nothing is known of any label."
    elif math.isnan(logs.get(SKILL, 0.0)):
        found = "The model's predictions say nothing about the labels any more: all are taken for correct."
    logger.warning(f"{found} Training goes on without gates, by the posterior.")
