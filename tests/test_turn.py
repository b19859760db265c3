"""TURN's phases: what each does, and what it leaves alone."""

import copy

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.toy import NUM_LABELS, collate, tiny_bert, toy_dataset
from helpers.turn import accuracy, assert_same, noisy_dataset, state_of
from scipy.special import softmax
from scipy.stats import norm
from sklearn.datasets import load_digits
from sklearn.mixture import GaussianMixture
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from hf_clear import ClearLoraConfig, TurnTrainer, TurnTrainingArguments
from hf_clear.noise import inject_label_noise


def test_probing_changes_the_head_and_nothing_else(turn):
    trainer = turn()
    before = state_of(trainer)
    metrics = trainer.linear_probe()
    after = state_of(trainer)
    assert {name for name in after if not torch.equal(before[name], after[name])} == {
        "classifier.weight",
        "classifier.bias",
    }
    assert_same({"weight": after["classifier.weight"]}, {"weight": trainer.probe.head.weight.detach()})
    losses = [entry["probe_loss"] for entry in trainer._logs if "probe_epoch" in entry]
    assert len(losses) == 6 and losses[-1] < losses[0] and metrics["probe_loss"] == losses[-1]
    assert metrics["probe_detection_auroc"] > 0.8
    # The model *is* the probe now.
    prediction = trainer.predict(trainer.train_dataset).predictions
    np.testing.assert_allclose(
        trainer.predict_probe(trainer.train_dataset).predictions, prediction, rtol=1e-4, atol=1e-5
    )


def test_mean_features_have_a_probe_of_their_own_and_the_head_is_probed_too(turn):
    head, mean = turn(), turn(probe_features="mean")
    for trainer in (head, mean):
        trainer.linear_probe()
    assert_same(state_of(head), state_of(mean))
    assert not np.array_equal(head.per_sample_losses(), mean.sample_store.losses.numpy())
    features = torch.from_numpy(mean.features())
    logits = mean.probe.mean(features).detach()
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(mean.train_dataset["labels"]), reduction="none")
    torch.testing.assert_close(mean.sample_store.losses, expected, rtol=1e-3, atol=1e-4)


def test_cleansing_equals_a_hand_computation(turn):
    trainer = turn(noisy_dataset(400), turn_threshold=0.7, turn_balance="none", probe_batch_size=8)
    trainer.linear_probe()
    metrics = trainer.cleanse()
    losses, labels = trainer.sample_store.losses.double().numpy(), np.array(trainer.train_dataset["labels"])
    clean = labels == np.array(trainer.train_dataset["true_label"])
    by_hand = np.zeros(400)
    for label in range(NUM_LABELS):
        rows = np.flatnonzero(labels == label)
        x = (losses[rows] - losses[rows].mean()) / losses[rows].std()
        mixture = GaussianMixture(2, random_state=0, max_iter=500).fit(x[:, None])
        means, stds = mixture.means_.ravel(), np.sqrt(np.maximum(mixture.covariances_.ravel(), 0.01))
        joint = mixture.weights_ * norm.pdf(x[:, None], means, stds)
        posterior = joint[:, means.argmin()] / joint.sum(axis=1)
        for row, loss in zip(rows, x):  # a smaller loss never means a smaller probability
            if loss <= means.min():
                by_hand[row] = posterior[(x >= loss) & (x <= x[x >= means.min()].min())].max()
            else:
                by_hand[row] = posterior[(x >= means.min()) & (x <= loss)].min()
    kept = np.flatnonzero(by_hand > 0.7)
    assert trainer.fine_tuning_samples.tolist() == kept.tolist() and 100 < len(kept) < 300
    assert metrics["cleanse_kept"] == metrics["cleanse_fine_tuning_samples"] == len(kept)
    assert metrics["cleanse_purity"] == pytest.approx(clean[kept].mean())
    assert metrics["cleanse_recall"] == pytest.approx(clean[kept].sum() / clean.sum())
    table = trainer.label_issues(return_all=True).to_pandas().set_index("sample_index").sort_index()
    differs = table["given_label"] != table["predicted_label"]  # the most probable label is no issue
    assert (table["is_label_issue"].to_numpy() == (by_hand < 0.5) & differs.to_numpy()).all()
    assert set(trainer.label_issues(threshold=0.51)["sample_index"]) == set(np.flatnonzero(by_hand < 0.51))


def test_the_phases_alone_are_the_training(turn):
    whole = turn()
    metrics = whole.train().metrics
    parts = turn()
    own = {**parts.linear_probe(), **parts.cleanse(), **parts.finetune().metrics}
    assert_same(state_of(whole), state_of(parts))
    assert set(own) == set(metrics) and own["cleanse_purity"] == metrics["cleanse_purity"]


def test_fine_tuning_is_what_trainer_does_on_the_kept_samples(turn, training_arguments):
    trainer = turn()
    trainer.linear_probe()
    trainer.cleanse()
    model = copy.deepcopy(trainer.model)
    trainer.finetune()
    arguments = training_arguments(TrainingArguments, num_train_epochs=2, learning_rate=1e-3)
    stock = Trainer(
        model, arguments, train_dataset=trainer.train_dataset.select(trainer.fine_tuning_samples), data_collator=collate
    )
    stock.train()
    assert_same(state_of(stock), state_of(trainer))


def test_peft_modules_instead_of_the_whole_model(turn, tmp_path):
    trainer = turn(peft_config=ClearLoraConfig(task_type="SEQ_CLS", r=4))
    before = state_of(trainer)
    trainer.train()
    after = state_of(trainer)
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed and all("lora_" in name or "modules_to_save" in name for name in changed)
    trainer.save_model()
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= files
    # The probe looks at the base model, which is as it was.
    losses = -np.log(softmax(trainer.predict_probe(trainer.train_dataset).predictions, axis=1))
    given = losses[np.arange(len(losses)), trainer.train_dataset["labels"]]
    np.testing.assert_allclose(given, trainer.sample_store.losses.numpy(), rtol=1e-4, atol=1e-5)


def test_evaluation_in_every_phase(turn):
    sets = {"seen": toy_dataset(20), "new": toy_dataset(20, seed=1)}
    trainer = turn(eval_dataset=sets, compute_metrics=accuracy, eval_strategy="epoch")
    metrics = trainer.train().metrics
    for name in sets:
        assert 0 <= metrics[f"probe_eval_{name}_accuracy"] <= 1
        assert any(f"eval_{name}_accuracy" in entry for entry in trainer.state.log_history)
    logged = [next(iter(entry)) for entry in trainer.state.log_history]
    assert logged.index("probe_loss") < logged.index("cleanse_clean_fraction") < logged.index("loss")


def test_evaluation_of_the_probe_takes_what_it_can(turn, caplog):
    trainer = turn(eval_dataset=toy_dataset(20), compute_metrics=accuracy)
    trainer.preprocess_logits_for_metrics = lambda logits, labels: logits.argmax(dim=-1)
    trainer.compute_metrics = lambda p: {"accuracy": float((p.predictions == p.label_ids).mean())}
    assert trainer.linear_probe()["probe_eval_accuracy"] == trainer.evaluate()["eval_accuracy"]
    trainer.eval_dataset = toy_dataset(20).to_iterable_dataset()
    assert "probe_eval_loss" not in trainer.linear_probe() and "not evaluated on an IterableDataset" in caplog.text
    unlabelled = trainer.predict_probe(toy_dataset(5).remove_columns("labels"))
    assert unlabelled.label_ids is None and unlabelled.metrics == {}


def test_model_init_gives_every_run_its_own_probe(turn):
    def model_init(trial=None):
        return tiny_bert(initializer_range=0.2)

    trainer = turn(model_init=model_init)
    trainer.linear_probe()
    trainer.cleanse()
    trainer.args.learning_rate, trainer.args.weight_decay = 0.0, 0.0
    trainer.finetune()
    assert_same({"head": trainer.probe.head.weight.detach()}, {"head": trainer.model.classifier.weight.detach()})
    trainer = turn(model_init=model_init)
    trainer.train()
    first, probe = state_of(trainer), trainer.probe
    trainer.train()
    assert_same(first, state_of(trainer))
    assert_same(probe.state_dict(), trainer.probe.state_dict())


def test_digits_through_a_vision_transformer(training_arguments):
    """A ViT that was trained on one half of the images learns from the other, of whose labels 40 % are wrong."""
    images, digits = load_digits(return_X_y=True)
    images = (images.reshape(-1, 1, 8, 8) / 8 - 1).astype(np.float32)

    def data(first: int) -> Dataset:
        return Dataset.from_dict({"pixel_values": images[first::2], "labels": digits[first::2]})

    torch.manual_seed(0)
    model = ViTForImageClassification(
        ViTConfig(
            **{"image_size": 8, "patch_size": 2, "num_channels": 1, "num_labels": 10, "hidden_size": 64},
            **{"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128},
        )
    )
    arguments = {"learning_rate": 1e-3, "per_device_train_batch_size": 32, "num_train_epochs": 8}
    pretraining = training_arguments(TrainingArguments, **arguments)
    Trainer(model, pretraining, train_dataset=data(0).with_format("torch")).train()
    model.classifier = torch.nn.Linear(64, 10)

    train, test = data(1).train_test_split(0.25, seed=0).values()
    train = inject_label_noise(train, "symmetric", 0.4, 0, label_column="labels")[0]
    trainer = TurnTrainer(
        model=model,
        args=training_arguments(TurnTrainingArguments, turn_balance="none", **arguments),
        train_dataset=train.with_format("torch"),
        compute_metrics=accuracy,
    )
    metrics = trainer.linear_probe() | trainer.cleanse()
    probe = trainer.predict_probe(test.with_format("torch")).metrics["test_accuracy"]
    trainer.finetune()
    assert metrics["probe_detection_auroc"] > 0.95
    assert metrics["cleanse_purity"] > 0.95
    assert trainer.evaluate(test.with_format("torch"))["eval_accuracy"] > max(probe, 0.8)
