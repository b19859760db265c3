"""Arguments, models and data that TURN takes or refuses, with a reason."""

import pytest
import torch
from helpers.toy import collate, tiny_bert, toy_dataset
from helpers.turn import noisy_dataset
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification, TrainingArguments

from hf_clear import TurnTrainer, TurnTrainingArguments


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"turn_threshold": 0.0}, "`turn_threshold`.*strictly between 0 and 1; got 0.0"),
        ({"turn_threshold": 1.0}, "`turn_threshold`.*strictly between 0 and 1; got 1.0"),
        ({"probe_gce_q": 1.1}, r"`probe_gce_q` has to be in \[0, 1\].*1.1"),
        ({"probe_gce_q": -0.1}, r"`probe_gce_q` has to be in \[0, 1\].*-0.1"),
        ({"turn_balance": "max"}, "`turn_balance` has to be 'min', 'none' or a number.*'max'"),
        ({"turn_balance": 0}, "`turn_balance` has to be"),
        ({"turn_estimator": "guess"}, "estimator; got 'guess'"),
        ({"probe_epochs": 0}, "`probe_epochs` has to be a whole number, 1 or above"),
        ({"probe_features": "cls"}, "`probe_features` has to be 'head' or 'mean'"),
        ({"probe_learning_rate": 0}, "`probe_learning_rate` has to be above 0"),
        ({"probe_batch_size": 2.5}, "`probe_batch_size` has to be a whole number"),
        ({"turn_threshold": "0.6"}, "`turn_threshold` has to be a number; got '0.6'"),
        ({"probe_gce_q": None}, "`probe_gce_q` has to be a number; got None"),
        ({"turn_balance": True}, "`turn_balance` has to be"),
        ({"turn_threshold": float("nan")}, "`turn_threshold`.*strictly between 0 and 1; got nan"),
    ],
)
def test_arguments_out_of_range(training_arguments, arguments, message):
    with pytest.raises(ValueError, match=message):
        training_arguments(TurnTrainingArguments, **arguments)


def test_numbers_of_another_type(training_arguments):
    arguments = training_arguments(TurnTrainingArguments, probe_epochs=2.0)
    assert arguments.probe_epochs == 2 and isinstance(arguments.probe_epochs, int)
    assert training_arguments(TurnTrainingArguments, turn_balance="30").turn_balance == 30


def test_data_and_models_that_do_not_fit(turn, training_arguments):
    with pytest.raises(ValueError, match="label of sample 3 is 9.*0 to 3"):
        turn(toy_dataset(12).map(lambda row, i: {"labels": 9 if i == 3 else 0}, with_indices=True)).train()
    tokens = toy_dataset(12).map(lambda row: {"labels": [0] * len(row["input_ids"])})
    config = BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_labels=4)
    with pytest.raises(ValueError, match="TURN needs one class label a sample"):
        turn(tokens, model=BertForTokenClassification(config)).train()
    with pytest.raises(ValueError, match="TURN is for classification.*regression"):
        turn(model=BertForSequenceClassification(BertConfig(**{**config.to_dict(), "num_labels": 1})))
    with pytest.raises(ValueError, match="BertModel has no head called"):
        turn(model=BertForSequenceClassification(config).bert)
    with pytest.raises(ValueError, match="TURN keeps a clean probability.*IterableDataset"):
        turn(toy_dataset(12).to_iterable_dataset(), max_steps=3)


def test_labels_under_another_name_or_of_another_shape(turn, training_arguments):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = tiny_bert(initializer_range=0.2)
            self.classifier, self.bert.classifier = self.bert.classifier, torch.nn.Identity()

        def forward(self, input_ids, attention_mask, target=None):
            logits = self.classifier(self.bert(input_ids, attention_mask).logits)
            loss = None if target is None else torch.nn.functional.cross_entropy(logits, target)
            return {"logits": logits} if loss is None else {"loss": loss, "logits": logits}

    def renamed(items):
        batch = collate(items)
        return {**batch, "target": batch.pop("labels")} if "labels" in batch else batch

    arguments = {"probe_epochs": 6, "probe_learning_rate": 1e-2, "num_train_epochs": 1}
    trainer = TurnTrainer(
        Model(),
        training_arguments(TurnTrainingArguments, label_names=["target"], remove_unused_columns=False, **arguments),
        train_dataset=noisy_dataset(),
        data_collator=renamed,
    )
    metrics = trainer.linear_probe()
    stock = turn()
    stock.linear_probe()
    assert metrics["probe_loss"] == pytest.approx(stock.phase_metrics["probe_loss"], rel=1e-3)
    column = turn()
    column.data_collator = lambda items: {**(batch := collate(items)), "labels": batch["labels"][:, None]}
    with pytest.raises(ValueError, match=r"no labels of shape \[batch\].*data collator"):
        column.linear_probe()


def test_a_training_set_that_is_replaced_between_the_phases(turn):
    trainer = turn()
    trainer.linear_probe()
    trainer.cleanse()
    trainer.train_dataset = noisy_dataset(120)
    for phase in (trainer.cleanse, trainer.finetune):
        with pytest.raises(ValueError, match=r"replaced since the probe.*number of samples \(160 -> 120\)"):
            phase()


def test_phases_out_of_order(turn):
    trainer = turn()
    for phase, message in (
        (trainer.cleanse, r"call `linear_probe\(\)` first"),
        (trainer.finetune, r"call `cleanse\(\)` first"),
        (lambda: trainer.predict_probe(trainer.train_dataset), r"call `linear_probe\(\)` first"),
        (trainer.clean_probabilities, "no clean probabilities"),
    ):
        with pytest.raises(RuntimeError, match=message):
            phase()


def test_the_defaults_beside_plain_training_arguments_can_be_changed(training_arguments):
    trainer = TurnTrainer(
        tiny_bert(), training_arguments(TrainingArguments), train_dataset=noisy_dataset(40), data_collator=collate
    )
    trainer.turn_args.probe_epochs = 2
    trainer.linear_probe()
    assert trainer.state.log_history[-2]["probe_epoch"] == 2
