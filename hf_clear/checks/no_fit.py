"""Why there are no clean probabilities, and what to do about it."""

from __future__ import annotations

import numpy as np

from .._typing import RoutingTrainer
from ..labels.known import labels_without_items
from ..sample_index import label_names
from ..training_args import BEFORE_TRAINING, ClearArguments

_FEW = 20  # samples: no two groups of losses show in so few


def why_no_fit(trainer: RoutingTrainer, settings: ClearArguments, is_over: bool) -> str:
    """For a message, after a colon.

    Args:
        settings (`ClearArguments`): as they are in force.
        is_over (`bool`): whether there was a training, and it has ended.
    """
    if not trainer.is_routed:
        return (
            f"{type(trainer.model).__name__} has no PEFT module that can be routed, so that it is trained as by "
            "Trainer, and nothing is ever fitted. Pass `peft_config=ClearLoraConfig(...)`, or a model that carries "
            "LoRA layers."
        )
    warmup, is_early = settings.clear_warmup_epochs, settings.clear_warmup in BEFORE_TRAINING
    due = f"at the beginning of epoch {(max(warmup, 1) if is_early else warmup) + 1}"
    if is_over:
        ended = f"training has ended after {trainer.state.epoch or 0:.3g} epochs ({trainer.state.global_step} steps)"
        weak = ", since frozen features told too little before the first step" * is_early
        return f"{ended}, and the first fit was due {due}{weak}. {_advice(trainer)}"
    if is_early:
        return (
            "they are fitted for the first time before the first step, to what frozen features tell; or, if these "
            f"tell too little, {due} at the latest."
        )
    return f"they are fitted for the first time {due}, after the warm-up (`clear_warmup_epochs`)."


def _advice(trainer: RoutingTrainer) -> str:
    dataset = trainer.train_dataset
    labels = labels_without_items(dataset, label_names(trainer))
    if labels is not None and np.ndim(labels[0]) == 0 and all(label == labels[0] for label in labels):
        return f"All training samples have the label {labels[0]}: nothing tells a wrong label from a right one."
    if len(dataset) < _FEW:
        return f"{len(dataset)} samples are too few to tell wrong labels from right ones: train on more."
    return "Train for longer (`num_train_epochs`, `max_steps`), or lower `clear_warmup_epochs`."
