"""Linear probing: what is learned from features of a frozen model, which are computed once."""

from .fold_heads import start_fold_heads
from .head_start import FirstFit, fit_before_training
from .probe import (
    HEADS,
    Probe,
    base_model_context,
    features_for_probe,
    find_head,
    probe_optimizer,
    probe_predictions,
    set_head,
    train_probe,
    trained_part,
)

__all__ = [
    "HEADS",
    "FirstFit",
    "Probe",
    "base_model_context",
    "features_for_probe",
    "find_head",
    "fit_before_training",
    "probe_optimizer",
    "probe_predictions",
    "set_head",
    "start_fold_heads",
    "train_probe",
    "trained_part",
]
