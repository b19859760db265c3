"""Losses that are not finite or all the same, and half precision. For the mixture alone: test_mixtures.py."""

import math

import numpy as np
import pytest
import torch
from helpers.toy import NUM_LABELS, collate, tiny_bert, toy_dataset
from peft import get_peft_model
from torch import nn
from transformers import BertForSequenceClassification, Trainer, TrainingArguments

from hf_clear import ClearLoraConfig, ClearTrainer

MARKED = 59  # a token that no sample has by itself
BAD = [3, 11, 20]


class Overflows(BertForSequenceClassification):
    """Has logits that are not finite for samples with the token `MARKED`."""

    value, in_training = math.nan, True

    def forward(self, input_ids=None, attention_mask=None, labels=None, **kwargs):
        outputs = super().forward(input_ids=input_ids, attention_mask=attention_mask)
        if self.in_training or not self.training:
            marked = (input_ids == MARKED).any(dim=1, keepdim=True)
            outputs["logits"] = outputs["logits"] * torch.where(marked, self.value, 1.0)
        if labels is not None:
            outputs["loss"] = nn.functional.cross_entropy(outputs["logits"], labels)
        return outputs


def lora() -> torch.nn.Module:
    torch.manual_seed(0)
    return get_peft_model(Overflows(tiny_bert().config), ClearLoraConfig(task_type="SEQ_CLS", r=4))


def marked_dataset():
    def mark(row, index):
        return {"input_ids": [*row["input_ids"][:-1], MARKED] if index in BAD else row["input_ids"]}

    return toy_dataset(24).map(mark, with_indices=True)


@pytest.mark.parametrize(
    ("value", "source"), [(math.nan, "epoch"), (math.inf, "epoch"), (-math.inf, "epoch"), (math.nan, "step")]
)
def test_losses_that_are_not_finite_are_left_out_counted_and_logged(
    training_arguments, monkeypatch, caplog, value, source
):
    monkeypatch.setattr(Overflows, "value", value)
    monkeypatch.setattr(Overflows, "in_training", False)
    trainer = ClearTrainer(
        lora(),
        training_arguments(clear_warmup_epochs=1, learning_rate=1e-3, clear_ensemble_source=source),
        train_dataset=marked_dataset(),
        data_collator=collate,
    )
    trainer.train()
    assert [log["non_finite_losses"] for log in trainer.state.log_history if "clean_fraction" in log] == [3, 3]
    assert "3 samples (index 3, 11, 20)" in caplog.text
    probability = np.array(trainer.clean_probabilities()["clean_probability"])
    assert np.flatnonzero(np.isnan(probability)).tolist() == BAD and np.nanmax(probability) > 0.5
    assert (trainer.sample_store.clean_probability[BAD] == 0).all() and trainer.fit_findings.missing == 3
    assert trainer.sample_store.losses[BAD].isfinite().sum() == 0
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
    assert all(math.isfinite(log["loss"]) for log in trainer.state.log_history if "loss" in log)


def test_a_loss_in_training_that_is_not_finite_is_what_it_is_under_trainer(training_arguments):
    """It spoils the same weights, and training goes on to its end."""
    data, ends = marked_dataset(), []
    for cls, arguments in ((Trainer, training_arguments(TrainingArguments)), (ClearTrainer, training_arguments())):
        trainer = cls(lora(), arguments, train_dataset=data, data_collator=collate)
        trainer.train()
        assert trainer.state.global_step == 9
        ends.append(
            {name: p.isfinite().all().item() for name, p in trainer.model.named_parameters() if p.requires_grad}
        )
    assert ends[0] == ends[1] and not all(ends[0].values())


def constant_logits(trainer: ClearTrainer) -> None:
    head = trainer.model.get_base_model().classifier.modules_to_save["default"]
    nn.init.zeros_(head.weight)


def test_losses_that_are_all_the_same(training_arguments, caplog):
    trainer = ClearTrainer(
        lora(),
        training_arguments(clear_warmup_epochs=0, learning_rate=0.0),
        train_dataset=toy_dataset(24),
        data_collator=collate,
    )
    constant_logits(trainer)
    trainer.train()
    assert np.allclose(trainer.clean_probabilities()["loss"], math.log(NUM_LABELS))
    assert set(trainer.clean_probabilities()["clean_probability"]) == {1.0} and len(trainer.label_issues()) == 0
    assert "All losses are the same" in caplog.text


class Float16Trainer(ClearTrainer):
    """On CPU, accelerate takes `fp16=True` for float32."""

    def compute_loss_context_manager(self):
        return torch.autocast("cpu", torch.float16)


@pytest.mark.parametrize(("cls", "arguments"), [(Float16Trainer, {}), (ClearTrainer, {"bf16": True})])
def test_half_precision(training_arguments, cls, arguments):
    """Under autocast, losses and probabilities are those of float32 up to its rounding."""
    stores = []
    for trainer_cls, more in ((ClearTrainer, {}), (cls, arguments)):
        trainer = trainer_cls(
            tiny_bert(initializer_range=0.2),
            training_arguments(clear_warmup_epochs=0, num_train_epochs=1, learning_rate=0.0, **more),
            train_dataset=toy_dataset(64),
            data_collator=collate,
            peft_config=ClearLoraConfig(task_type="SEQ_CLS"),
        )
        trainer.train()
        stores.append(trainer.sample_store)
        assert all(math.isfinite(log["loss"]) for log in trainer.state.log_history if "loss" in log)
    full, half = stores
    assert half.losses.dtype == torch.float32 and not torch.equal(half.losses, full.losses)
    assert torch.allclose(half.losses, full.losses, atol=0.05)
    assert (half.clean_probability - full.clean_probability).abs().max() < 0.1
