"""How many labels a model has memorized, and for which tasks that can be said."""

import numpy as np
import pytest
import torch
from helpers.token_tasks import trainer_of
from helpers.toy import collate, tiny_bert
from helpers.trainers import lora_trainer, noisy_toy
from peft import get_peft_model
from transformers import Trainer, TrainingArguments

from hf_clear import ClearLoraConfig, MemorizationCallback


def test_memorization_of_a_stock_trainer_after_every_epoch(training_arguments):
    data = noisy_toy()
    model = get_peft_model(tiny_bert(), ClearLoraConfig(task_type="SEQ_CLS", r=4))
    trainer = Trainer(model, training_arguments(TrainingArguments), train_dataset=data, data_collator=collate)
    with pytest.raises(ValueError, match="3.*24 training samples"):
        MemorizationCallback(trainer, [0, 1, 2])
    trainer.add_callback(MemorizationCallback(trainer, data["true_label"]))
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "memorization_noisy" in entry]
    assert [entry["epoch"] for entry in logs] == [1, 2, 3]
    predicted = trainer.predict(data).predictions.argmax(1)
    given, true = np.array(data["labels"]), np.array(data["true_label"])
    assert logs[-1]["memorization_noisy"] == pytest.approx((predicted == given)[given != true].mean())
    assert logs[-1]["memorization_clean"] == pytest.approx((predicted == given)[given == true].mean())


def test_true_labels_of_token_tasks_and_of_no_class(training_arguments):
    trainer = trainer_of("token classification", training_arguments(clear_warmup_epochs=1, num_train_epochs=2))
    trainer.train_dataset = trainer.train_dataset.add_column("true_label", [0] * 24)
    trainer.train()  # one for a sentence says nothing of its tokens
    assert not any("memorization_noisy" in entry for entry in trainer.state.log_history)
    for task in ("token classification", "llama"):
        trainer = trainer_of(task, training_arguments(TrainingArguments), Trainer)
        trainer.add_callback(MemorizationCallback(trainer, [0] * 24))
        with pytest.raises(ValueError, match="one class a sample, and here every token"):
            trainer.train()
    trainer = lora_trainer(training_arguments)
    data = trainer.train_dataset.remove_columns("true_label")
    trainer.train_dataset = data.add_column("true_label", [None] * 12 + [1] * 12)
    trainer.train()
    assert trainer.true_labels.tolist() == [-100] * 12 + [1] * 12
    trainer.train_dataset = data.add_column("true_label", ["red"] * 24)
    with pytest.raises(ValueError, match="'red' for sample 0. It has to hold class numbers"):
        trainer.train()


def test_watching_memorization_leaves_training_as_it_was(training_arguments):
    def train(watch: bool) -> dict[str, torch.Tensor]:
        trainer = lora_trainer(training_arguments, clear_warmup_epochs=2)
        if watch:
            trainer.add_callback(MemorizationCallback(trainer, trainer.train_dataset["true_label"]))
        trainer.train()
        return {name: p.detach() for name, p in trainer.model.named_parameters()}

    watched, unwatched = train(True), train(False)
    assert all(torch.equal(watched[name], unwatched[name]) for name in watched)
