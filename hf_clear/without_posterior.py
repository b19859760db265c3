"""What is trained if evidence is weak, or no noise matrix explains the labels: CleaR with gates."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any, TypeVar

from ._typing import AnyTrainer
from .estimators import NamedEstimator
from .estimators.noise_model import EXPLAINED

Settings = TypeVar("Settings")
logger = logging.getLogger(__name__)

# What makes CleaR with gates (`preset("clear")`). The warm-up stays.
GATES: dict[str, Any] = {
    "clear_loss": "clear",
    "clear_estimator": "gaussian_mixture",
    "clear_routing": "clean",
    "clear_loss_source": "epoch",  # those of training, which are routed, tell wrong labels less well
    "clear_ensemble_size": 2,
}


WITHOUT_EVIDENCE = {**GATES, "clear_warmup": "epochs"}  # from outside the sample: early learning is all there is


def with_gates(settings: Settings, others: Mapping[str, Any] = GATES) -> Settings:
    """A copy of arguments, with others in place of their own. Gates that they have already stay, and so does a larger
    ensemble."""
    instead = copy.copy(settings)
    for name, value in others.items():
        own = getattr(settings, name)
        is_asked_for = (name == "clear_routing" and own != "none") or (name == "clear_ensemble_size" and own > value)
        setattr(instead, name, own if is_asked_for else value)
    return instead


def say_unexplained(
    trainer: AnyTrainer, loss: str, estimator: NamedEstimator, logs: Mapping[str, float], least: float
) -> None:
    """Says that the first fit has no posterior, and what that means.

    Raises:
        ValueError: if the estimator just didn't give one.
    """
    if EXPLAINED not in logs:
        raise ValueError(
            f"The training loss {loss!r} needs a posterior over the true class, and the estimator "
            f"{estimator.name!r} gave none: `CleanProbabilityEstimate(clean_probability, posterior=...)`."
        )
    if trainer.is_world_process_zero():
        logger.warning(
            f"A noise matrix explains {logs[EXPLAINED]:.0%} of what speaks against the given labels (it takes "
            f"{least:.0%}, `clear_min_explained`): hardly any is wrong, or people erred on "
            "samples that a model is in doubt about, too. Training goes on as CleaR with gates, by a mixture of losses."
        )
