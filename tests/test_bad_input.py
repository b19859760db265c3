"""Bad input: an error before the first step that says what to do."""

import logging

import datasets
import pytest
from helpers.toy import collate, toy_dataset
from helpers.trainers import Dictionaries, assert_same_weights, lora_model, weights, with_transform

from hf_clear import ClearLoraConfig, ClearTrainer, ClearTrainingArguments, preset


def with_labels(labels) -> datasets.Dataset:
    data = toy_dataset(len(labels)).remove_columns("labels")
    return data.add_column("labels", labels)


@pytest.mark.parametrize("kind", [lambda data: data, list, Dictionaries, with_transform])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 0.5], "sample 0 is 0.0, a float"),
        ([0, 1, -1], "sample 2 is -1. It has to be 0 to 3"),
        ([0, 4, 1], "sample 1 is 4. It has to be 0 to 3"),
        ([0, 1, None], "sample 2 is missing"),
        (["a", "b", "c"], "sample 0 is 'a', a str"),
    ],
)
def test_labels_that_are_no_classes(training_arguments, kind, labels, message):
    data = kind(with_labels(labels))
    trainer = ClearTrainer(lora_model(), training_arguments(), train_dataset=data, data_collator=collate)
    before = weights(trainer.model)
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert_same_weights(weights(trainer.model), before)


def test_training_sets_that_do_not_work(training_arguments):
    def train(data) -> None:
        ClearTrainer(lora_model(), training_arguments(max_steps=5), train_dataset=data, data_collator=collate).train()

    with pytest.raises(ValueError, match="no label: expected one of labels, label, label_ids, got input_ids"):
        train(toy_dataset().remove_columns("labels"))
    with pytest.raises(ValueError, match="IterableDataset have no index.*map-style"):
        train(toy_dataset().to_iterable_dataset())
    with pytest.raises(ValueError, match="no sample"):
        train(toy_dataset().select([]))
    with pytest.raises(ValueError, match=r"got a DatasetDict. Give one of its splits \(train, test\)"):
        train(datasets.DatasetDict(train=toy_dataset(), test=toy_dataset()))
    with pytest.raises(ValueError, match="got a DataFrame. Make one of it: `datasets.Dataset.from_pandas"):
        train(toy_dataset().to_pandas())
    with pytest.raises(ValueError, match="got a str. Load the file first"):
        train("train.csv")
    with pytest.raises(ValueError, match="requires a train_dataset"):
        train(None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clear_gamma": 1.1}, r"clear_gamma.*\[0, 1\]; got 1.1"),
        ({"clear_loss_source": "online", "clear_ensemble_source": "epoch"}, "leave one of them out"),
        ({"clear_loss_source": "step"}, "'epoch' or 'online'; got 'step'"),
        ({"clear_min_clean_probability": 1.1}, r"clear_min_clean_probability.*\[0, 1\].*; got 1.1"),
        ({"clear_gamma": float("nan")}, r"\[0, 1\]; got nan"),
        ({"clear_ensemble_size": 0}, "1 or above; got 0.*clear_consistency_weight=0"),
        ({"clear_ensemble_size": 1.5}, "whole number"),
        ({"clear_consistency_weight": -1}, "0 or above; got -1"),
        ({"clear_consistency_weight": float("nan")}, "0 or above"),
        ({"clear_consistency_weight": float("inf")}, "at most 1e.06; got inf"),
        ({"clear_consistency_weight": 10**400}, "at most 1e.06; got a number of hundreds of digits"),
        ({"clear_ensemble_temperature": float("inf")}, "at most 1e.06; got inf"),
        ({"clear_ensemble_temperature": 0}, "0.01 or above; got 0"),
        ({"clear_ensemble_size": float("inf")}, "whole number, 1 or above.*; got inf"),
        ({"clear_ensemble_size": None}, "has to be a number; got None"),
        ({"clear_loss": "gce", "clear_loss_kwargs": '{"q": Infinity}'}, "'q'.*up to 1e.06; got inf"),
        ({"clear_loss": "sce", "clear_loss_kwargs": {"alpha": float("nan")}}, "'alpha'.*; got nan"),
        ({"clear_loss": "elr", "clear_loss_kwargs": {"elr_weight": "3"}}, "`elr_weight`.*has to be a number; got '3'"),
        ({"clear_loss": "elr", "clear_ensemble_size": 1}, "'elr' needs a mean of 2 predictions or more.*got 1"),
        ({"probe_learning_rate": float("inf")}, "at most 1e.06; got inf"),
        ({"probe_feature_memory": float("inf")}, "at most 1e.06; got inf"),
        ({"probe_epochs": 10**400}, "at most 2147483647; got a number"),
        ({"clear_warmup_epochs": -1}, "0 or above; got -1"),
        ({"clear_warmup_epochs": 0.5}, "whole number"),
        ({"clear_ensemble_source": "batch"}, "'epoch', 'online', 'step'; got 'batch'"),
    ],
)
def test_arguments_out_of_range(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        ClearTrainingArguments(output_dir=str(tmp_path), **preset("clear") | arguments)


@pytest.mark.parametrize("setting", ["lora_alpha", "lora_dropout"])
def test_settings_of_lora_are_finite(setting):
    for value in (float("inf"), float("nan"), -1):
        with pytest.raises(ValueError, match=f"`{setting}` has to be"):
            ClearLoraConfig(task_type="SEQ_CLS", **{setting: value})


@pytest.mark.parametrize("config", [{"problem_type": "multi_label_classification"}, {"num_labels": 1}], ids=str)
def test_tasks_without_one_class_a_sample(training_arguments, config):
    with pytest.raises(ValueError, match="one class a sample"):
        ClearTrainer(lora_model(**config), training_arguments(), train_dataset=toy_dataset())


def test_a_collator_has_to_return_a_dict(training_arguments):
    trainer = ClearTrainer(lora_model(), training_arguments(), train_dataset=toy_dataset(), data_collator=tuple)
    with pytest.raises(ValueError, match="collator that returns a dict"):
        trainer.train()


def test_label_names_are_those_after_collation(training_arguments):
    data = toy_dataset(8).rename_column("labels", "label")
    padded = lambda items: collate([{**item, "labels": item["label"]} for item in items])  # noqa: E731
    arguments = training_arguments(label_names=["label"])
    with pytest.raises(ValueError, match="The collator gives no 'label', which `label_names` says.*'labels'"):
        ClearTrainer(lora_model(), arguments, train_dataset=data, data_collator=padded).train()


def test_several_gpus_in_one_process(training_arguments, caplog):
    arguments = training_arguments()
    arguments._n_gpu = 2
    with caplog.at_level(logging.WARNING):
        trainer = ClearTrainer(lora_model(), arguments, train_dataset=toy_dataset(), data_collator=collate)
    assert trainer.args.n_gpu == 1 and trainer.get_train_dataloader().total_batch_size == 8
    assert "accelerate launch" in caplog.text
