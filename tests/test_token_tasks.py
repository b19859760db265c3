"""Labels on tokens and language models: losses, training, and what is found or refused."""

from dataclasses import dataclass

import datasets
import numpy as np
import pytest
import torch
from helpers.token_tasks import TOKEN_TASKS, seq2seq, token_classification, trainer_of
from transformers import (
    BartForConditionalGeneration,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
)

from hf_clear import (
    CleanProbabilityCallback,
    CleanProbabilityEstimate,
    ClearArguments,
    ClearLoraConfig,
    ClearMixin,
    per_sample_losses,
)
from hf_clear.metrics import detection_metrics
from hf_clear.refit import LOSS, TARGET
from hf_clear.routing import route, sample_gates


class Seq2SeqClearTrainer(ClearMixin, Seq2SeqTrainer):
    pass


@dataclass
class Seq2SeqClearArguments(ClearArguments, Seq2SeqTrainingArguments):
    pass


def token_losses(model, batch, shift: bool) -> list[float]:
    """The mean loss of each sample's labelled tokens, token by token."""
    with torch.no_grad():
        log_p = model.eval()(**batch).logits.log_softmax(-1)
    means = []
    for row, labels in enumerate(batch["labels"].tolist()):
        losses = [
            -log_p[row, position - shift, label].item()
            for position, label in enumerate(labels)
            if label != -100 and position - shift >= 0
        ]
        means.append(sum(losses) / len(losses))
    return means


@pytest.mark.parametrize("task", TOKEN_TASKS)
def test_per_sample_losses_are_means_over_labelled_tokens(training_arguments, task):
    trainer = trainer_of(task, training_arguments(TrainingArguments), Trainer, size=6)
    expected = []
    for item in trainer.train_dataset:
        expected += token_losses(trainer.model, trainer.data_collator([item]), task in ("llama", "gpt2"))
    assert per_sample_losses(trainer) == pytest.approx(expected, rel=1e-4)


# With the other heads stock Trainer sums what it accumulates; for GPT-2 it counts one token a row too many.
@pytest.mark.parametrize(
    "task,accumulation", [("token classification", 1), ("llama", 1), ("llama", 3), ("t5", 1), ("bart", 1)]
)
def test_with_open_gates_token_tasks_train_as_under_stock_trainer(training_arguments, task, accumulation):
    arguments = {"gradient_accumulation_steps": accumulation, "per_device_train_batch_size": 4, "num_train_epochs": 1}
    stock = trainer_of(task, training_arguments(TrainingArguments, **arguments), Trainer)
    stock.train()
    ours = trainer_of(task, training_arguments(clear_warmup_epochs=9, **arguments))
    ours.train()
    theirs = dict(stock.model.named_parameters())
    for name, parameter in ours.model.named_parameters():
        assert torch.allclose(parameter, theirs[name], rtol=0, atol=1e-6), name
    assert ours.state.log_history[0]["loss"] == pytest.approx(stock.state.log_history[0]["loss"], rel=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("task", TOKEN_TASKS)
def test_token_tasks_route_with_targets_of_the_step(training_arguments, task, smoothing):
    arguments = training_arguments(clear_warmup_epochs=1, num_train_epochs=3, label_smoothing_factor=smoothing)
    trainer = trainer_of(task, arguments)
    trainer.train()
    assert trainer.ensemble_source == "step" and trainer.sample_store.targets is None
    table = trainer.clean_probabilities()
    assert table.column_names == ["sample_index", "clean_probability", "loss"]
    assert np.isfinite(table["loss"]).all()
    assert any("consistency" in entry for entry in trainer.state.log_history)
    own = ["is_label_issue", "label_score", "reasons"]
    assert set(trainer.label_issues().column_names) == {*table.column_names, *own}


def test_a_sentence_without_a_label_does_no_harm(training_arguments, caplog):
    trainer = trainer_of(
        "token classification",
        training_arguments(clear_warmup_epochs=1, num_train_epochs=3, per_device_train_batch_size=1),
    )
    rows = list(trainer.train_dataset)
    rows[5]["labels"] = [-100] * len(rows[5]["labels"])
    trainer.train_dataset = datasets.Dataset.from_list(rows)
    trainer.train()
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
    assert np.isnan(trainer.clean_probabilities()["clean_probability"][5]) and "1 sample (index 5)" in caplog.text
    assert trainer.sample_store.clean_probability[5] == 0 and "without any labelled token" in caplog.text


def test_consistency_of_tokens_by_hand(training_arguments):
    """One step, one batch of 3 sentences, gates closed at random: means over labelled tokens of the whole batch."""
    trainer = trainer_of(
        "token classification",
        training_arguments(
            clear_warmup_epochs=0,
            num_train_epochs=1,
            learning_rate=0.0,
            clear_consistency_weight=0.7,
            clear_ensemble_temperature=0.5,
            clear_ensemble_size=2,
        ),
        size=3,
        callbacks=[CleanProbabilityCallback(lambda evidence: CleanProbabilityEstimate(np.array([0.9, 0.4, 0.6])))],
    )
    for name, parameter in trainer.model.named_parameters():
        if "clear_adapter_up" in name:
            parameter.data.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    trainer.train()

    model, batch = trainer.model.eval(), trainer.data_collator(list(trainer.train_dataset))
    labels, probability = batch.pop("labels"), 0.9 * torch.tensor([0.9, 0.4, 0.6])

    def routed(*draw: int) -> torch.Tensor:
        gates = sample_gates(probability, 2, torch.arange(3), (trainer.args.seed, 0, *draw))
        with torch.no_grad(), route(model, gates):
            return model(**batch).logits

    ensemble = sum(routed(TARGET, member).softmax(-1) for member in range(2)) / 2
    target = ensemble**2 / (ensemble**2).sum(-1, keepdim=True)
    log_p = routed(LOSS).log_softmax(-1)
    labelled = [(i, t) for i in range(3) for t in range(labels.shape[1]) if labels[i, t] != -100]
    cross_entropy = -sum(log_p[i, t, labels[i, t]] for i, t in labelled) / len(labelled)
    consistency = -sum((target[i, t] * log_p[i, t]).sum() for i, t in labelled) / len(labelled)
    logs = trainer.state.log_history
    assert [x["cross_entropy"] for x in logs if "loss" in x][0] == pytest.approx(cross_entropy.item(), rel=1e-5)
    assert [x["consistency"] for x in logs if "loss" in x][0] == pytest.approx(consistency.item(), rel=1e-5)


def test_sentences_with_wrong_token_labels_are_found(training_arguments):
    _, data, _ = token_classification(120)
    wrong = np.random.default_rng(0).random(len(data)) < 0.3
    rows = list(data)
    for row in np.flatnonzero(wrong):
        labels = [-100 if label == -100 else (label + 1) % 3 for label in rows[row]["labels"]]
        rows[row] = {**rows[row], "labels": labels}
    arguments = training_arguments(clear_warmup_epochs=4, num_train_epochs=6)
    trainer = trainer_of("token classification", arguments, config_cls=ClearLoraConfig)
    trainer.train_dataset = datasets.Dataset.from_list(rows)
    trainer.train()
    metrics = detection_metrics(np.array(trainer.clean_probabilities()["clean_probability"]), wrong)
    assert metrics["detection_auroc"] > 0.9


@pytest.mark.parametrize("cls,name", [(T5ForConditionalGeneration, "t5"), (BartForConditionalGeneration, "bart")])
def test_seq2seq_trainer_with_generation_routes_all_the_same(training_arguments, cls, name):
    model, data, collator = seq2seq(12, cls, name)
    trainer = Seq2SeqClearTrainer(
        model,
        training_arguments(
            Seq2SeqClearArguments,
            predict_with_generate=True,
            generation_max_length=6,
            eval_strategy="epoch",
            clear_warmup_epochs=1,
            num_train_epochs=2,
        ),
        train_dataset=data,
        eval_dataset=data,
        data_collator=collator,
        peft_config=ClearLoraConfig(task_type="SEQ_2_SEQ_LM", r=4),
    )
    trainer.train()
    assert len(trainer.clean_probabilities()) == 12


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"clear_ensemble_source": "epoch"}, "every token has a label. Use 'step'"),
        ({"clear_estimator": "knn"}, "'knn' compares samples by their class label"),
        ({"clear_estimator": "gaussian_mixture+per_class_gaussian_mixture"}, "compares samples by their class label"),
        ({"clear_routing": "oracle"}, "one true label a sample"),
        ({"clear_routing": "class_balanced"}, "needs one label for each sample, and here every token has one"),
    ],
)
def test_what_token_tasks_can_not_do(training_arguments, arguments, message):
    trainer = trainer_of("token classification", training_arguments(**arguments))
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize(
    "labels,message",
    [
        ([-100, 0, 3], "label of token 2 of sample 1 is 3. It has to be 0 to 2"),
        ([-100, -1, 0], "label of token 1 of sample 1 is -1"),
        ([-100, 0.5, 1.0], "labels of sample 1 have to be one class number for each token"),
    ],
)
def test_token_labels_that_are_no_classes(training_arguments, labels, message):
    trainer = trainer_of("token classification", training_arguments())
    rows = [{"input_ids": [5, 6, 7], "labels": [-100, 0, 1]}, {"input_ids": [5, 6, 7], "labels": labels}]
    trainer.train_dataset = [dict(row) for row in rows]
    with pytest.raises(ValueError, match=message):
        trainer.train()
