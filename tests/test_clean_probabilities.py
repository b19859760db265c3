"""Clean probabilities of a run: when they are fitted, from which losses, and what they find."""

import numpy as np
import pytest
import torch
from helpers.toy import collate, tiny_bert, toy_dataset
from helpers.trainers import assert_same_weights, estimate_of, lora_model, losses_of, weights
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_clear import (
    CleanProbabilityCallback,
    CleanProbabilityEstimate,
    ClearLoraConfig,
    ClearTrainer,
    gaussian_mixture,
    per_sample_losses,
)
from hf_clear.losses import cross_entropy
from hf_clear.metrics import detection_metrics
from hf_clear.noise import inject_label_noise


def estimate_shaped(probability: np.ndarray) -> CleanProbabilityCallback:
    return CleanProbabilityCallback(lambda evidence: CleanProbabilityEstimate(probability))


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
    every = trainer.label_issues(return_all=True).to_pandas().sort_values("sample_index")
    other = (every.predicted_label != every.given_label).to_numpy()
    assert set(issues.sample_index) == set(np.flatnonzero((table.clean_probability < 0.5).to_numpy() & other))
    assert len(issues) > 60, "the label that is most probable all the same is the exception"
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
