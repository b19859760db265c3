"""A TURN run on toy data with known wrong labels, and what is compared of two runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments

from hf_clear import TurnTrainer, TurnTrainingArguments
from hf_clear.noise import inject_label_noise

from .toy import collate, tiny_bert, toy_dataset

_OF_TRAINER = ("peft_config", "model_init", "callbacks", "eval_dataset", "compute_metrics")


def noisy_dataset(num_samples: int = 160, rate: float = 0.3) -> Dataset:
    return inject_label_noise(toy_dataset(num_samples), "symmetric", rate, 0, label_column="labels")[0]


def turn_trainer(
    training_arguments: Callable[..., TrainingArguments],
    dataset: Dataset | None = None,
    model: torch.nn.Module | None = None,
    **kwargs: Any,
) -> TurnTrainer:
    own = {name: kwargs.pop(name) for name in _OF_TRAINER if name in kwargs}
    probe = {"probe_epochs": 6, "probe_learning_rate": 1e-2, "probe_batch_size": 32}
    arguments = {"num_train_epochs": 2, "learning_rate": 1e-3, **probe, **kwargs}
    return TurnTrainer(
        model=tiny_bert(initializer_range=0.2) if model is None and "model_init" not in own else model,
        args=training_arguments(TurnTrainingArguments, **arguments),
        train_dataset=noisy_dataset() if dataset is None else dataset,
        data_collator=collate,
        **own,
    )


def accuracy(p) -> dict[str, float]:
    return {"accuracy": float((p.predictions.argmax(axis=1) == p.label_ids).mean())}


def state_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
