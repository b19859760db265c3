"""What users of `Trainer` bring along goes on working in a routed `ClearTrainer`."""

import os
from collections.abc import Callable

import numpy as np
import optuna
import pytest
import torch
import torch.nn.functional as F
from helpers.token_tasks import trainer_of
from helpers.toy import collate, tiny_bert, toy_dataset
from helpers.trainers import assert_same_weights, estimate_of, lora_model, losses_of, minimized_by, weights
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.loss.loss_utils import ForCausalLMLoss

from hf_clear import (
    ClearAdapterConfig,
    ClearBitFitConfig,
    ClearLoraConfig,
    ClearPromptConfig,
    ClearTrainer,
    TurnTrainer,
    TurnTrainingArguments,
    per_sample_losses,
)

OPEN_GATES = {"clear_warmup_epochs": 1, "clear_gamma": 1.0, "clear_consistency_weight": 0.0}
TIMES = ("runtime", "per_second")
OWN_LOGS = {"cross_entropy", "compute_loss_func"}


class Events(TrainerCallback):
    """Which events a callback sees, in which step; without the logs, to which refits add."""

    def __init__(self):
        self.seen: list[tuple[str, int]] = []


for _event in ("train_begin", "epoch_begin", "step_begin", "step_end", "evaluate", "save", "epoch_end", "train_end"):

    def _note(self, args, state, control, event=_event, **kwargs):
        self.seen.append((event, state.global_step))

    setattr(Events, f"on_{_event}", _note)


def accuracy(p) -> dict[str, float]:
    return {"accuracy": float((p.predictions == p.label_ids).mean())}


def most_probable(logits, labels):
    return logits.argmax(dim=-1)


def focal_loss(outputs, labels, num_items_in_batch=None) -> torch.Tensor:
    """One that divides by the number of labels in the optimizer step."""
    log_p = outputs.logits.log_softmax(-1).gather(1, labels.unsqueeze(1)).squeeze(1)
    return -((1 - log_p.exp()) ** 2 * log_p).sum() / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def mean_loss(outputs, labels, num_items_in_batch=None) -> torch.Tensor:
    """One that does not."""
    return F.cross_entropy(outputs.logits, labels, label_smoothing=0.3)


class OutOfMemory(TrainerCallback):
    """In the second epoch, at the first batch size."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.epoch > 1 and state.train_batch_size == 8:
            raise RuntimeError("CUDA out of memory.")


def sgd(model) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.3)
    return optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)


EVERY_EPOCH = {"eval_strategy": "epoch", "save_strategy": "epoch"}
# Arguments of the training, and what the trainer is given for a model.
FEATURES: dict[str, tuple[dict, Callable[[torch.nn.Module], dict]]] = {
    "metrics": (
        {"eval_strategy": "steps", "eval_steps": 2},
        lambda model: {"compute_metrics": accuracy, "preprocess_logits_for_metrics": most_probable},
    ),
    "early stopping": (
        {**EVERY_EPOCH, "load_best_model_at_end": True, "learning_rate": 0.3, "num_train_epochs": 8},
        lambda model: {"callbacks": [EarlyStoppingCallback(1)]},
    ),
    "several evaluation sets": (
        {**EVERY_EPOCH, "load_best_model_at_end": True, "metric_for_best_model": "eval_b_loss"},
        lambda model: {"eval_dataset": {"a": toy_dataset(9, seed=1), "b": toy_dataset(7, seed=2)}},
    ),
    "optimizers": ({}, lambda model: {"optimizers": sgd(model)}),
    "optimizer_cls_and_kwargs": (
        {},
        lambda model: {"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.3, "momentum": 0.5})},
    ),
    "auto_find_batch_size": ({"auto_find_batch_size": True}, lambda model: {"callbacks": [OutOfMemory()]}),
    "compute_loss_func": ({"label_smoothing_factor": 0.1}, lambda model: {"compute_loss_func": focal_loss}),
    "compute_loss_func, accumulated": (
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "eval_strategy": "epoch"},
        lambda model: {"compute_loss_func": focal_loss},
    ),
    "compute_loss_func, accumulated means": (
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
        lambda model: {"compute_loss_func": mean_loss},
    ),
}


@pytest.mark.parametrize("feature", FEATURES)
def test_open_gates_equal_stock_trainer_bit_for_bit(training_arguments, tmp_path, feature):
    """Weights, logs, events, predictions; refits happen and leave no trace."""
    arguments, given_for = FEATURES[feature]

    def train(trainer_cls, own_callbacks, **kwargs) -> tuple[Trainer, Events]:
        model, events = lora_model(), Events()
        given = {"eval_dataset": toy_dataset(9, seed=1), **given_for(model)}
        trainer = trainer_cls(
            model,
            training_arguments(output_dir=str(tmp_path / trainer_cls.__name__), **arguments, **kwargs),
            train_dataset=toy_dataset(27),
            data_collator=collate,
            callbacks=[*given.pop("callbacks", []), events, *own_callbacks],
            **given,
        )
        trainer.train()
        return trainer, events

    stock, stock_events = train(Trainer, [], cls=TrainingArguments)
    ours, events = train(ClearTrainer, [estimate_of(1.0)], **OPEN_GATES)
    assert ours.is_routed and ours.sample_store.is_fitted
    assert_same_weights(weights(ours.model), weights(stock.model))
    assert events.seen == stock_events.seen
    logs = [entry for entry in ours.state.log_history if "clean_fraction" not in entry]
    assert len(logs) == len(stock.state.log_history)
    for entry, expected in zip(logs, stock.state.log_history):
        assert entry.keys() - expected.keys() <= OWN_LOGS
        for key, value in expected.items():
            assert key.endswith(TIMES) or entry[key] == value, key
    predicted, expected = (trainer.predict(toy_dataset(5, seed=3)) for trainer in (ours, stock))
    assert np.array_equal(predicted.predictions, expected.predictions)
    for key, value in expected.metrics.items():
        assert key.endswith(TIMES) or predicted.metrics[key] == value, key

    # What the row is about has happened.
    if feature == "early stopping":
        assert ours.state.global_step < ours.state.max_steps
    if feature == "auto_find_batch_size":
        assert ours._train_batch_size < 8 and ours.sample_store.fitted_epoch == 2


def test_a_loss_function_of_a_causal_language_model_gets_the_labels_as_they_are(training_arguments):
    def shifting(outputs, labels, num_items_in_batch=None):
        return 2 * ForCausalLMLoss(outputs.logits, labels, outputs.logits.shape[-1], num_items_in_batch)

    def train(trainer_cls, callbacks, **kwargs) -> dict[str, torch.Tensor]:
        arguments = training_arguments(per_device_train_batch_size=3, gradient_accumulation_steps=2, **kwargs)
        trainer = trainer_of("gpt2", arguments, trainer_cls, compute_loss_func=shifting, callbacks=callbacks)
        trainer.train()
        return weights(trainer.model)

    assert_same_weights(
        train(ClearTrainer, [estimate_of(1.0)], **OPEN_GATES), train(Trainer, [], cls=TrainingArguments)
    )


def test_a_loss_function_takes_the_place_of_cross_entropy_alone(training_arguments):
    """Consistency stays, and the mixture looks at the cross entropy of each sample."""
    trainer = ClearTrainer(
        lora_model(),
        training_arguments(clear_warmup_epochs=1, clear_consistency_weight=0.7, learning_rate=0.0),
        train_dataset=toy_dataset(27),
        data_collator=collate,
        compute_loss_func=focal_loss,
    )
    minimized = minimized_by(trainer)
    trainer.train()
    own, consistency = losses_of(trainer, "compute_loss_func"), losses_of(trainer, "consistency")
    assert len(own) == 12 and len(consistency) == 8 and not losses_of(trainer, "cross_entropy")
    assert minimized == pytest.approx(np.add(own, [0.0] * 4 + [0.7 * c for c in consistency]), rel=1e-5)
    assert losses_of(trainer) == pytest.approx(own, rel=1e-5)
    expected = per_sample_losses(trainer, toy_dataset(27))
    assert np.allclose(trainer.clean_probabilities()["loss"], expected, atol=1e-5)
    assert trainer.evaluate(toy_dataset(27))["eval_loss"] < expected.mean() - 0.1, "a focal loss is smaller"


def test_turn_fine_tunes_with_a_loss_function(training_arguments):
    def fine_tuned(loss_function) -> dict[str, torch.Tensor]:
        trainer = TurnTrainer(
            tiny_bert(initializer_range=0.2),
            training_arguments(TurnTrainingArguments, num_train_epochs=1, probe_epochs=2),
            train_dataset=toy_dataset(48),
            data_collator=collate,
            compute_loss_func=loss_function,
        )
        trainer.train()
        return weights(trainer.model)

    stock = fine_tuned(None)
    assert_same_weights(fine_tuned(lambda outputs, labels, **_: F.cross_entropy(outputs.logits, labels)), stock)
    assert any(not torch.equal(weight, stock[name]) for name, weight in fine_tuned(mean_loss).items())


def test_models_that_take_no_arguments_of_the_loss(training_arguments):
    """Whose loss older versions of `Trainer` divide by the number of accumulated batches."""

    def train(batch_size: int, accumulation: int) -> dict[str, torch.Tensor]:
        trainer = ClearTrainer(
            lora_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
            training_arguments(
                per_device_train_batch_size=batch_size,
                gradient_accumulation_steps=accumulation,
                clear_warmup_epochs=1,
                optim="sgd",
                num_train_epochs=2,
            ),
            train_dataset=toy_dataset(),
            data_collator=collate,
        )
        trainer.model_accepts_loss_kwargs = False
        trainer.train()
        return weights(trainer.model)

    split = train(2, 4)
    for name, weight in train(8, 1).items():
        assert torch.allclose(split[name], weight, atol=1e-5), name


@pytest.mark.parametrize("config", [ClearLoraConfig, ClearAdapterConfig, ClearBitFitConfig, ClearPromptConfig])
def test_the_best_model_of_a_routed_run_is_reproduced_exactly(training_arguments, config):
    trainer = ClearTrainer(
        tiny_bert(initializer_range=0.2),
        training_arguments(
            **EVERY_EPOCH, load_best_model_at_end=True, metric_for_best_model="eval_loss", greater_is_better=True
        ),
        train_dataset=toy_dataset(),
        eval_dataset=toy_dataset(16, seed=1),
        data_collator=collate,
        peft_config=config(task_type="SEQ_CLS"),
    )
    trainer.train()
    evaluated = losses_of(trainer, "eval_loss")
    assert trainer.state.best_metric == max(evaluated) > evaluated[-1], "so that it is not the last one"
    assert trainer.evaluate()["eval_loss"] == trainer.state.best_metric


class PruneTheSecond(optuna.pruners.BasePruner):
    def prune(self, study, trial) -> bool:
        return trial.number == 1


@pytest.mark.parametrize("cls", [ClearTrainer, TurnTrainer])
def test_every_trial_of_a_hyperparameter_search_begins_anew(training_arguments, cls):
    """The first and the third have the same hyperparameters; the second is pruned after its first epoch."""
    name, values = ("clear_gamma" if cls is ClearTrainer else "probe_gce_q"), (0.7, 0.1, 0.7)
    arguments = {"clear_warmup_epochs": 1} if cls is ClearTrainer else {"cls": TurnTrainingArguments, "probe_epochs": 2}
    trainer = cls(
        args=training_arguments(**arguments, **EVERY_EPOCH, num_train_epochs=2),
        model_init=lambda trial: tiny_bert(initializer_range=0.2),
        peft_config=ClearLoraConfig(task_type="SEQ_CLS") if cls is ClearTrainer else None,
        train_dataset=toy_dataset(48),
        eval_dataset=toy_dataset(16, seed=1),
        data_collator=collate,
    )
    objectives: dict[int, list[float]] = {}

    def space(trial: optuna.Trial) -> dict[str, float]:
        objectives.setdefault(trial.number, [])
        return {name: values[trial.number], "per_device_train_batch_size": 12}

    def objective(metrics: dict[str, float]) -> float:
        number = max(objectives)
        assert getattr(trainer.args, name) == values[number]
        objectives[number].append(metrics["eval_loss"])
        return metrics["eval_loss"]

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    best = trainer.hyperparameter_search(
        space, objective, n_trials=3, direction="minimize", backend="optuna", pruner=PruneTheSecond()
    )
    assert [len(evaluated) for evaluated in objectives.values()] == [2, 1, 2] and objectives[0] == objectives[2]
    assert best.objective == objectives[0][-1]
    folder = trainer.args.output_dir
    runs = {run: sorted(os.listdir(os.path.join(folder, run))) for run in os.listdir(folder) if run.startswith("run-")}
    steps = trainer.state.global_step
    assert runs == {
        f"run-{number}": sorted(f"checkpoint-{step}" for step in (steps // 2, steps)) for number in (0, 2)
    }, "the pruned trial came to no checkpoint"


def test_a_trial_with_a_setting_out_of_its_range_is_refused(training_arguments):
    trainer = ClearTrainer(
        args=training_arguments(),
        model_init=lambda trial: lora_model(),
        train_dataset=toy_dataset(),
        eval_dataset=toy_dataset(8),
        data_collator=collate,
    )
    with pytest.raises(ValueError, match=r"`clear_gamma` has to be in \[0, 1\]; got 1.5"):
        trainer.hyperparameter_search(lambda trial: {"clear_gamma": 1.5}, n_trials=1, backend="optuna")
