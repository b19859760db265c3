"""Evaluation results in the model card: of the model that is saved, on the data that they were measured on."""

import math
from pathlib import Path

from datasets import Dataset
from helpers.toy import collate, tiny_bert, toy_dataset
from huggingface_hub import ModelCard

from hf_clear import ClearLoraConfig, ClearTrainer

ACCURACIES = [0.5, 0.25, 0.75, 0.6, 0.7, 0.8]


def trainer_of(training_arguments, eval_dataset, train_dataset=None, measured=ACCURACIES, **arguments) -> ClearTrainer:
    """A trainer of 3 epochs whose evaluations find these accuracies, one after the other."""
    measured = iter(measured)
    return ClearTrainer(
        tiny_bert(),
        training_arguments(eval_strategy="epoch", save_strategy="epoch", clear_warmup_epochs=1, **arguments),
        train_dataset=train_dataset or toy_dataset(),
        data_collator=collate,
        eval_dataset=eval_dataset,
        peft_config=ClearLoraConfig(task_type="SEQ_CLS"),
        compute_metrics=lambda _: {"accuracy": next(measured), "nothing": math.nan, "said": "words"},
    )


def card_of(training_arguments, eval_dataset, then=None, **arguments) -> ModelCard:
    trainer = trainer_of(training_arguments, eval_dataset, **arguments)
    trainer.train()
    if then is not None:
        trainer.evaluate(then)
    return read_card(trainer)


def read_card(trainer: ClearTrainer) -> ModelCard:
    trainer.create_model_card()
    return ModelCard.load(Path(trainer.args.output_dir) / "README.md")


def values(card: ModelCard, metric: str = "accuracy") -> dict:
    return {r.dataset_split: r.metric_value for r in card.data.eval_results if r.metric_type == metric}


def test_evaluation_results_are_those_of_the_model_that_is_saved(training_arguments):
    data, best = toy_dataset(8), {"load_best_model_at_end": True, "metric_for_best_model": "accuracy"}
    best["greater_is_better"] = False
    last = card_of(training_arguments, data)
    assert values(last) == {None: 0.75}
    assert {result.metric_type for result in last.data.eval_results} == {"loss", "accuracy"}, "finite numbers"
    assert values(card_of(training_arguments, data, **best)) == {None: 0.25}
    after = card_of(training_arguments, data, then=toy_dataset(5), **best)
    assert values(after) == {None: 0.6}
    assert "| the evaluation set, 5 samples | Accuracy | 0.6 |" in after.text
    assert "achieves the following results" not in after.text, "said once"
    assert values(card_of(training_arguments, {"first": data, "test": data})) == {"first": 0.7, "test": 0.8}


def test_each_result_is_of_the_data_it_was_measured_on(training_arguments):
    """The names of the metrics don't say which data they are of: `predict` may use those of `evaluate`."""
    trainer = trainer_of(training_arguments, toy_dataset(8))
    trainer.train()
    trainer.predict(toy_dataset(5), metric_key_prefix="eval")
    card = read_card(trainer)
    assert values(card) == {None: 0.75} and "| the evaluation set, 8 samples | Accuracy | 0.75 |" in card.text


def test_an_evaluation_of_the_training_set_is_no_end_of_training(training_arguments):
    """`evaluate(train_dataset, metric_key_prefix="train")` logs `train_runtime`, as the end of training does."""
    best = {"load_best_model_at_end": True, "metric_for_best_model": "accuracy", "greater_is_better": False}
    trainer = trainer_of(training_arguments, toy_dataset(8), **best)
    trainer.train()
    trainer.evaluate(trainer.train_dataset, metric_key_prefix="train")
    assert values(read_card(trainer)) == {None: 0.25}
    trainer.evaluate()
    assert values(read_card(trainer)) == {None: 0.7}


def test_a_resumed_run_does_not_claim_data_that_it_has_not_seen(training_arguments):
    trainer_of(training_arguments, toy_dataset(8), num_train_epochs=2).train()
    resumed = trainer_of(training_arguments, toy_dataset(7), measured=[0.9], num_train_epochs=2)
    resumed.train(resume_from_checkpoint=True)
    card = read_card(resumed)
    assert values(card) == {None: 0.25}
    assert "8 samples" not in card.text and "7 samples" not in card.text


def test_only_evaluations_are_in_the_card(training_arguments):
    trainer = trainer_of(training_arguments, toy_dataset(8))
    trainer.train()
    trainer.evaluate(toy_dataset(5), metric_key_prefix="evaluation")
    assert values(read_card(trainer)) == {None: 0.75}


def test_a_part_of_the_training_set_is_not_named_as_its_split(training_arguments):
    """`train_test_split` leaves both parts the name of the whole."""
    data = toy_dataset(24)
    whole = Dataset(data.data, split="train")
    parts = whole.train_test_split(8, seed=0)
    trainer = trainer_of(training_arguments, parts["test"], train_dataset=parts["train"])
    trainer.train()
    assert values(read_card(trainer)) == {None: 0.75}
    trainer = trainer_of(training_arguments, Dataset(data.data, split="validation"), train_dataset=parts["train"])
    trainer.train()
    assert values(read_card(trainer)) == {"validation": 0.75}
