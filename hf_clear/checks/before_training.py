"""What has to hold before CleaR or TURN trains."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import datasets
import numpy as np
import pandas as pd
from peft.utils import AuxiliaryTrainingWrapper
from torch import nn
from torch.utils.data import IterableDataset

from .._modes import random_state_preserved
from .._typing import AnyTrainer, MapDataset
from .._unwrap import base_of
from ..labels.known import labels_without_items
from ..routing import check_routable
from ..sample_index import (
    check_labels,
    check_one_class,
    label_names,
    num_labels,
    predicts_one_class,
    predicts_tokens,
)
from ..trainable import peft_weights, ungated_peft_weights
from ..training_args import ClearArguments
from .ways_back import check_ways_back

logger = logging.getLogger(__name__)


def check_setup(trainer: AnyTrainer, method: str, settings: ClearArguments) -> None:
    """What shows in the trainer's arguments and its model.

    Args:
        method (`str`): what messages call it.

    Raises:
        ValueError: if CleaR can't train so; the message says why and what to do.
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
            "`clear_dropout_after_warmup=False` trains in evaluation mode after the warm-up, and transformers does "
            "no activation checkpointing in that mode: expect more memory to be used from then on."
        )


def warn_of_idle_settings(settings: ClearArguments) -> None:
    """Names settings that are not the default and have no effect beside the others."""
    defaults = {setting.name: setting.default for setting in fields(ClearArguments)}
    for name, need in settings.idle_settings().items():
        value = getattr(settings, name)
        if value != defaults[name]:
            logger.warning(
                f"`{name}={value!r}` has no effect here: it takes {need}. All settings of CleaR as published are "
                "`preset('paper')`."
            )


def check_outcome(trainer: AnyTrainer) -> None:
    """Looks at what a training would leave and what it would change. Raises what [`check_ways_back`] does."""
    check_ways_back(trainer)
    warn_of_ungated_weights(trainer)


def warn_of_ungated_weights(trainer: AnyTrainer) -> None:
    """Names what is trained below the head and no gate acts on: tokens' own embeddings, whole modules, weights of the
    base model."""
    wrapped = trainer.accelerator.unwrap_model(trainer.model)
    model = base_of(wrapped)
    backbone = getattr(model, getattr(model, "base_model_prefix", ""), None)
    if not isinstance(backbone, nn.Module) or not trainer.is_world_process_zero():
        return  # nobody knows what is a head
    wholes = [module for module in wrapped.modules() if isinstance(module, AuxiliaryTrainingWrapper)]
    gated = set(peft_weights(wrapped)) - {own for module in wholes for own in module.parameters()}
    gated -= ungated_peft_weights(wrapped)
    trained = [(name, own) for name, own in backbone.named_parameters() if own.requires_grad and "pooler" not in name]
    found = [name for name, own in trained if own not in gated]
    if found:
        more = ", ..." * (len(found) > 3)
        logger.warning(
            f"{len(found)} trained weights below the head have no gate ({', '.join(found[:3])}{more}): every sample "
            "trains them, whatever is thought of its label, and a sample that passes by all PEFT modules does not pass "
            "the pretrained model. If you don't need them, leave them out of `modules_to_save` and "
            "`trainable_token_indices`, don't mix LoRA with PEFT methods that can't be routed, or freeze them."
        )


def check_task(trainer: AnyTrainer, method: str) -> None:
    """What both methods ask of model and data.

    Raises:
        ValueError: if there is more than one kind of label, no class, or no index.
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
    _check_is_data_set(trainer.train_dataset)


def _check_is_data_set(dataset: Any) -> None:
    """Raises a ValueError if this is something else that has data in it, with what to do."""
    advice = None
    if isinstance(dataset, Mapping) and len(dataset) > 0 and 0 not in dataset:
        advice = f"Give one of its splits ({', '.join(map(str, dataset))})."
    elif isinstance(dataset, pd.DataFrame):
        advice = "Make one of it: `datasets.Dataset.from_pandas(table, preserve_index=False)`."
    elif isinstance(dataset, (str, os.PathLike)):
        advice = "Load the file first: `datasets.load_dataset(...)`."
    elif dataset is not None and not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        advice = "Its class needs both `__len__` and `__getitem__`: each sample has to have an index."
    if advice:
        raise ValueError(f"`train_dataset` has to be a data set; got a {type(dataset).__name__}. {advice}")


def _warn_of_frozen_head(trainer: AnyTrainer) -> None:
    """peft trains heads called `classifier` or `score`, if it is told the task; others stay as they were drawn."""
    wrapped = trainer.accelerator.unwrap_model(trainer.model)
    model = base_of(wrapped)
    heads = {
        name: child
        for name, child in model.named_children()
        if name != getattr(model, "base_model_prefix", "") and any(True for _ in child.parameters())
    }
    trains = any(own.requires_grad for child in heads.values() for own in child.parameters())
    if "Classification" not in type(model).__name__ or not heads or trains:
        return
    weights = peft_weights(wrapped)
    if weights and not any(own.requires_grad for own in weights):
        return  # training is refused, and says why
    advice = (
        f"name it in the PEFT config: `modules_to_save={list(heads)}` (`task_type='SEQ_CLS'` does so for heads called "
        "'classifier' or 'score')."
    )
    saved = [name for name, child in heads.items() if isinstance(child, AuxiliaryTrainingWrapper)]
    if saved:
        advice = (
            f"let it be trained again: `modules_to_save` of the PEFT config names {saved[0]!r} already, but "
            "`requires_grad` of its weights was set to False."
        )
    logger.warning(f"The head of {type(model).__name__} is frozen. Unless it is trained already, {advice}")


def check_training_set(trainer: AnyTrainer) -> Any:
    """Looks at all labels that can be had without making items, which may decode images ([`labels_without_items`]), and
    at one or two items. Labels that only items have are looked at in every batch.

    Returns:
        `Any`: the label of the first sample; None if a collator makes it.

    Raises:
        ValueError: if it is no data set, there is no sample or no label, or at the first label that is no class.
    """
    dataset: Any = trainer.train_dataset
    names = label_names(trainer)
    if dataset is None:
        raise ValueError(f"{type(trainer).__name__}: training requires a train_dataset.")
    _check_is_data_set(dataset)  # it may be another than at the beginning
    if len(dataset) == 0:
        raise ValueError("The training set has no sample.")
    labels = labels_without_items(dataset, names)
    is_stored = isinstance(dataset, datasets.Dataset) and dataset.format["type"] != "custom"
    items = {} if is_stored else _items(dataset, labels)
    first = dict.fromkeys(dataset.column_names) if is_stored else items[0]
    if not isinstance(first, Mapping):
        return None
    name = next((name for name in names if name in first), None)
    if name is None:
        # The labels of a language model are its inputs: a collator makes them.
        if trainer.args.remove_unused_columns and not predicts_tokens(trainer):
            raise ValueError(
                f"The training set has no label: expected one of {', '.join(names)}, got {', '.join(first)}."
            )
        return None  # a collator makes it
    if labels is None or any(not _same_label(item.get(name), labels[row]) for row, item in items.items()):
        rows, labels = list(items), [item.get(name) for item in items.values()]  # a transform makes labels of its own
        _check_first(trainer, labels[0])
        check_labels(labels, num_labels(trainer), rows)
        return labels[0]
    _check_first(trainer, labels[0])
    check_labels(labels, num_labels(trainer))
    if len(labels) > 1 and np.ndim(labels[0]) == 0 and all(label == labels[0] for label in labels):
        logger.warning(
            f"All {len(labels)} training samples have the label {labels[0]}: nothing tells a wrong label from a right "
            "one, and clean probabilities will mean nothing."
        )
    return labels[0]


def _check_first(trainer: AnyTrainer, label: Any) -> None:
    if predicts_one_class(trainer):
        check_one_class(label, 0, type(base_of(trainer.accelerator.unwrap_model(trainer.model))).__name__)


def _items(dataset: MapDataset, labels: Sequence | np.ndarray | None) -> dict[int, Any]:
    """The first item and, if labels are known, the first with another label, by row."""
    rows = [0]
    if labels is not None and np.ndim(labels[0]) == 0:
        rows += [row for row, label in enumerate(labels) if label != labels[0]][:1]
    with random_state_preserved():  # a transform may be random
        return {row: dataset[row] for row in rows}


def _same_label(first: Any, second: Any) -> bool:
    try:
        return type(first) is not bool and bool(np.array_equal(first, second))
    except Exception:  # a comparison of strangers
        return False
