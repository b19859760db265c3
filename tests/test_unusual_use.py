"""What a user may try that is no plain training: the error or the warning says what to do."""

import logging

import datasets
import pytest
import torch
from helpers.toy import collate, tiny_bert, toy_dataset
from helpers.trainers import lora_model, noisy_toy
from peft import PeftModel, get_peft_model
from transformers import DataCollatorWithPadding, Trainer, TrainerCallback

import hf_clear
from hf_clear import CleanProbabilityCallback, ClearLoraConfig, ClearTrainer, TurnTrainer


def trainer_of(training_arguments, model=None, data=None, collator=collate, cls=ClearTrainer, **arguments):
    model = lora_model() if model is None else model
    data = noisy_toy() if data is None else data
    arguments = training_arguments(**{"max_steps": 1, "clear_warmup_epochs": 0, **arguments})
    return cls(model, arguments, train_dataset=data, data_collator=collator)


# ---- Weights that don't train ----


def not_trainable(tmp_path) -> PeftModel:
    lora_model().save_pretrained(tmp_path / "adapter")
    return PeftModel.from_pretrained(tiny_bert(), tmp_path / "adapter")


def but_the_head(tmp_path) -> PeftModel:
    model = lora_model()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "modules_to_save" in name
    return model


def disabled(tmp_path) -> PeftModel:
    model = lora_model()
    model.base_model.disable_adapter_layers()
    return model


FROZEN = {
    "loaded": (not_trainable, "No PEFT weight of the model requires grad. Load the adapter with `is_trainable=True`"),
    "inference mode": (
        lambda _: get_peft_model(tiny_bert(), ClearLoraConfig(task_type="SEQ_CLS", inference_mode=True)),
        "leave `inference_mode=True` out",
    ),
    "all frozen": (lambda _: lora_model().requires_grad_(False), r"`model.set_adapter\('default'\)`"),
    "all but the head": (but_the_head, "although other weights do, such as those of the head"),
    "disabled": (disabled, r"is disabled.*`model.enable_adapter_layers\(\)`"),
}


@pytest.mark.parametrize("kind", FROZEN)
def test_an_adapter_that_does_not_train_is_refused(training_arguments, tmp_path, caplog, kind):
    model_of, message = FROZEN[kind]
    model = model_of(tmp_path)
    with caplog.at_level(logging.WARNING):
        trainer = trainer_of(training_arguments, model)
        with pytest.raises(ValueError, match=message):
            trainer.train()
    assert "modules_to_save" not in caplog.text
    model.enable_adapter_layers() if kind == "disabled" else model.set_adapter("default")  # as the message says
    assert trainer.train().global_step == 1


def test_a_frozen_head_that_the_config_names(training_arguments, caplog):
    model = lora_model()
    model.get_base_model().classifier.requires_grad_(False)
    with caplog.at_level(logging.WARNING):
        trainer_of(training_arguments, model)
    assert "`modules_to_save` of the PEFT config names 'classifier' already" in caplog.text


def test_turn_refuses_a_model_that_does_not_train(training_arguments):
    """Its first phases train the head alone, on features of the frozen model."""
    arguments = training_arguments(hf_clear.TurnTrainingArguments, probe_epochs=1)
    model = tiny_bert(initializer_range=0.2)
    trainer = TurnTrainer(model, arguments, train_dataset=toy_dataset(80), data_collator=collate)
    trainer.linear_probe()
    trainer.cleanse()
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="No weight of the model requires grad"):
        trainer.finetune()
    trainer = TurnTrainer(but_the_head(None), arguments, train_dataset=toy_dataset(80), data_collator=collate)
    with pytest.raises(ValueError, match="No PEFT weight of the model requires grad"):
        trainer.train()
    assert trainer.probe is None  # before the first phase


# ---- Callbacks, batches by hand ----


@pytest.mark.parametrize(
    "remove",
    [
        lambda trainer: trainer.remove_callback(CleanProbabilityCallback),
        lambda trainer: trainer.callback_handler.callbacks.clear(),
    ],
)
def test_a_removed_callback(training_arguments, remove):
    trainer = trainer_of(training_arguments)
    remove(trainer)
    with pytest.raises(ValueError, match="CleanProbabilityCallback of this trainer was removed.*Add it again"):
        trainer.train()
    trainer.callback_handler.callbacks.append(CleanProbabilityCallback())  # past `add_callback`
    trainer.train()
    assert trainer.sample_store.is_fitted


def test_the_loss_of_a_batch_by_hand(training_arguments):
    """As of `Trainer`, before a training and after it; in one, what is not routed is refused."""

    class Bypass(ClearTrainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
            self.accelerator.backward(loss)
            return loss.detach()

    trainer = trainer_of(training_arguments, cls=Bypass)
    stock = Trainer(trainer.model, trainer.args, train_dataset=noisy_toy(), data_collator=collate)
    batch = next(iter(trainer.get_train_dataloader()))
    plain = {name: value for name, value in batch.items() if name != hf_clear.SAMPLE_INDEX}
    trainer.model.eval()
    for _ in range(2):
        assert torch.equal(trainer.compute_loss(trainer.model, batch), stock.compute_loss(trainer.model, plain))
        with pytest.raises(RuntimeError, match="has not left this training step"):
            trainer.train()
        trainer.model.eval()


# ---- No clean probabilities ----


class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = True


ONE_CLASS = toy_dataset(24).remove_columns("labels").add_column("labels", [1] * 24)
NO_FIT = {
    "steps": ({"max_steps": 2}, {}, r"after 0.667 epochs \(2 steps\).*due at the beginning of epoch 3. Train for lon"),
    "stopped": ({"num_train_epochs": 5}, {"callbacks": [Stop()]}, r"after 0.333 epochs \(1 steps\).*epoch 3"),
    "one class": ({"num_train_epochs": 2}, {"train_dataset": ONE_CLASS}, "All training samples have the label 1"),
    "few": ({"num_train_epochs": 1}, {"train_dataset": toy_dataset(2)}, "2 samples are too few"),
    "no PEFT": ({"num_train_epochs": 1}, {"model": tiny_bert()}, "BertForSequenceClassification has no PEFT module"),
}


@pytest.mark.parametrize("kind", NO_FIT)
def test_why_there_was_no_fit(training_arguments, kind):
    arguments, given, message = NO_FIT[kind]
    given = {"model": lora_model(), "train_dataset": noisy_toy(), **given}
    trainer = ClearTrainer(args=training_arguments(clear_warmup_epochs=2, **arguments), data_collator=collate, **given)
    before = "no PEFT module" if kind == "no PEFT" else "for the first time at the beginning of epoch 3, after the warm"
    with pytest.raises(RuntimeError, match=before):
        trainer.label_issues()
    trainer.train()
    for ask in (trainer.label_issues, trainer.clean_probabilities, lambda: trainer.fit_findings):
        with pytest.raises(RuntimeError, match=message):
            ask()


def test_evidence_that_was_too_weak_is_why_there_was_no_fit(training_arguments):
    own = {"clear_warmup": "evidence", "clear_warmup_epochs": 3, "clear_loss": "posterior", "clear_loss_kwargs": None}
    own |= {"clear_estimator": "noise_model", "clear_ensemble_source": None}
    trainer = trainer_of(training_arguments, data=ONE_CLASS, max_steps=2, **own)
    trainer.train()
    with pytest.raises(RuntimeError, match="epoch 4, since frozen features told too little before the first step"):
        trainer.label_issues()


# ---- Checkpoints without a way back ----


def test_checkpoints_of_weights_alone(training_arguments, caplog):
    arguments = {"save_strategy": "steps", "save_steps": 1}
    with caplog.at_level(logging.WARNING):
        trainer_of(training_arguments, save_only_model=True, **arguments).train()
    assert "No run can go on from the checkpoints of this one" in caplog.text
    caplog.clear()
    again = trainer_of(training_arguments, max_steps=2, **arguments)
    with caplog.at_level(logging.WARNING), pytest.raises(FileNotFoundError, match="`save_only_model=True`") as error:
        again.train(resume_from_checkpoint=True)
    assert "goes on" not in caplog.text
    remedy = str(error.value).rpartition("`model = ")[2].partition("`")[0]
    base_model = tiny_bert()
    model = eval(remedy, {"hf_clear": hf_clear, "base_model": base_model})  # noqa: S307
    assert trainer_of(training_arguments, model).train().global_step == 1


# ---- Arguments and data ----


@pytest.mark.parametrize("cls", [ClearTrainer, TurnTrainer])
def test_arguments_of_trainers(cls):
    for config in ({"r": 4}, ClearLoraConfig, "lora"):
        with pytest.raises(ValueError, match="`peft_config` has to be a PEFT config"):
            cls(tiny_bert(), peft_config=config)
    with pytest.raises(TypeError, match=rf"{cls.__name__}.__init__\(\) got an unexpected keyword argument 'peft_cfg'"):
        cls(tiny_bert(), peft_cfg=None)


def with_labels(labels) -> datasets.Dataset:
    return toy_dataset(len(labels)).remove_columns("labels").add_column("labels", labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[2], [0], [1]], r"sample 0 is \[2\].*takes one class number a sample.*`label\[0\]`"),
        ([[0, 0, 1, 0]] * 3, "one-hot labels or scores.*argmax"),
        ([[0.1, 0.2, 0.7, 0.0]] * 3, "one-hot labels or scores.*argmax"),
        ([[1, 0, 1, 0]] * 3, "Several labels a sample are not supported"),
        ([[1] * 9] * 3, r"an array of shape \[9\].*Several labels"),
    ],
)
def test_labels_in_lists(training_arguments, labels, message):
    for kind in (lambda data: data, lambda data: data.with_transform(dict), lambda data: data.with_format("torch")):
        with pytest.raises(ValueError, match=message):
            trainer_of(training_arguments, data=kind(with_labels(labels))).train()


def test_two_columns_of_labels(training_arguments, tiny_model):
    from transformers import AutoTokenizer

    labels = toy_dataset(24)["labels"][:]
    collator = DataCollatorWithPadding(AutoTokenizer.from_pretrained(tiny_model))
    data = toy_dataset(24).add_column("label", labels)
    trainer_of(training_arguments, data=data, collator=collator).train()  # which do not differ
    data = toy_dataset(24).add_column("label", [3 - labels[0], *labels[1:]])
    with pytest.raises(ValueError, match="of sample 0, 'labels' is 0, and 'label' is 3.*Keep one of the two columns"):
        trainer_of(training_arguments, data=data, collator=collator).train()


def test_a_training_set_without_length(training_arguments):
    class Endless(torch.utils.data.Dataset):
        def __getitem__(self, index):
            return toy_dataset(1)[0]

    message = "got a Endless. Its class needs both `__len__` and `__getitem__`"
    with pytest.raises(ValueError, match=message):
        trainer_of(training_arguments, data=Endless())
    trainer = trainer_of(training_arguments)
    trainer.train_dataset = Endless()
    with pytest.raises(ValueError, match=message):
        trainer.train()
