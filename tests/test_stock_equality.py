"""Where nothing is routed away, training and evaluation are those of stock `Trainer`."""

import logging
import os

import numpy as np
import pytest
import torch
from helpers.toy import collate, toy_dataset
from helpers.trainers import assert_same_weights, estimate_of, lora_model, losses_of, weights
from torch import nn
from transformers import Trainer, TrainingArguments

from hf_clear import CleanProbabilityCallback, ClearTrainer
from hf_clear.sample_index import SAMPLE_INDEX


@pytest.mark.parametrize("k", [0, 1, 9])
def test_open_gates_without_consistency_equal_stock_trainer_bit_for_bit(training_arguments, k, caplog):
    """Dropout on, shuffled, a smaller last batch; refits happen (k < 3) and leave no trace."""
    data, clear = toy_dataset(27), {"clear_warmup_epochs": k, "clear_gamma": 1.0, "clear_consistency_weight": 0.0}
    stock = Trainer(lora_model(), training_arguments(TrainingArguments), train_dataset=data, data_collator=collate)
    stock.train()
    ours = ClearTrainer(
        lora_model(),
        training_arguments(**clear),
        train_dataset=data,
        data_collator=collate,
        callbacks=[estimate_of(1.0)],
    )
    with caplog.at_level(logging.WARNING):
        ours.train()
    assert ours.sample_store.is_fitted == (k < 3)
    assert ("no clean probability is ever fitted" in caplog.text) == (k >= 3)
    assert losses_of(ours) == losses_of(stock)
    assert_same_weights(weights(ours.model), weights(stock.model))


class UnlikeTransformers(nn.Module):
    """No config, tuple outputs, a label that is a float: what users of a plain Trainer bring along."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 1)

    def forward(self, x, target):
        prediction = self.linear(x).squeeze(-1)
        return (prediction - target).square().mean(), prediction


@pytest.mark.parametrize("accumulation", [1, 3])
def test_without_routable_modules_it_is_a_strict_pass_through(training_arguments, accumulation, caplog):
    generator = torch.Generator().manual_seed(0)
    data = [{"x": torch.rand(3, generator=generator), "target": torch.rand((), generator=generator)} for _ in range(11)]

    def train(cls) -> Trainer:
        arguments = training_arguments(
            TrainingArguments,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=accumulation,
            label_names=["target"],
            eval_strategy="epoch",
        )
        trainer = cls(UnlikeTransformers(), arguments, train_dataset=data, eval_dataset=data[:4])
        trainer.train()
        return trainer

    stock = train(Trainer)
    with caplog.at_level(logging.WARNING):
        ours = train(ClearTrainer)
    assert caplog.text.count("no PEFT module that can be routed") == 1
    assert_same_weights(weights(ours.model), weights(stock.model))
    assert losses_of(ours) == losses_of(stock) and losses_of(ours, "eval_loss") == losses_of(stock, "eval_loss")
    assert not any(isinstance(callback, CleanProbabilityCallback) for callback in ours.callback_handler.callbacks)
    ours.add_callback(CleanProbabilityCallback())  # has nothing to do here, and does nothing
    ours.train()
    assert "loss_is_scaled_for_ga" not in vars(ours)
    assert SAMPLE_INDEX not in next(iter(ours.get_train_dataloader()))
    assert not os.listdir(ours.args.output_dir)


@pytest.mark.parametrize("arguments", [{"bf16": True}, {"label_smoothing_factor": 0.1}], ids=str)
def test_autocast_and_label_smoothing_are_those_of_stock_trainer(training_arguments, arguments):
    clear = {"clear_warmup_epochs": 1, "clear_gamma": 1.0, "clear_consistency_weight": 0.0, "learning_rate": 1e-3}
    stock = Trainer(
        lora_model(),
        training_arguments(TrainingArguments, learning_rate=1e-3, **arguments),
        train_dataset=toy_dataset(),
        data_collator=collate,
    )
    stock.train()
    ours = ClearTrainer(
        lora_model(),
        training_arguments(**clear, **arguments),
        train_dataset=toy_dataset(),
        data_collator=collate,
        callbacks=[estimate_of(1.0)],
    )
    ours.train()
    assert losses_of(ours) == pytest.approx(losses_of(stock), abs=2e-5)
    for name, weight in weights(stock.model).items():
        assert torch.allclose(weights(ours.model)[name], weight, atol=1e-4), name


def test_evaluation_is_deterministic_unrouted_and_needs_no_training_set(training_arguments):
    model = lora_model()
    stock = Trainer(model, training_arguments(TrainingArguments), data_collator=collate).predict(toy_dataset(9))
    ours = ClearTrainer(model, training_arguments(TrainingArguments), data_collator=collate)
    for _ in range(2):
        predicted = ours.predict(toy_dataset(9))
        assert np.array_equal(predicted.predictions, stock.predictions)
        assert predicted.metrics["test_loss"] == stock.metrics["test_loss"]
