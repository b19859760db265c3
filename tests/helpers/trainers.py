"""Small routed models and trainers on toy data, and what is compared of two trainings."""

from __future__ import annotations

import datasets
import numpy as np
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import Trainer

from helpers.toy import collate, randomize_adapters, tiny_bert, toy_dataset
from hf_clear import CleanProbabilityCallback, CleanProbabilityEstimate, ClearLoraConfig, ClearTrainer, SampleEvidence
from hf_clear.noise import inject_label_noise


def lora_model(**config) -> PeftModel:
    model = get_peft_model(tiny_bert(**config), ClearLoraConfig(task_type="SEQ_CLS", r=4))
    randomize_adapters(model)
    return model


def estimate_of(probability) -> CleanProbabilityCallback:
    """A callback whose estimator returns the given clean probabilities, whatever the losses."""

    def estimator(evidence: SampleEvidence) -> CleanProbabilityEstimate:
        shape = evidence.losses.shape
        return CleanProbabilityEstimate(np.broadcast_to(np.asarray(probability, dtype=float), shape).copy())

    return CleanProbabilityCallback(estimator)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def assert_same_weights(first: dict, second: dict) -> None:
    assert first.keys() == second.keys() and first
    for name in first:
        assert torch.equal(first[name], second[name]), name


def losses_of(trainer: Trainer, key: str = "loss") -> list[float]:
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def minimized_by(trainer: Trainer) -> list[float]:
    """Fills, while the trainer trains, with what each backward pass begins at."""
    losses, stock = [], trainer.accelerator.backward

    def backward(loss, **kwargs):
        losses.append(loss.item())
        stock(loss, **kwargs)

    trainer.accelerator.backward = backward
    return losses


class Dictionaries(torch.utils.data.Dataset):
    def __init__(self, data):
        self.data = list(data)

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data[index]


def with_transform(data):
    return data.with_transform(lambda rows: dict(rows))


def noisy_toy() -> datasets.Dataset:
    noisy, _ = inject_label_noise(toy_dataset(24), "symmetric", 0.5, label_column="labels")
    return noisy


def lora_trainer(training_arguments, **arguments) -> ClearTrainer:
    return ClearTrainer(
        get_peft_model(tiny_bert(), ClearLoraConfig(task_type="SEQ_CLS", r=4)),
        training_arguments(**{"clear_warmup_epochs": 1, **arguments}),
        train_dataset=noisy_toy(),
        data_collator=collate,
    )
