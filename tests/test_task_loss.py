"""The base class's loss is the task loss: nobody's loss is dropped without a word."""

import numpy as np
import pytest
import torch
from helpers.task_losses import (
    CASES,
    HAVE_THEIR_OWN,
    OPEN,
    WeightedTrainer,
    WithoutKwargs,
    assert_same_training,
    build,
    over,
)
from helpers.toy import NUM_LABELS
from helpers.trainers import estimate_of, losses_of, minimized_by
from torch import nn
from transformers import Trainer, TrainerCallback

from hf_clear import ClearMixin, ClearTrainer


@pytest.mark.parametrize("name", CASES)
def test_with_open_gates_and_no_consistency_it_is_the_stock_training(tmp_path, name):
    stock = build(name, tmp_path)
    stock.train()
    clear = build(name, tmp_path, **OPEN)  # not before: a trainer seeds the generators when it is made
    clear.train()
    assert clear.sample_store.is_fitted
    assert_same_training(clear, stock)


@pytest.mark.parametrize("name", HAVE_THEIR_OWN)
def test_accumulated_it_is_scaled_as_below(tmp_path, name):
    arguments = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}
    stock = build(name, tmp_path, **arguments)
    stock.train()
    clear = build(name, tmp_path, **arguments, **OPEN)
    clear.train()
    assert_same_training(clear, stock)


@pytest.mark.parametrize("name", HAVE_THEIR_OWN)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_loss_below_is_asked_in_every_step_and_consistency_is_added(tmp_path, name, accumulation):
    base, asked = CASES[name][4], []

    class Base(base):
        def compute_loss(self, *args, **kwargs):
            result = super().compute_loss(*args, **kwargs)
            if self.model.training:
                asked.append((result[0] if isinstance(result, tuple) else result).item())
            return result

    trainer = build(
        name,
        tmp_path,
        over(base if base is WeightedTrainer else Trainer),
        clear_warmup_epochs=1,
        clear_consistency_weight=0.5,
        gradient_accumulation_steps=accumulation,
        per_device_train_batch_size=8 // accumulation,
    )
    trainer.__class__ = type("Watched", (ClearMixin, Base), {})
    minimized = minimized_by(trainer)
    trainer.train()
    divided = trainer.model_accepts_loss_kwargs is False  # by `Trainer`, after `compute_loss`
    steps = [sum(asked[i : i + accumulation]) for i in range(0, len(asked), accumulation)]
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == len(steps) == 6
    assert [log["task_loss"] for log in logs] == pytest.approx([s / accumulation if divided else s for s in steps])
    assert "consistency" not in logs[0] and "consistency" in logs[-1]
    totals = [sum(minimized[i : i + accumulation]) for i in range(0, len(minimized), accumulation)]
    assert totals == pytest.approx([log["task_loss"] + 0.5 * log.get("consistency", 0.0) for log in logs])
    assert [log["loss"] for log in logs] == pytest.approx([log["task_loss"] for log in logs])


@pytest.mark.parametrize("name", HAVE_THEIR_OWN)
def test_a_loss_that_would_drop_another_is_refused(tmp_path, name):
    trainer = build(name, tmp_path, clear_loss="weighted")
    with pytest.raises(ValueError, match=f"'weighted'.*place.*{CASES[name][-1]}.*no effect.*'clear' or 'elr'"):
        trainer.train()


def test_label_smoothing_is_not_dropped_either(tmp_path):
    with pytest.raises(ValueError, match="'gce'.*label_smoothing_factor=0.1 would have no effect"):
        build("plain", tmp_path, clear_loss="gce", label_smoothing_factor=0.1).train()


class ByKeyword(Trainer):
    """The recipe as many write it: what it doesn't need is in `kwargs`."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        outputs = model(**inputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss


class WithoutScores(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = 2 * model(**inputs).loss
        return (loss, {"mine": loss}) if return_outputs else loss


@pytest.mark.parametrize("base", [ByKeyword, WithoutScores])
def test_base_trainers_of_all_kinds(tmp_path, base):
    trainer = build("plain", tmp_path, over(base), clear_warmup_epochs=1, clear_consistency_weight=0.5)
    minimized = minimized_by(trainer)
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "loss" in entry][-1]
    assert minimized[-1] == pytest.approx(log["task_loss"] + 0.5 * log["consistency"])


class NeedsLabels(WithoutKwargs):
    def forward(self, input_ids, attention_mask, labels):
        return super().forward(input_ids, attention_mask, labels)


class OfTuples(WithoutKwargs):
    def forward(self, input_ids, attention_mask=None, labels=None):
        outputs = super().forward(input_ids, attention_mask, labels)
        return outputs.get("loss"), outputs["logits"]


def test_what_a_refit_asks_of_a_model_shows_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setitem(CASES, "needs labels", (NeedsLabels, *CASES["a model without **kwargs"][1:]))
    monkeypatch.setitem(CASES, "of tuples", (OfTuples, *CASES["a model without **kwargs"][1:]))
    trainer = build("needs labels", tmp_path, clear_warmup_epochs=1)
    with pytest.raises(ValueError, match="can't predict without `labels`.*`labels=None`"):
        trainer.train()
    assert trainer.state.global_step == 0
    trainer = build("of tuples", tmp_path, clear_warmup_epochs=1)
    trainer.train()
    assert trainer.sample_store.is_fitted


def test_a_batch_that_is_left_out_leaves_the_scale_of_the_others_alone(tmp_path, monkeypatch):
    """A model without `**kwargs` has its loss divided by `Trainer`; a batch without samples counts as one of loss 0."""
    seen = []

    class Watched(ClearTrainer):
        def _task_loss(self, *args):
            task = super()._task_loss(*args)
            seen.append((task.value.item(), task.scale))
            return task

    trainer = build(
        "a model without **kwargs",
        tmp_path,
        Watched,
        **{"gradient_accumulation_steps": 4, "per_device_train_batch_size": 1, "clear_warmup_epochs": 0},
        **{"clear_min_clean_probability": 0.5, "clear_consistency_weight": 0.0},
        callbacks=[estimate_of(np.arange(24) % 2)],
    )
    trainer.train()
    values = [value for value, _ in seen]
    assert {scale for _, scale in seen} == {4} and 0 < values.count(0.0) < len(values) == 24
    assert losses_of(trainer) == pytest.approx([sum(values[i : i + 4]) / 4 for i in range(0, 24, 4)])


class WithBatchNorm(WithoutKwargs):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(NUM_LABELS)

    def forward(self, input_ids, attention_mask=None, labels=None):
        return {"logits": self.norm(super().forward(input_ids)["logits"])}


def test_the_look_at_a_first_batch_leaves_the_model_as_it_was(tmp_path, monkeypatch):
    """It looks in training mode too, which moves the running statistics of BatchNorm."""
    monkeypatch.setitem(CASES, "batch norm", (WithBatchNorm, *CASES["a model without **kwargs"][1:]))
    trainer, seen = build("batch norm", tmp_path, clear_warmup_epochs=1), []

    class Look(TrainerCallback):
        def on_train_begin(self, *args, **kwargs):
            seen.append({name: value.clone() for name, value in trainer.model.state_dict().items()})

    trainer.add_callback(Look())  # comes after the look
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    assert all(torch.equal(value, before[name]) for name, value in seen[0].items())
    assert trainer._first_batch.base_loss is None and trainer.state.global_step == 6


def test_a_model_that_gives_nan_is_refused_as_such(tmp_path):
    """It has no loss of its own."""
    trainer = build("plain", tmp_path, clear_warmup_epochs=1)
    next(p for name, p in trainer.model.named_parameters() if "classifier" in name and "modules" in name).data.fill_(
        float("nan")
    )
    with pytest.raises(ValueError, match="The model predicts NaN or infinity for each of the"):
        trainer.train()
