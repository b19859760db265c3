"""What has to hold before CleaR or TURN trains."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import datasets
import numpy as np
from torch.utils.data import IterableDataset
from transformers import Trainer

from ._modes import random_state_preserved
from ._unwrap import base_of
from .routing import check_routable
from .sample_index import check_labels, label_names, num_labels, predicts_tokens
from .training_args import ClearArguments

logger = logging.getLogger(__name__)


def check_setup(trainer: Trainer, method: str, settings: ClearArguments) -> None:
    """What shows in the trainer's arguments and its model.

    Args:
        method (`str`): what messages call it.

    Raises:
        ValueError: where CleaR can't train so; the message says why and what to do.
    """
    check_task(trainer, method)
    check_routable(trainer.model)
    _warn_of_frozen_head(trainer)
    if settings.clear_min_clean_probability > 0 and trainer.args.accelerator_config.dispatch_batches:
        raise ValueError(
            "`clear_min_clean_probability` makes batches of different sizes, which `dispatch_batches=True` can't deal "
            "out to several processes without losing samples. Leave one of them out."
        )
    checkpoints = any(getattr(module, "gradient_checkpointing", False) for module in trainer.model.modules())
    if not settings.clear_dropout_after_warmup and (checkpoints or trainer.args.gradient_checkpointing):
        logger.warning(
            "`clear_dropout_after_warmup=False` trains in evaluation mode after the warm-up, where transformers does "
            "no activation checkpointing: expect more memory to be used from then on."
        )


def check_task(trainer: Trainer, method: str) -> None:
    """What both methods ask of model and data.

    Raises:
        ValueError: where there is more than one kind of label, no class, or no index.
    """
    if len(trainer.label_names) != 1:
        in_kwargs = " If its `forward` takes them as `**kwargs`, say so: `label_names=['labels']`."
        raise ValueError(
            f"{method} is for models with one kind of label, one a sample or one a token; this model's labels "
            f"are {trainer.label_names}." + in_kwargs * (not trainer.label_names)
        )
    config = getattr(trainer.model, "config", None)
    problem_type = getattr(config, "problem_type", None)
    if problem_type in ("regression", "multi_label_classification") or getattr(config, "num_labels", 2) == 1:
        raise ValueError(
            f"{method} is for classification with one class a sample, or one a token; this model has "
            f"problem_type={problem_type!r} and num_labels={getattr(config, 'num_labels', None)}: regression and "
            "several labels a sample have no wrong class to find."
        )
    if isinstance(trainer.train_dataset, (IterableDataset, datasets.IterableDataset)):
        raise ValueError(
            f"{method} keeps a clean probability for every training sample, and the samples of an "
            "IterableDataset have no index. Load the data as a map-style dataset (`load_dataset(..., "
            "streaming=False)`, `Dataset.from_generator(...)`), or train with transformers.Trainer."
        )


def _warn_of_frozen_head(trainer: Trainer) -> None:
    """peft trains heads called `classifier` or `score`, if it is told the task; others stay as they were drawn."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    model = base_of(model)
    if "Classification" not in type(model).__name__:
        return
    heads = {
        name: [parameter.requires_grad for parameter in child.parameters()]
        for name, child in model.named_children()
        if name != getattr(model, "base_model_prefix", "") and any(True for _ in child.parameters())
    }
    if heads and not any(any(trains) for trains in heads.values()):
        logger.warning(
            f"The head of {type(model).__name__} is frozen. Unless it is trained already, name it in the PEFT config: "
            f"`modules_to_save={list(heads)}` (`task_type='SEQ_CLS'` does so for heads called 'classifier' or 'score')."
        )


def check_training_set(trainer: Trainer) -> None:
    """Looks at all labels; if need be, by going through the data set once.

    Raises:
        ValueError: where there is no sample or no label, or at the first label that is no class.
    """
    dataset = trainer.train_dataset
    if dataset is None:
        raise ValueError(f"{type(trainer).__name__}: training requires a train_dataset.")
    if len(dataset) == 0:
        raise ValueError("The training set has no sample.")
    as_is = isinstance(dataset, datasets.Dataset) and dataset.format["type"] != "custom"
    with random_state_preserved():  # a transform may be random
        first = dict.fromkeys(dataset.column_names) if as_is else dataset[0]
    if not isinstance(first, Mapping):
        return
    name = next((name for name in label_names(trainer) if name in first), None)
    if name is None:
        # The labels of a language model are its inputs: a collator makes them.
        if trainer.args.remove_unused_columns and not predicts_tokens(trainer):
            raise ValueError(
                f"The training set has no label: expected one of {', '.join(label_names(trainer))}, got "
                f"{', '.join(first)}."
            )
        return  # a collator makes it
    if as_is:
        labels = dataset.with_format(None)[name][:]
    else:
        with random_state_preserved():
            labels = [dataset[index].get(name) for index in range(len(dataset))]
    check_labels(labels, num_labels(trainer))
    if len(labels) > 1 and np.ndim(labels[0]) == 0 and all(label == labels[0] for label in labels):
        logger.warning(
            f"All {len(labels)} training samples have the label {labels[0]}: nothing tells a wrong label from a right "
            "one, and clean probabilities will mean nothing."
        )
