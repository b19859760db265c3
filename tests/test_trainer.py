import json
import logging
import os

import datasets
import numpy as np
import pytest
import torch
from helpers.toy import NUM_LABELS, NUM_LAYERS, collate, randomize_adapters, tiny_bert, toy_dataset
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import (
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from hf_clear import (
    CleanProbabilityCallback,
    CleanProbabilityEstimate,
    ClearAdapterConfig,
    ClearBitFitConfig,
    ClearLoraConfig,
    ClearPromptConfig,
    ClearTrainer,
    ClearTrainingArguments,
    gaussian_mixture,
    per_sample_losses,
)
from hf_clear.estimators import SampleEvidence
from hf_clear.losses import cross_entropy
from hf_clear.metrics import detection_metrics
from hf_clear.noise import inject_label_noise
from hf_clear.refit import LOSS, TARGET
from hf_clear.routing import route, sample_gates
from hf_clear.sample_index import SAMPLE_INDEX, indexed_dataloader


def lora_model(**config) -> PeftModel:
    model = get_peft_model(tiny_bert(**config), ClearLoraConfig(task_type="SEQ_CLS", r=4))
    randomize_adapters(model)
    return model


def estimate_of(probability) -> CleanProbabilityCallback:
    """A callback whose estimator returns the given clean probabilities, whatever the losses."""

    def estimator(evidence: SampleEvidence) -> CleanProbabilityEstimate:
        shape = evidence.losses.shape
        return CleanProbabilityEstimate(np.broadcast_to(np.asarray(probability, dtype=float), shape).copy())

    return CleanProbabilityCallback(estimator)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def assert_same_weights(first: dict, second: dict) -> None:
    assert first.keys() == second.keys() and first
    for name in first:
        assert torch.equal(first[name], second[name]), name


def losses_of(trainer: Trainer, key: str = "loss") -> list[float]:
    return [entry[key] for entry in trainer.state.log_history if key in entry]


# ---- Equality with stock Trainer ----


@pytest.mark.parametrize("k", [0, 1, 9])
def test_open_gates_without_consistency_equal_stock_trainer_bit_for_bit(training_arguments, k, caplog):
    """Dropout on, shuffled, a smaller last batch; refits happen (k < 3) and leave no trace."""
    data, clear = toy_dataset(27), {"clear_warmup_epochs": k, "clear_gamma": 1.0, "clear_consistency_weight": 0.0}
    stock = Trainer(lora_model(), training_arguments(TrainingArguments), train_dataset=data, data_collator=collate)
    stock.train()
    ours = ClearTrainer(
        lora_model(),
        training_arguments(**clear),
        train_dataset=data,
        data_collator=collate,
        callbacks=[estimate_of(1.0)],
    )
    with caplog.at_level(logging.WARNING):
        ours.train()
    assert ours.sample_store.is_fitted == (k < 3)
    assert ("the mixture is never fitted" in caplog.text) == (k >= 3)
    assert losses_of(ours) == losses_of(stock)
    assert_same_weights(weights(ours.model), weights(stock.model))


class UnlikeTransformers(nn.Module):
    """No config, tuple outputs, a label that is a float: what users of a plain Trainer bring along."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 1)

    def forward(self, x, target):
        prediction = self.linear(x).squeeze(-1)
        return (prediction - target).square().mean(), prediction


@pytest.mark.parametrize("accumulation", [1, 3])
def test_without_routable_modules_it_is_a_strict_pass_through(training_arguments, accumulation, caplog):
    generator = torch.Generator().manual_seed(0)
    data = [{"x": torch.rand(3, generator=generator), "target": torch.rand((), generator=generator)} for _ in range(11)]

    def train(cls) -> Trainer:
        arguments = training_arguments(
            TrainingArguments,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=accumulation,
            label_names=["target"],
            eval_strategy="epoch",
        )
        trainer = cls(UnlikeTransformers(), arguments, train_dataset=data, eval_dataset=data[:4])
        trainer.train()
        return trainer

    stock = train(Trainer)
    with caplog.at_level(logging.WARNING):
        ours = train(ClearTrainer)
    assert caplog.text.count("no PEFT module that can be routed") == 1
    assert_same_weights(weights(ours.model), weights(stock.model))
    assert losses_of(ours) == losses_of(stock) and losses_of(ours, "eval_loss") == losses_of(stock, "eval_loss")
    assert not any(isinstance(callback, CleanProbabilityCallback) for callback in ours.callback_handler.callbacks)
    ours.add_callback(CleanProbabilityCallback())  # has nothing to do here, and does nothing
    ours.train()
    assert "loss_is_scaled_for_ga" not in vars(ours)
    assert SAMPLE_INDEX not in next(iter(ours.get_train_dataloader()))
    assert not os.listdir(ours.args.output_dir)


@pytest.mark.parametrize("arguments", [{"bf16": True}, {"label_smoothing_factor": 0.1}], ids=str)
def test_autocast_and_label_smoothing_are_those_of_stock_trainer(training_arguments, arguments):
    clear = {"clear_warmup_epochs": 1, "clear_gamma": 1.0, "clear_consistency_weight": 0.0, "learning_rate": 1e-3}
    stock = Trainer(
        lora_model(),
        training_arguments(TrainingArguments, learning_rate=1e-3, **arguments),
        train_dataset=toy_dataset(),
        data_collator=collate,
    )
    stock.train()
    ours = ClearTrainer(
        lora_model(),
        training_arguments(**clear, **arguments),
        train_dataset=toy_dataset(),
        data_collator=collate,
        callbacks=[estimate_of(1.0)],
    )
    ours.train()
    assert losses_of(ours) == pytest.approx(losses_of(stock), abs=2e-5)
    for name, weight in weights(stock.model).items():
        assert torch.allclose(weights(ours.model)[name], weight, atol=1e-4), name


def test_evaluation_is_deterministic_unrouted_and_needs_no_training_set(training_arguments):
    model = lora_model()
    stock = Trainer(model, training_arguments(TrainingArguments), data_collator=collate).predict(toy_dataset(9))
    ours = ClearTrainer(model, training_arguments(TrainingArguments), data_collator=collate)
    for _ in range(2):
        predicted = ours.predict(toy_dataset(9))
        assert np.array_equal(predicted.predictions, stock.predictions)
        assert predicted.metrics["test_loss"] == stock.metrics["test_loss"]


# ---- The loss ----


@pytest.mark.parametrize("source", ["epoch", "step"])
def test_loss_equals_a_computation_by_hand(training_arguments, source):
    """3 samples, eval-mode dropout (none in the model), routed cross entropy + λ · consistency, and their gradients."""
    model = lora_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    probability, gamma, weight, size = torch.tensor([0.9, 0.4, 0.6]), 0.8, 0.7, 3
    trainer = ClearTrainer(
        model,
        training_arguments(
            clear_gamma=gamma,
            clear_consistency_weight=weight,
            clear_ensemble_size=size,
            clear_ensemble_source=source,
            clear_warmup_epochs=0,
            num_train_epochs=1,
            learning_rate=0.0,  # the weights that the loss saw are still there after training
        ),
        train_dataset=toy_dataset(3),
        data_collator=collate,
        callbacks=[estimate_of(probability)],
    )
    gradients = {}

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
            gradients.update({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})

    trainer.args.max_grad_norm = 0.0
    trainer.add_callback(Keep())
    trainer.train()

    index = torch.arange(3)
    batch = collate(list(toy_dataset(3)))
    labels = batch.pop("labels")
    key = (trainer.args.seed, 0)

    def routed(*draw: int) -> torch.Tensor:
        gates = sample_gates(gamma * probability, NUM_LAYERS, index, (*key, *draw))
        with route(model, gates):
            return model(**batch).logits

    with torch.no_grad():
        ensemble = sum(routed(TARGET, member).softmax(-1) for member in range(size)) / size
    model.zero_grad()
    gates = sample_gates(gamma * probability, NUM_LAYERS, index, (*key, LOSS))
    with route(model, gates):
        log_p = model(**batch).logits.log_softmax(-1)
        ce = -sum(log_p[i, labels[i]] for i in range(3)) / 3
        consistency = -sum(ensemble[i, c] * log_p[i, c] for i in range(3) for c in range(NUM_LABELS)) / 3
        (ce + weight * consistency).backward()

    assert losses_of(trainer)[0] == pytest.approx((ce + weight * consistency).item(), rel=1e-5)
    assert losses_of(trainer, "cross_entropy")[0] == pytest.approx(ce.item(), rel=1e-5)
    assert losses_of(trainer, "consistency")[0] == pytest.approx(consistency.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(parameter.grad, gradients[name], atol=1e-6), name


def test_online_the_targets_are_a_running_mean_of_what_training_predicts_anyway(training_arguments):
    """Without dropout and with learning rate 0, the warm-up predicts `p0` (no gates), epoch 1 `p1` and epoch 2 `p2`."""
    model = lora_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    dataset, size, evidence, forwards = toy_dataset(3), 3, [], []

    def estimator(given: SampleEvidence) -> CleanProbabilityEstimate:
        evidence.append(given)
        return CleanProbabilityEstimate(np.array([0.9, 0.4, 0.6]))

    trainer = ClearTrainer(
        model,
        training_arguments(
            clear_warmup_epochs=1, clear_ensemble_size=size, clear_loss_source="online", learning_rate=0.0
        ),
        train_dataset=dataset,
        data_collator=collate,
        callbacks=[CleanProbabilityCallback(estimator)],
    )
    assert trainer.ensemble_source == "online"
    hook = model.register_forward_hook(lambda *args: forwards.append(1))
    trainer.train()
    hook.remove()
    assert len(forwards) == 3 + 1, "a forward pass a step, and one before training that checks the routing"

    batch = collate(list(dataset))
    labels = batch.pop("labels")

    def predicted(step: int) -> torch.Tensor:
        gates = sample_gates(0.9 * torch.tensor([0.9, 0.4, 0.6]), NUM_LAYERS, torch.arange(3), (7, step, LOSS))
        with torch.no_grad(), route(model, gates if step else torch.ones_like(gates)):
            return model(**batch).logits.softmax(-1)

    p0, p1, p2 = map(predicted, range(3))
    after = [p0, p0 + (p1 - p0) / size]
    for given, mean in zip(evidence, after, strict=True):
        torch.testing.assert_close(torch.from_numpy(given.probabilities.copy()), mean)
        expected = -mean.gather(1, labels.unsqueeze(1)).squeeze(1).log()
        torch.testing.assert_close(torch.from_numpy(given.losses.copy()), expected)
    torch.testing.assert_close(trainer.sample_store.targets, after[1] + (p2 - after[1]) / size)
    for target, prediction, logged in zip(after, (p1, p2), losses_of(trainer, "consistency"), strict=True):
        assert logged == pytest.approx(-(target * prediction.log()).sum().item() / 3, rel=1e-4)


@pytest.mark.parametrize("losses", ["epoch", "online"])
def test_online_samples_that_training_has_not_seen_are_predicted(training_arguments, losses):
    """The last batch of 3 is dropped; without warm-up, nothing was seen before the first refit."""
    for warmup in (0, 1):
        trainer = ClearTrainer(
            lora_model(),
            training_arguments(
                clear_warmup_epochs=warmup, num_train_epochs=2, dataloader_drop_last=True, clear_loss_source=losses
            ),
            train_dataset=toy_dataset(27),
            data_collator=collate,
        )
        trainer.train()
        store = trainer.sample_store
        assert store.losses.isfinite().all() and (store.labels >= 0).all()
        torch.testing.assert_close(store.targets.sum(dim=1), torch.ones(27))


@pytest.mark.parametrize("workers", [0, 1])
def test_samples_with_a_small_clean_probability_take_no_part(training_arguments, workers):
    seen, probability = [], np.where(np.arange(24) % 3 == 0, 0.01, 0.9)

    class Recorder(ClearTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            index, labels = inputs[SAMPLE_INDEX], inputs["labels"]
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            seen.append((int(self.state.epoch), index.tolist(), labels.tolist(), loss.item()))
            return loss

    def train(**kwargs) -> None:
        seen.clear()
        trainer = Recorder(
            lora_model(),
            training_arguments(
                clear_warmup_epochs=1, clear_min_clean_probability=0.05, dataloader_num_workers=workers, **kwargs
            ),
            train_dataset=toy_dataset(24),
            data_collator=collate,
            callbacks=[estimate_of(probability)],
        )
        trainer.train()
        assert (trainer.sample_store.labels >= 0).all() and trainer.sample_store.losses.isfinite().all()

        assert [entry["left_out"] for entry in trainer.state.log_history if "left_out" in entry] == [8, 8]
        trainer.get_train_dataloader()  # another one changes nothing
        assert trainer._takes_part.sum() == 16
        seen_before = len(seen)
        trainer.args.clear_min_clean_probability = 0.0
        trainer.train()
        assert len({index for _, batch, _, _ in seen[seen_before:] for index in batch}) == 24, "a life of its own"
        del seen[seen_before:]

    train()
    for epoch in range(3):
        indices = sorted(index for of, batch, _, _ in seen if of == epoch for index in batch)
        assert indices == [index for index in range(24) if epoch == 0 or probability[index] > 0.5]
    train(per_device_train_batch_size=1)  # batches without any sample: the loss of the one that stays is 0
    assert len(seen) == 3 * 24
    for epoch, (index,), (label,), loss in seen:
        left_out = epoch > 0 and index % 3 == 0
        assert (label == -100, loss == 0) == (left_out, left_out)


def test_batches_of_samples_that_take_no_part(training_arguments, caplog):
    """They are no argument of a loss function, and are said where they are all."""

    def one_hot_loss(outputs, labels, num_items_in_batch=None):
        return (torch.nn.functional.one_hot(labels, NUM_LABELS) - outputs.logits).square().mean()

    def train(probability, **kwargs) -> ClearTrainer:
        trainer = ClearTrainer(
            lora_model(),
            training_arguments(
                clear_warmup_epochs=1, clear_min_clean_probability=0.5, per_device_train_batch_size=1, **kwargs
            ),
            train_dataset=toy_dataset(6),
            data_collator=collate,
            compute_loss_func=one_hot_loss,
            callbacks=[estimate_of(probability)],
        )
        trainer.train()
        return trainer

    assert np.isfinite(losses_of(train([0.1, 0.9] * 3), "compute_loss_func")).all() and not caplog.records
    assert losses_of(train(0.1))[6:] == [0.0] * 12 and "training stands still" in caplog.text
    with pytest.raises(ValueError, match="dispatch_batches"):
        train(0.9, accelerator_config={"dispatch_batches": True})


@pytest.mark.parametrize(
    "settings",
    [
        *({"clear_ensemble_source": source} for source in ("epoch", "online", "step")),
        {"clear_min_clean_probability": 0.5},
    ],
    ids=str,
)
def test_batch_8_and_8_accumulated_batches_give_one_trajectory(training_arguments, settings):
    """Routing and consistency on; 27 samples, so that the last step of an epoch is smaller."""

    def train(batch_size: int, accumulation: int) -> ClearTrainer:
        trainer = ClearTrainer(
            lora_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
            training_arguments(
                per_device_train_batch_size=batch_size,
                gradient_accumulation_steps=accumulation,
                clear_warmup_epochs=1,
                optim="sgd",
                **settings,
            ),
            train_dataset=toy_dataset(27),
            data_collator=collate,
            callbacks=[estimate_of(np.resize([0.9, 0.6, 0.1], 27))]
            if "clear_min_clean_probability" in settings
            else [],
        )
        trainer.train()
        return trainer

    whole = train(8, 1)
    for split in (train(1, 8), train(2, 4)):
        assert losses_of(split) == pytest.approx(losses_of(whole), abs=1e-4)
        for name, weight in weights(whole.model).items():
            assert torch.allclose(weights(split.model)[name], weight, atol=1e-5), name


def test_activation_checkpointing_changes_nothing(training_arguments):
    def train(**kwargs) -> dict[str, torch.Tensor]:
        trainer = ClearTrainer(
            lora_model(),
            training_arguments(clear_warmup_epochs=1, **kwargs),
            train_dataset=toy_dataset(),
            data_collator=collate,
        )
        trainer.train()
        return weights(trainer.model)

    plain = train()
    for reentrant in (False, True):
        assert_same_weights(
            train(gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": reentrant}), plain
        )


# ---- Clean probabilities ----


def test_the_mixture_is_refitted_at_every_epoch_after_the_warm_up(training_arguments):
    fitted = []

    class Record(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            fitted.append(trainer.sample_store.fitted_epoch)

    trainer = ClearTrainer(
        lora_model(),
        training_arguments(num_train_epochs=4, clear_warmup_epochs=2),
        train_dataset=toy_dataset(24),
        data_collator=collate,
        callbacks=[Record()],
    )
    with pytest.raises(RuntimeError, match="at the beginning of epoch 3"):
        trainer.clean_probabilities()
    trainer.train()
    assert fitted == [-1] * 6 + [2] * 3 + [3] * 3
    for key in ("clean_fraction", "mixture_mean_clean", "mixture_separation"):
        assert len(losses_of(trainer, key)) == 2


def test_clean_probabilities_find_the_wrong_labels(training_arguments):
    data, report = inject_label_noise(toy_dataset(400), "symmetric", 0.2, label_column="labels")
    wrong = np.array(data["labels"]) != np.array(data["true_label"])
    trainer = ClearTrainer(
        tiny_bert(initializer_range=0.2),
        training_arguments(num_train_epochs=4, clear_warmup_epochs=3),
        train_dataset=data,
        data_collator=collate,
        peft_config=ClearLoraConfig(task_type="SEQ_CLS"),
    )
    trainer.train()
    table = trainer.clean_probabilities().to_pandas()
    assert list(table.columns) == ["sample_index", "given_label", "clean_probability", "loss"]
    assert list(table.sample_index) == list(range(400)) and list(table.given_label) == data["labels"]
    assert np.allclose(table.clean_probability, gaussian_mixture(table.loss.to_numpy()).clean_probability, atol=1e-6)
    found = detection_metrics(table.clean_probability, wrong)
    assert found["detection_auroc"] > 0.97 and found["detection_recall"] > 0.9

    issues = trainer.label_issues().to_pandas()
    assert set(issues.sample_index) == set(np.flatnonzero(table.clean_probability < 0.5))
    assert issues.clean_probability.is_monotonic_increasing
    assert wrong[issues.sample_index[:20]].all(), "the worst come first"


def test_per_sample_losses_work_with_a_stock_trainer_and_leave_no_trace(training_arguments):
    data, model = toy_dataset(11), lora_model()
    trainer = Trainer(
        model,
        training_arguments(TrainingArguments, per_device_eval_batch_size=4, train_sampling_strategy="group_by_length"),
        train_dataset=data,
        data_collator=collate,
    )
    model.train()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    losses = per_sample_losses(trainer)
    assert torch.equal(torch.get_rng_state(), state) and model.training
    model.eval()
    batch = collate(list(data))
    with torch.no_grad():
        expected = cross_entropy(model(**batch).logits, batch["labels"])
    assert np.allclose(losses, expected, atol=1e-5)
    assert np.allclose(per_sample_losses(trainer, data.select([4, 2])), losses[[4, 2]], atol=1e-5)
    with pytest.raises(ValueError, match="has no labels: expected one of labels"):
        per_sample_losses(trainer, data.remove_columns("labels"))


@pytest.mark.parametrize("arguments", [{"dataloader_drop_last": True}, {"per_device_eval_batch_size": 64}], ids=str)
def test_every_sample_gets_its_loss(training_arguments, arguments):
    data = toy_dataset(27)
    trainer = ClearTrainer(
        lora_model(),
        training_arguments(clear_warmup_epochs=1, learning_rate=0.0, **arguments),
        train_dataset=data,
        data_collator=collate,
    )
    trainer.train()
    table = trainer.clean_probabilities()
    assert table["given_label"] == data["labels"]
    assert np.allclose(table["loss"], per_sample_losses(trainer, data), atol=1e-5) and min(table["loss"]) > 0


def test_low_precision_evaluation_rounds_the_losses_of_a_refit_alone(training_arguments):
    def train(**kwargs) -> ClearTrainer:
        trainer = ClearTrainer(
            lora_model(initializer_range=0.3),
            training_arguments(clear_warmup_epochs=1, learning_rate=0.0, clear_ensemble_source="step", **kwargs),
            train_dataset=toy_dataset(),
            data_collator=collate,
            callbacks=[estimate_of(0.5)],
        )
        trainer.train()
        return trainer

    exact, rounded = train(), train(bf16_full_eval=True)
    losses = [trainer.sample_store.losses for trainer in (exact, rounded)]
    assert not torch.equal(*losses)
    torch.testing.assert_close(*losses, rtol=0.05, atol=0.05)
    assert_same_weights(weights(exact.model), weights(rounded.model))
    assert losses_of(exact, "cross_entropy") == losses_of(rounded, "cross_entropy")
    assert losses_of(exact, "consistency") != losses_of(rounded, "consistency")


def test_your_own_callback_takes_the_place_of_the_default(training_arguments):
    trainer = ClearTrainer(
        lora_model(), training_arguments(clear_warmup_epochs=1), train_dataset=toy_dataset(), data_collator=collate
    )
    trainer.add_callback(estimate_of(0.25))
    trainer.train()
    assert set(trainer.clean_probabilities()["clean_probability"]) == {0.25}
    callbacks = trainer.callback_handler.callbacks
    assert sum(isinstance(callback, CleanProbabilityCallback) for callback in callbacks) == 1

    for probability, message in [(2.0, "got 2.0"), (np.ones((24, 1)), "shape")]:
        trainer.add_callback(estimate_of(probability) if np.ndim(probability) == 0 else estimate_shaped(probability))
        with pytest.raises(ValueError, match=message):
            trainer.train()
    trainer.add_callback(estimate_shaped(np.ones(5)))
    with pytest.raises(ValueError, match="5 clean probabilities for 24 samples"):
        trainer.train()

    unrouted = Trainer(
        tiny_bert(),
        training_arguments(TrainingArguments),
        train_dataset=toy_dataset(),
        data_collator=collate,
        callbacks=[CleanProbabilityCallback()],
    )
    with pytest.raises(ValueError, match="ClearTrainer alone"):
        unrouted.train()


def estimate_shaped(probability: np.ndarray) -> CleanProbabilityCallback:
    return CleanProbabilityCallback(lambda evidence: CleanProbabilityEstimate(probability))


# ---- The sample index ----


class Dictionaries(torch.utils.data.Dataset):
    def __init__(self, data):
        self.data = list(data)

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data[index]


def with_transform(data):
    return data.with_transform(lambda rows: dict(rows))


def collate_tensors(items):
    return collate([{key: torch.as_tensor(value).tolist() for key, value in item.items()} for item in items])


@pytest.mark.parametrize("kind", [lambda d: d, list, Dictionaries, with_transform, lambda d: d.with_format("torch")])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"remove_unused_columns": False},
        {"train_sampling_strategy": "group_by_length"},
        {"train_sampling_strategy": "batch_rebalance"},
        {"dataloader_drop_last": True},
        {"dataloader_num_workers": 1},
    ],
    ids=lambda arguments: next(iter(arguments), "default"),
)
def test_the_sample_index_survives(training_arguments, kind, arguments):
    data = toy_dataset(19)
    if arguments.get("remove_unused_columns", True):
        data = data.add_column("text", ["unused"] * 19)
    trainer = ClearTrainer(
        lora_model(),
        training_arguments(per_device_train_batch_size=4, **arguments),
        train_dataset=kind(data),
        data_collator=collate_tensors,
    )
    seen = []
    for batch in trainer.get_train_dataloader():
        for i, row in zip(batch[SAMPLE_INDEX].tolist(), batch["input_ids"].tolist()):
            seen.append(i)
            assert [token for token in row if token] == list(toy_dataset(19)[i]["input_ids"])
    assert sorted(seen) == list(range(19)) or (len(set(seen)) == 16 and "dataloader_drop_last" in arguments)


# ---- Models and adapters ----


def test_peft_config_wraps_the_model_as_in_trl(training_arguments):
    config = ClearLoraConfig(task_type="SEQ_CLS", r=4)
    before = config.to_dict()
    first, second = (
        ClearTrainer(**{**way, "args": training_arguments(), "train_dataset": toy_dataset(), "data_collator": collate})
        for way in (
            {"model": tiny_bert(), "peft_config": config},
            {"model_init": lambda: tiny_bert(), "peft_config": config},
        )
    )
    assert config.to_dict() == before, "the user's config was written into"
    for trainer in (first, second):
        trainer.train()
        assert isinstance(trainer.model, PeftModel) and trainer.is_routed
    with pytest.raises(ValueError, match="PeftModel already"):
        ClearTrainer(lora_model(), training_arguments(), peft_config=config)


@pytest.mark.parametrize(
    "config", [{"use_dora": True}, {"use_rslora": True}, {"target_modules": "all-linear"}], ids=str
)
def test_a_model_that_carries_lora_layers_is_routed_as_it_is(training_arguments, config):
    model = get_peft_model(tiny_bert(), LoraConfig(task_type="SEQ_CLS", **config))
    trainer = ClearTrainer(
        model, training_arguments(clear_warmup_epochs=1), train_dataset=toy_dataset(), data_collator=collate
    )
    trainer.train()
    assert trainer.is_routed and trainer.sample_store.fitted_epoch == 2

    native = tiny_bert()
    native.add_adapter(ClearLoraConfig(r=4))
    assert ClearTrainer(native, training_arguments(), train_dataset=toy_dataset(), data_collator=collate).is_routed


def test_the_settings_are_saved_beside_a_stock_adapter(training_arguments, tmp_path):
    trainer = ClearTrainer(
        tiny_bert(),
        training_arguments(clear_gamma=0.6, num_train_epochs=1),
        train_dataset=toy_dataset(),
        data_collator=collate,
        peft_config=ClearLoraConfig(task_type="SEQ_CLS"),
    )
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    sidecar = json.loads((tmp_path / "saved" / "clear_config.json").read_text())
    assert sidecar["clear_gamma"] == 0.6 and sidecar["clear_ensemble_size"] == 2
    assert json.loads((tmp_path / "saved" / "adapter_config.json").read_text())["peft_type"] == "LORA"
    loaded = PeftModel.from_pretrained(tiny_bert(), tmp_path / "saved")
    batch = collate(list(toy_dataset(4)))
    with torch.no_grad():
        assert torch.equal(loaded.eval()(**batch).logits, trainer.model.eval()(**batch).logits)


# ---- What can't be routed shows before the first step ----


def no_step(*args, **kwargs):
    raise AssertionError("a training step ran")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"target_modules": ["query", "word_embeddings"]}, "Embedding can't be routed.*target_modules"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights='olora'"),
        ({"bias": "all"}, "bias='all'"),
    ],
    ids=str,
)
def test_lora_that_can_not_be_bypassed(training_arguments, monkeypatch, config, message):
    monkeypatch.setattr(Trainer, "training_step", no_step)
    with pytest.raises(ValueError, match=message):
        ClearTrainer(
            get_peft_model(tiny_bert(), LoraConfig(task_type="SEQ_CLS", **config)),
            training_arguments(),
            train_dataset=toy_dataset(),
            data_collator=collate,
        ).train()


def test_modules_whose_rows_are_not_samples(training_arguments, monkeypatch):
    """DeBERTa sends its relative positions through the query projection too."""
    monkeypatch.setattr(Trainer, "training_step", no_step)
    config = DebertaV2Config(
        **{"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_labels": 4},
        **{"intermediate_size": 37, "relative_attention": True, "share_att_key": True, "pos_att_type": "p2c|c2p"},
    )
    model = DebertaV2ForSequenceClassification(config)
    trainer = ClearTrainer(
        model,
        training_arguments(),
        train_dataset=toy_dataset(),
        data_collator=collate,
        peft_config=ClearLoraConfig(task_type="SEQ_CLS"),
    )
    with pytest.raises(ValueError, match="its rows are not samples.*`target_modules`"):
        trainer.train()


# ---- Resume ----


LORA = ClearLoraConfig(task_type="SEQ_CLS", r=4)
OFFICIAL_ADAPTER = {
    "clear_estimator": "ema_gaussian_mixture+knn",
    "clear_ensemble_temperature": 0.5,
    "clear_warmup_random_routing": True,
    "clear_dropout_after_warmup": False,
}


@pytest.mark.parametrize(
    ("stop_at", "accumulation", "config", "settings"),
    [
        *((stop_at, 1, LORA, {}) for stop_at in (3, 7, 8, 10)),
        (5, 2, LORA, {}),
        (13, 1, LORA, {"clear_ensemble_source": "step"}),
        (13, 1, ClearAdapterConfig(task_type="SEQ_CLS"), OFFICIAL_ADAPTER),
        (10, 1, ClearBitFitConfig(task_type="SEQ_CLS"), {"clear_routing": "random"}),
        (10, 1, ClearPromptConfig(task_type="SEQ_CLS"), {"clear_ensemble_source": "step"}),
    ],
)
def test_a_resumed_run_equals_the_uninterrupted_one(
    training_arguments, tmp_path, stop_at, accumulation, config, settings
):
    """Stops in the warm-up, at its end, in mid-epoch and at the end of an epoch; dropout on."""

    def trainer(*callbacks, **kwargs) -> ClearTrainer:
        return ClearTrainer(
            tiny_bert(),
            training_arguments(
                num_train_epochs=4,
                clear_warmup_epochs=2,
                per_device_train_batch_size=6 // accumulation,
                gradient_accumulation_steps=accumulation,
                **settings,
                **kwargs,
            ),
            train_dataset=toy_dataset(24),
            data_collator=collate,
            peft_config=config,
            callbacks=list(callbacks),
        )

    whole = trainer()
    whole.train()

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_save = control.should_training_stop = state.global_step == stop_at

    trainer(Stop()).train()
    resumed = trainer()
    resumed.train(resume_from_checkpoint=os.path.join(resumed.args.output_dir, f"checkpoint-{stop_at}"))
    assert_same_weights(weights(resumed.model), weights(whole.model))
    for name in ("losses", "mean_losses", "clean_probability", "labels", "targets"):
        stored, expected = getattr(resumed.sample_store, name), getattr(whole.sample_store, name)
        if name == "targets" and settings.get("clear_ensemble_source") == "step":
            assert stored is expected is None
        else:
            assert torch.equal(stored, expected), name

    os.remove(os.path.join(resumed.args.output_dir, f"checkpoint-{stop_at}", "clear_state.safetensors"))
    with pytest.raises(FileNotFoundError, match="clear_state.safetensors is missing"):
        trainer().train(resume_from_checkpoint=os.path.join(resumed.args.output_dir, f"checkpoint-{stop_at}"))


def test_consistency_switched_on_in_mid_epoch_starts_at_the_next_refit(training_arguments):
    class SwitchOn(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            args.clear_consistency_weight = float(state.global_step >= 4)

    trainer = ClearTrainer(
        lora_model(),
        training_arguments(clear_warmup_epochs=1, clear_consistency_weight=0.0, clear_ensemble_source="epoch"),
        train_dataset=toy_dataset(),
        data_collator=collate,
        callbacks=[SwitchOn()],
    )
    trainer.train()
    logged = [entry["step"] for entry in trainer.state.log_history if "consistency" in entry]
    assert logged == [7, 8, 9]


def test_training_again_starts_again(training_arguments):
    trainer = ClearTrainer(
        lora_model(),
        training_arguments(clear_warmup_epochs=2),
        train_dataset=toy_dataset(),
        data_collator=collate,
    )
    trainer.train()
    assert trainer.sample_store.fitted_epoch == 2
    trainer.args.num_train_epochs = 1
    trainer.train()
    assert not trainer.sample_store.is_fitted


# ---- Bad input: an error before the first step that says what to do ----


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
        ({"clear_warmup_epochs": -1}, "0 or above; got -1"),
        ({"clear_warmup_epochs": 0.5}, "whole number"),
        ({"clear_ensemble_source": "batch"}, "'epoch', 'online', 'step'; got 'batch'"),
    ],
)
def test_arguments_out_of_range(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        ClearTrainingArguments(output_dir=str(tmp_path), **arguments)


@pytest.mark.parametrize("config", [{"problem_type": "multi_label_classification"}, {"num_labels": 1}], ids=str)
def test_tasks_without_one_class_a_sample(training_arguments, config):
    with pytest.raises(ValueError, match="one class a sample"):
        ClearTrainer(lora_model(**config), training_arguments(), train_dataset=toy_dataset())


def test_a_collator_has_to_return_a_dict(training_arguments):
    trainer = ClearTrainer(lora_model(), training_arguments(), train_dataset=toy_dataset(), data_collator=tuple)
    with pytest.raises(ValueError, match="collator that returns a dict"):
        trainer.train()


def test_several_gpus_in_one_process(training_arguments, caplog):
    arguments = training_arguments()
    arguments._n_gpu = 2
    with caplog.at_level(logging.WARNING):
        trainer = ClearTrainer(lora_model(), arguments, train_dataset=toy_dataset(), data_collator=collate)
    assert trainer.args.n_gpu == 1 and trainer.get_train_dataloader().total_batch_size == 8
    assert "accelerate launch" in caplog.text


def test_a_dataloader_of_ones_own(training_arguments):
    class Own(ClearTrainer):
        def get_train_dataloader(self):
            return Trainer.get_train_dataloader(self)

    class Indexed(ClearTrainer):
        def get_train_dataloader(self):
            return indexed_dataloader(self, self.train_dataset, "Training", 4, lambda data: None)

    with pytest.raises(RuntimeError, match="indexed_dataloader"):
        Own(lora_model(), training_arguments(), train_dataset=toy_dataset(), data_collator=collate).train()
    Indexed(lora_model(), training_arguments(), train_dataset=toy_dataset(), data_collator=collate).train()
