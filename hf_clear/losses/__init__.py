"""Training losses, one a file. `register_training_loss` adds one; `clear_loss` of the training arguments names it."""

from . import clear, elr, gce, label_mix, posterior, sce, weighted
from ._evidence import LossEvidence, LossPart
from ._functional import (
    IGNORED_LABEL,
    consistency_loss,
    cross_entropy,
    generalized_cross_entropy,
    per_sample,
    sharpen,
)
from ._registry import TRAINING_LOSSES, LossFunction, TrainingLoss, get_training_loss, register_training_loss

__all__ = [
    "IGNORED_LABEL",
    "LossEvidence",
    "LossFunction",
    "LossPart",
    "TRAINING_LOSSES",
    "TrainingLoss",
    "consistency_loss",
    "cross_entropy",
    "generalized_cross_entropy",
    "get_training_loss",
    "per_sample",
    "register_training_loss",
    "sharpen",
]
