"""What a training changes is what it is said to change: weights, gates, heads, samples."""

import logging

import numpy as np
import pytest
import torch
from helpers.toy import collate, tiny_bert, toy_dataset
from helpers.trainers import lora_model, noisy_toy
from peft import LoHaConfig, LoraConfig, get_peft_model
from peft.tuners.lora import config as lora_configs
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from hf_clear import (
    CleanProbabilityCallback,
    CleanProbabilityEstimate,
    ClearLoraConfig,
    ClearTrainer,
    TurnTrainer,
    TurnTrainingArguments,
    preset,
    register_training_loss,
)
from hf_clear.losses import TRAINING_LOSSES
from hf_clear.noise import inject_label_noise


def trainer_of(training_arguments, model, data=None, **arguments):
    given = {
        name: arguments.pop(name)
        for name in ("callbacks", "eval_dataset", "optimizers", "peft_config")
        if name in arguments
    }
    arguments = training_arguments(**{**preset("clear"), "num_train_epochs": 2, "clear_warmup_epochs": 0, **arguments})
    data = noisy_toy() if data is None else data
    return ClearTrainer(model, arguments, train_dataset=data, data_collator=collate, **given)


def toy_with_noise(size: int):
    return inject_label_noise(toy_dataset(size), "symmetric", 0.3, label_column="labels")[0]


def closed() -> CleanProbabilityCallback:
    """Every gate is shut."""
    return CleanProbabilityCallback(lambda evidence: CleanProbabilityEstimate(np.zeros(len(evidence.losses))))


def changed_by(trainer) -> list[str]:
    before = {name: own.detach().clone() for name, own in trainer.model.named_parameters()}
    trainer.train()
    return [name for name, own in trainer.model.named_parameters() if not torch.equal(own, before[name])]


# ---- The optimizer ----


@pytest.mark.parametrize("is_turn", [False, True])
def test_an_optimizer_without_the_weights_that_are_to_be_trained_is_refused(training_arguments, caplog, is_turn):
    model = tiny_bert(initializer_range=0.2)
    given = {"optimizers": (torch.optim.AdamW(model.parameters()), None)}  # of a model without an adapter
    given["peft_config"] = ClearLoraConfig(task_type="SEQ_CLS", r=4)
    if is_turn:
        arguments = training_arguments(TurnTrainingArguments)
        trainer = TurnTrainer(model, arguments, train_dataset=toy_dataset(40), data_collator=collate, **given)
    else:
        trainer = trainer_of(training_arguments, model, **given)
    with pytest.raises(
        ValueError, match="optimizer has none of the 12 PEFT weights that are to be trained.*Call `get_p"
    ):
        trainer.train()
    assert trainer.state.global_step == 0 and getattr(trainer, "probe", None) is None
    model = trainer.model
    stranger = torch.nn.Linear(1, 1)  # stands for what passes its steps on
    trainer.optimizer = torch.optim.AdamW(stranger.parameters())
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert "no other weight of the model. Unless it passes on its steps, nothing is trained" in caplog.text
    trainer.lr_scheduler, trainer.optimizer = (
        None,
        torch.optim.AdamW([own for own in model.parameters() if own.requires_grad], lr=1e-2),
    )
    assert any("lora_" in name for name in changed_by(trainer))


# ---- Gates ----


@pytest.mark.parametrize(
    "arguments",
    [
        {**preset("paper"), "clear_routing": "none"},
        {"clear_routing": "none", "clear_ensemble_source": "epoch"},
        {"clear_routing": "none", "clear_loss": "elr", "clear_ensemble_source": "step"},
    ],
)
def test_targets_if_all_gates_are_open(training_arguments, arguments):
    """As are those of a deterministic strategy if the data are clean: known in the middle of a training alone."""
    trainer = trainer_of(training_arguments, lora_model(), **{**arguments, "clear_warmup_epochs": 1})
    assert trainer.train().global_step == trainer.state.max_steps
    assert trainer.sample_store.is_fitted


def in_place() -> LoraConfig:
    parts = {"target_modules_bd_a": ["attention.output.dense"], "target_modules_bd_b": ["query", "value"]}
    blocks = lora_configs.BdLoraConfig(**parts, nblocks=2, match_strict=False)
    targets = ["query", "value", "attention.output.dense"]
    return LoraConfig(task_type="SEQ_CLS", r=4, target_modules=targets, use_bdlora=blocks)


@pytest.mark.parametrize("config", [in_place, lambda: LoraConfig(task_type="SEQ_CLS", r=4, use_dora=True)])
def test_variants_of_lora_that_write_into_their_input_are_gated(training_arguments, config):
    model = get_peft_model(tiny_bert(), config())
    trainer = trainer_of(training_arguments, model, callbacks=[closed()])
    changed = changed_by(trainer)
    assert changed and not any("lora_" in name for name in changed)  # the head alone
    trainer = trainer_of(training_arguments, get_peft_model(tiny_bert(), config()), clear_routing="none")
    assert any("lora_" in name for name in changed_by(trainer))


def test_what_no_gate_acts_on_is_named_or_refused(training_arguments, caplog):
    for part, more in (
        ("trainable_tokens_delta", {"trainable_token_indices": [1, 5]}),
        ("embeddings", {"modules_to_save": ["classifier", "embeddings"]}),
    ):
        caplog.clear()
        model = get_peft_model(tiny_bert(), ClearLoraConfig(task_type="SEQ_CLS", r=4, **more))
        trainer = trainer_of(training_arguments, model, callbacks=[closed()])
        with caplog.at_level(logging.WARNING):
            assert any(part in name for name in changed_by(trainer))
        assert "trained weights below the head have no gate (embeddings." in caplog.text and part in caplog.text
    caplog.clear()
    pooler = ClearLoraConfig(task_type="SEQ_CLS", r=4, modules_to_save=["classifier", "pooler"])  # a part of the head
    for model in (lora_model(), get_peft_model(tiny_bert(), pooler)):
        trainer_of(training_arguments, model).train()
    assert "have no gate" not in caplog.text
    with pytest.raises(ValueError, match="KaSA takes a part of the pretrained weights away"):
        kasa = LoraConfig(task_type="SEQ_CLS", r=4, kasa_config=lora_configs.KasaConfig())
        trainer_of(training_arguments, get_peft_model(tiny_bert(), kasa))


# ---- Models that have been trained, or have got or lost an adapter ----


@pytest.mark.parametrize("warmup", ["evidence", "linear_probe", "cross_fit"])
def test_a_model_that_was_trained_before_keeps_its_head(training_arguments, monkeypatch, warmup):
    """Labels are what it predicts, with its adapter acting."""
    monkeypatch.setattr("hf_clear.probing.head_start.LEAST_SKILL", 0.0)  # of so little evidence
    model = lora_model(initializer_range=0.5)
    with torch.no_grad():
        for name, own in model.named_parameters():
            own.mul_(0.1 if "lora_B" in name else 1)  # features without it tell something, too
    stock = Trainer(model, training_arguments(TrainingArguments), data_collator=collate)
    predicted = stock.predict(toy_dataset(200)).predictions.argmax(axis=-1)
    assert np.bincount(predicted).max() < 180  # the model doesn't predict one class alone
    data = toy_dataset(200).remove_columns("labels").add_column("labels", predicted)
    noisy = inject_label_noise(data, "symmetric", 0.2, label_column="labels", num_labels=4)[0]
    own = {"learning_rate": 1e-9, "clear_warmup": warmup, "clear_warmup_epochs": 1, "num_train_epochs": 2}
    trainer = trainer_of(training_arguments, model, noisy, **{**preset("recommended"), **own})
    trainer.train()
    assert (trainer.predict(data).predictions.argmax(axis=-1) == predicted).mean() > 0.98


def test_an_adapter_that_comes_or_goes_after_the_trainer_was_made(training_arguments):
    trainer = trainer_of(training_arguments, tiny_bert())
    trainer.model = trainer.model_wrapped = get_peft_model(trainer.model, ClearLoraConfig(task_type="SEQ_CLS", r=4))
    trainer.train()
    assert trainer.sample_store.is_fitted
    trainer.model = trainer.model_wrapped = trainer.model.merge_and_unload()
    trainer.optimizer = None
    assert trainer.train().global_step == trainer.state.max_steps
    assert trainer.sample_store is None  # nothing is told of a training that was plain


# ---- Samples ----


def test_turn_refuses_a_dataloader_of_other_samples(training_arguments):
    class OwnDataloader(TurnTrainer):
        def get_train_dataloader(self):
            return DataLoader(self.train_dataset.remove_columns("true_label"), batch_size=8, collate_fn=collate)

    class Wrapped(TurnTrainer):
        def get_train_dataloader(self):
            return super().get_train_dataloader()

    class Loader:
        """A dataloader that says nothing of its data set."""

        def __init__(self, loader):
            self.loader = loader

        def __iter__(self):
            return iter(self.loader)

        def __len__(self):
            return len(self.loader)

    class Hidden(TurnTrainer):
        def get_train_dataloader(self):
            return Loader(super().get_train_dataloader())

    arguments = training_arguments(TurnTrainingArguments, num_train_epochs=1)
    given = {"train_dataset": toy_with_noise(80), "data_collator": collate}
    trainer = OwnDataloader(tiny_bert(initializer_range=0.2), arguments, **given)
    with pytest.raises(ValueError, match="get_train_dataloader` of OwnDataloader doesn't call `super.*has 80"):
        trainer.train()
    for cls in (Wrapped, Hidden):
        assert cls(tiny_bert(initializer_range=0.2), arguments, **given).train().global_step > 0


def test_a_list_that_is_changed_in_place_is_another_data_set(training_arguments, caplog):
    rows = [{k: v for k, v in row.items() if k != "true_label"} for row in toy_with_noise(80)]
    trainer = trainer_of(training_arguments, lora_model(), rows)
    trainer.train()
    assert len(trainer.label_issues(return_all=True)) == 80
    before, rows[3]["labels"] = rows[3]["labels"], 1 - min(rows[3]["labels"], 1)  # as by hand
    with caplog.at_level(logging.WARNING):
        assert len(trainer.label_issues(return_all=True)) == 80
    assert "labels have changed in place since. The table shows those of the run" in caplog.text
    rows[3]["labels"] = before
    rows.sort(key=lambda row: row["labels"])
    with pytest.raises(ValueError, match="labels, or the order of the samples, have changed in place"):
        trainer.label_issues()
    arguments = training_arguments(TurnTrainingArguments, num_train_epochs=1)
    turn = TurnTrainer(tiny_bert(initializer_range=0.2), arguments, train_dataset=rows, data_collator=collate)
    turn.linear_probe()
    turn.cleanse()
    rows.pop(0)
    with pytest.raises(ValueError, match="The training set was replaced since the probe was trained"):
        turn.finetune()


class Ratings(torch.utils.data.Dataset):
    """What it holds is neither what its items have, nor the same after they were read."""

    def __init__(self, data):
        self.rows, self.ratings = [row for row in data], [label + 1 for label in data["labels"]]
        self.targets, self.lengths = self.ratings, torch.zeros(len(data))

    def __len__(self):
        return len(self.ratings)

    def __getitem__(self, index):
        row = {name: own for name, own in self.rows[index].items() if name != "true_label"}
        self.lengths[index] = len(row["input_ids"])
        return {**row, "labels": self.ratings[index] - 1}


def test_a_data_set_that_changes_as_it_is_read_is_the_same(training_arguments, caplog):
    data = Ratings(toy_with_noise(80))
    trainer = trainer_of(training_arguments, lora_model(), data)
    trainer.train()
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        assert len(trainer.label_issues(return_all=True)) == 80
    assert not caplog.text
    arguments = training_arguments(TurnTrainingArguments, num_train_epochs=1)
    turn = TurnTrainer(tiny_bert(initializer_range=0.2), arguments, train_dataset=data, data_collator=collate)
    assert turn.train().global_step > 0


def test_a_loss_without_a_gradient_is_refused_before_the_first_step(training_arguments):
    register_training_loss("flat", lambda evidence: {"a": -evidence.logits.detach().log_softmax(-1).amax(-1)})
    try:
        trainer = trainer_of(training_arguments, lora_model(), clear_loss="flat")
        with pytest.raises(ValueError, match="No part of the training loss 'flat' has a gradient in the warm-up"):
            trainer.train()
        assert trainer.state.global_step == 0
    finally:
        del TRAINING_LOSSES["flat"]


@pytest.mark.parametrize("is_mixed", [False, True])
def test_methods_beside_lora_that_no_gate_acts_on_are_named(training_arguments, caplog, is_mixed):
    """With gates that are closed, LoRA's weights stay, and the others' are trained: who mixes them has to know."""
    lora, loha = (kind(r=4, target_modules=[name]) for kind, name in ((LoraConfig, "query"), (LoHaConfig, "value")))
    if is_mixed:
        model = get_peft_model(tiny_bert(), lora, mixed=True)
        model.add_adapter("other", loha)
        model.set_adapter(["default", "other"])
    else:
        model = tiny_bert()
        model.add_adapter(lora, "default")
        model.add_adapter(loha, "other")
        model.set_adapter(["default", "other"])
    trainer = trainer_of(training_arguments, model, callbacks=[closed()])
    with caplog.at_level(logging.WARNING):
        changed = changed_by(trainer)
    assert any("hada_" in name for name in changed) and not any("lora_" in name for name in changed)
    assert "trained weights below the head have no gate" in caplog.text and "hada_w1_a" in caplog.text
    assert "own loss" not in caplog.text


def test_a_best_model_that_could_not_be_loaded_is_refused_before_training(training_arguments, caplog):
    best = {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"}
    inside = tiny_bert()
    inside.add_adapter(ClearLoraConfig(r=4))
    other = get_peft_model(tiny_bert(), ClearLoraConfig(task_type="SEQ_CLS", r=4), adapter_name="other")
    for model, why in ((inside, r"adapters by `model.add_adapter`"), (other, r"\['other'\] is trained")):
        with pytest.raises(ValueError, match=why):
            trainer_of(training_arguments, model, eval_dataset=toy_dataset(8), **best).train()
    with caplog.at_level(logging.WARNING):
        trainer_of(training_arguments, inside, save_strategy="epoch").train()
    assert "No run can go on from the checkpoints of this one (`resume_from_checkpoint`): of a model" in caplog.text
