"""Frozen features that say little: plain epochs, and what the first fit after them decides."""

import logging

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.posterior import POSTERIOR, trainer_of
from helpers.toy import toy_dataset
from helpers.turn import assert_same, noisy_dataset, state_of
from sklearn.metrics import roc_auc_score
from transformers import TrainerCallback

from hf_clear import (
    CleanProbabilityEstimate,
    ClearTrainer,
    SampleEvidence,
    preset,
)
from hf_clear.estimators import NamedEstimator
from hf_clear.estimators._unexplained import mixture_if_unexplained
from hf_clear.estimators.noise_model import EXPLAINED, SKILL


def test_features_that_say_nothing_leave_the_labels_as_they_are(training_arguments, caplog):
    """Shuffled labels: no model can tell them, training begins plainly, and the first fit is to what it predicts."""
    dataset = toy_dataset(120)
    labels = np.random.default_rng(0).permutation(dataset["labels"])
    dataset = dataset.remove_columns("labels").add_column("labels", labels)
    settings = POSTERIOR | {"num_train_epochs": 3, "clear_warmup_epochs": 2}
    trainer = trainer_of(training_arguments(**settings), dataset)
    plain = trainer_of(
        training_arguments(**preset("clear") | {"num_train_epochs": 3, "clear_warmup_epochs": 3}), dataset
    )
    weights = {name: [] for name in ("evidence", "plain")}

    class Note(TrainerCallback):
        def __init__(self, name, trainer):
            self.name, self.trainer = name, trainer

        def on_epoch_end(self, args, state, control, **kwargs):
            weights[self.name].append((state_of(self.trainer), self.trainer.sample_store.fitted_epoch))

    trainer.add_callback(Note("evidence", trainer))
    plain.add_callback(Note("plain", plain))
    with caplog.at_level(logging.WARNING, "hf_clear"):
        trainer.train()
    assert "The frozen features say nothing about the labels" in caplog.text and "2 plain epochs" in caplog.text
    plain.train()
    for epoch in range(2):
        assert_same(weights["evidence"][epoch][0], weights["plain"][epoch][0])
    assert [fitted for _, fitted in weights["evidence"]] == [-1, -1, 2]
    assert trainer.sample_store.posterior.eq(1).sum(dim=1).eq(1).all() and len(trainer.label_issues()) == 0
    store, refit = trainer.sample_store, trainer._refit
    store.losses[0], store.clean_probability[0] = torch.nan, 0.0  # what nothing is known of speaks against no label
    assert refit._is_open
    store.clean_probability[1] = 0.5
    assert not refit._is_open


def test_after_weak_evidence_the_first_fit_decides_by_what_the_model_has_learned(
    training_arguments, caplog, monkeypatch
):
    """A posterior, if a noise matrix explains the labels by predictions with enough skill; else gates. Resumed, too."""
    monkeypatch.setattr("hf_clear.probing.head_start.LEAST_SKILL", 1.1)
    settings = POSTERIOR | {"num_train_epochs": 3, "clear_warmup_epochs": 1, "save_strategy": "epoch"}
    dataset = noisy_dataset(480)
    build = training_arguments(**settings, learning_rate=1e-2, per_device_train_batch_size=8)
    straight = trainer_of(build, dataset)
    with caplog.at_level(logging.WARNING, "hf_clear"):
        straight.train()
    assert "So training begins with 1 plain epoch (" in caplog.text and "goes on as CleaR with gates" not in caplog.text
    fit = next(entry for entry in straight.state.log_history if "noise_model_explained" in entry)
    assert fit["epoch"] == 1 and fit["noise_model_explained"] >= 0.5 and fit["noise_model_skill"] >= 0.6
    store = straight.sample_store
    assert store.posterior is not None and straight.clear_args.clear_routing == "none"
    assert abs(float((store.clean_probability < 0.5).float().mean()) - 0.3) < 0.05
    resumed = trainer_of(build, dataset)
    resumed.train(resume_from_checkpoint=f"{build.output_dir}/checkpoint-{480 // 8}")
    assert_same(state_of(straight), state_of(resumed))
    assert torch.equal(store.posterior, resumed.sample_store.posterior)

    monkeypatch.setattr("hf_clear.estimators._unexplained.LEAST_SKILL", 1.1)
    caplog.clear()
    unskilled = trainer_of(build, dataset)
    with caplog.at_level(logging.WARNING, "hf_clear"):
        unskilled.train()
    assert "of the way from a constant one to perfect ones" in caplog.text
    assert unskilled.sample_store.posterior is None and unskilled.clear_args.clear_routing == "class_balanced"


@pytest.mark.parametrize("warmup", ["linear_probe", "cross_fit"])
def test_weak_predictions_get_no_free_matrix_after_any_warm_up(training_arguments, warmup):
    """Every label is right, and 7 tokens in 10 say nothing of it. A free matrix would call half of the labels wrong."""
    generator, rows = np.random.default_rng(0), []
    for row in toy_dataset(600):
        tokens = [
            token if generator.random() < 0.3 else int(generator.integers(4, 54)) for token in row["input_ids"][1:]
        ]
        rows.append({**row, "input_ids": [1, *tokens]})
    settings = {"clear_warmup": warmup, "clear_warmup_epochs": 1, "num_train_epochs": 2, "probe_epochs": 5}
    build = training_arguments(**POSTERIOR | settings, learning_rate=1e-3)
    trainer = trainer_of(build, Dataset.from_list(rows))
    trainer.train()
    assert trainer.clear_args.clear_loss == "clear" and trainer.sample_store.posterior is None


@pytest.mark.parametrize("least", [1.0, 0.0])
def test_a_run_with_weak_evidence_resumes_bit_exactly(training_arguments, least):
    """With gates after its warm-up, and without."""
    settings = POSTERIOR | {
        "clear_min_explained": least,
        "num_train_epochs": 4,
        "clear_warmup_epochs": 2,
        "save_strategy": "steps",
        "save_steps": 5,
    }
    dataset = noisy_dataset(64)  # too few
    build = training_arguments(**settings)
    straight = trainer_of(build, dataset)
    straight.train()
    assert straight.sample_store.is_fitted
    for step in (5, 10, 20):  # in the epochs 1, 2, and 3
        resumed = trainer_of(build, dataset)
        resumed.train(resume_from_checkpoint=f"{build.output_dir}/checkpoint-{step}")
        assert_same(state_of(straight), state_of(resumed))
        stores = straight.sample_store, resumed.sample_store
        assert torch.equal(*(store.clean_probability for store in stores))
        assert [store.posterior is None for store in stores] == [least > 0] * 2
        assert (
            resumed.clear_args.clear_routing
            == straight.clear_args.clear_routing
            == ("class_balanced" if least else "none")
        )


def test_evidence_that_is_too_weak_for_a_short_training_is_said(training_arguments, caplog, monkeypatch):
    monkeypatch.setattr("hf_clear.probing.head_start.LEAST_SKILL", 1.1)
    trainer = trainer_of(training_arguments(**POSTERIOR | {"num_train_epochs": 2}), noisy_dataset(64))
    with caplog.at_level(logging.WARNING, "hf_clear"):
        trainer.train()
    assert "this is plain training to its end: the 3 plain epochs" in caplog.text
    assert not trainer.sample_store.is_fitted


def test_weak_evidence_speaks_with_the_losses_and_a_resumed_run_still_knows_it(training_arguments, caplog, monkeypatch):
    """What models said that had not seen the labels is kept through the plain epochs, and goes into every mixture."""
    for module in ("probing.head_start", "estimators._unexplained"):
        monkeypatch.setattr(f"hf_clear.{module}.LEAST_SKILL", 1.1)
    settings = POSTERIOR | {"num_train_epochs": 4, "clear_warmup_epochs": 2, "save_strategy": "epoch"}
    build, dataset = training_arguments(**settings), noisy_dataset(240)
    straight = trainer_of(build, dataset)
    with caplog.at_level(logging.WARNING, "hf_clear"):
        straight.train()
    assert "by a mixture of losses and of the evidence." in caplog.text
    known = straight.sample_store.held_out_clean_probability
    assert straight.clear_args.clear_estimator == "evidence_mixture"
    told = [entry["mixture_evidence_separation"] for entry in straight.state.log_history if "clean_fraction" in entry]
    assert len(told) == 2 and np.isfinite(told).all()
    for epoch in (1, 2, 3):
        resumed = trainer_of(build, dataset)
        resumed.train(resume_from_checkpoint=f"{build.output_dir}/checkpoint-{epoch * straight.state.max_steps // 4}")
        assert_same(state_of(straight), state_of(resumed))
        assert torch.equal(known, resumed.sample_store.held_out_clean_probability)
        stores = straight.sample_store, resumed.sample_store
        assert torch.equal(*(store.clean_probability for store in stores))


def test_predictions_that_say_nothing_leave_it_to_weak_evidence(training_arguments, caplog, monkeypatch):
    """A model that learns nothing and can't begin anew, as one in shards: its losses tell no wrong label, models that
    have not seen the labels do."""
    monkeypatch.setattr("hf_clear.probing.head_start.LEAST_SKILL", 1.1)
    monkeypatch.setattr(ClearTrainer, "keep_beginning", lambda self: None)
    settings = POSTERIOR | {"num_train_epochs": 2, "clear_warmup_epochs": 1, "learning_rate": 0.0}
    dataset = noisy_dataset(400)
    trainer = trainer_of(training_arguments(**settings), dataset)
    for name, parameter in trainer.model.named_parameters():
        if "classifier" in name:  # the same prediction for all
            torch.nn.init.zeros_(parameter)
    with caplog.at_level(logging.WARNING, "hf_clear"):
        trainer.train()
    assert (
        "The model's predictions say nothing about the labels, and models that have not seen them say a little. "
        "Training goes on as CleaR with gates, by a mixture of the evidence." in caplog.text
    )
    is_wrong = np.array(dataset["labels"]) != np.array(dataset["true_label"])
    store = trainer.sample_store
    told = roc_auc_score(~is_wrong, store.held_out_clean_probability)
    assert told > 0.9 > 0.7 > roc_auc_score(is_wrong, store.losses)
    assert roc_auc_score(~is_wrong, store.clean_probability) == pytest.approx(told, abs=0.01)
    assert len(trainer.label_issues()) > 0.5 * is_wrong.sum()


def test_predictions_that_say_next_to_nothing_are_no_ground_for_gates():
    """Of a model at chance, losses have two groups as well: samples of the classes that it happens to predict."""
    rng, size = np.random.default_rng(0), 400
    labels, losses = rng.integers(0, 4, size), np.where(rng.random(size) < 0.3, 3.0, 0.5) + 0.1 * rng.random(size)
    is_wrong = rng.random(size) < 0.4
    told = np.clip(np.where(is_wrong, 0.2, 0.8) + 0.1 * rng.normal(size=size), 0.01, 0.99)

    def asked(skill, evidence):
        posterior = np.full((size, 4), 0.25)
        estimate = CleanProbabilityEstimate(np.full(size, 0.5), {SKILL: skill, EXPLAINED: 0.1}, posterior, np.eye(4))
        return mixture_if_unexplained(NamedEstimator("told", lambda _: estimate), 0.5)(evidence)

    alone, beside = SampleEvidence(losses, labels), SampleEvidence(losses, labels, held_out_clean_probability=told)
    for skill in (np.nan, 0.049):
        stays = asked(skill, alone)
        assert not stays.is_supported and (stays.clean_probability == 1).all() and stays.transition_matrix is None
        assert np.array_equal(stays.posterior, np.eye(4)[labels]) and np.isnan(stays.diagnostics[SKILL])
        assert np.isnan(stays.diagnostics["noise_model_rate"]), "a rate that nothing supports"
        by_evidence = asked(skill, beside)
        assert by_evidence.is_supported and by_evidence.posterior is None and np.isnan(by_evidence.diagnostics[SKILL])
        assert roc_auc_score(~is_wrong, by_evidence.clean_probability) > 0.99
        constant = asked(skill, SampleEvidence(losses, labels, held_out_clean_probability=np.full(size, 0.5)))
        assert not constant.is_supported and (constant.clean_probability == 1).all()
    gates = asked(0.051, alone)
    assert gates.is_supported and gates.posterior is None and gates.diagnostics[SKILL] == 0.051
    assert np.array_equal(gates.clean_probability < 0.5, losses > 2)
