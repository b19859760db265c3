"""Each refit decides between the posterior and gates: by whether a noise matrix explains the labels."""

import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.posterior import GOOD, NOTHING, POSTERIOR, UNEXPLAINED, WEAK, ExplainsLater, Modes, trainer_of
from helpers.turn import assert_same, noisy_dataset, state_of
from scipy.special import expit

from hf_clear.estimators import CleanProbabilityEstimate, NamedEstimator, SampleEvidence
from hf_clear.estimators._unexplained import mixture_if_unexplained
from hf_clear.estimators.noise_model import EXPLAINED, SKILL
from hf_clear.without_posterior import leave_posterior, say_explained

GATES, POSTERIORS = ("clear", "class_balanced"), ("posterior", "none")


def test_it_is_asked_again_and_resumed_bit_exactly(training_arguments, caplog):
    dataset, modes = noisy_dataset(400), Modes()
    told = WEAK, UNEXPLAINED, GOOD, GOOD
    settings = POSTERIOR | {"num_train_epochs": 4, "per_device_train_batch_size": 16, "save_strategy": "steps"}
    build = training_arguments(**settings, save_steps=15)  # 25 steps an epoch
    straight = trainer_of(build, dataset, callbacks=[ExplainsLater(*told).callback(), modes])
    modes.trainer = straight
    with caplog.at_level(logging.WARNING, "hf_clear"):
        straight.train()
    assert caplog.text.count("Training goes on as CleaR with gates") == 1
    assert caplog.text.count("Training goes on without gates, by the posterior.") == 1
    assert "explains 60% of what speaks against the given labels" in caplog.text and "to go 80% of" in caplog.text
    gates, posterior = (*GATES, False), (*POSTERIORS, True)
    assert modes.seen == {0: gates, 1: gates, 2: posterior, 3: posterior}
    assert straight.clear_args is straight.args and straight.sample_store.posterior is not None
    for step, done in ((30, 2), (60, 3), (90, 4)):  # with gates, and after them
        resumed = trainer_of(build, dataset, callbacks=[ExplainsLater(*told[done:]).callback()])
        resumed.train(resume_from_checkpoint=f"{build.output_dir}/checkpoint-{step}")
        assert_same(state_of(straight), state_of(resumed))
        for name in ("posterior", "clean_probability", "targets", "transition_matrix"):
            assert torch.equal(getattr(straight.sample_store, name), getattr(resumed.sample_store, name))


def test_a_posterior_without_skill_gives_way_to_gates_which_stay(training_arguments, caplog):
    """Predictions that learn wrong labels by heart lose it. That a matrix explains less is no reason. Resumed
    bit-exactly."""
    dataset, modes = noisy_dataset(400), Modes()
    told = GOOD, UNEXPLAINED, WEAK, GOOD
    settings = POSTERIOR | {"num_train_epochs": 5, "per_device_train_batch_size": 16, "save_strategy": "steps"}
    settings |= {"clear_warmup": "epochs", "clear_warmup_epochs": 1}
    build = training_arguments(**settings, save_steps=15)
    straight = trainer_of(build, dataset, callbacks=[ExplainsLater(*told).callback(), modes])
    modes.trainer = straight
    with caplog.at_level(logging.WARNING, "hf_clear"):
        straight.train()
    assert [mode[0] for _, mode in sorted(modes.seen.items())] == [*["posterior"] * 3, "clear", "clear"]
    assert "are expected to go 40% of the way" in caplog.text
    assert straight.sample_store.keeps_gates and straight.sample_store.posterior is None
    resumed = trainer_of(build, dataset, callbacks=[ExplainsLater(GOOD).callback()])
    resumed.train(resume_from_checkpoint=f"{build.output_dir}/checkpoint-90")
    assert resumed.sample_store.keeps_gates
    assert_same(state_of(straight), state_of(resumed))


@pytest.mark.parametrize(("least", "open_at"), [(np.inf, True), (-1.0, False)])
def test_gates_are_open_as_long_as_there_is_one_group(training_arguments, caplog, monkeypatch, least, open_at):
    """Resumed bit-exactly. Clean probabilities stay, as an order."""
    monkeypatch.setattr("hf_clear.estimators._unexplained.LEAST_SEPARATION", least)
    dataset, modes = noisy_dataset(400), Modes()
    told = UNEXPLAINED, UNEXPLAINED, WEAK
    settings = POSTERIOR | {"num_train_epochs": 3, "per_device_train_batch_size": 16, "save_strategy": "epoch"}
    build = training_arguments(**settings)
    straight = trainer_of(build, dataset, callbacks=[ExplainsLater(*told).callback(), modes])
    modes.trainer = straight
    with caplog.at_level(logging.WARNING, "hf_clear"):
        straight.train()
    assert modes.seen == {0: (*GATES, open_at), 1: (*GATES, open_at), 2: (*GATES, False)}
    assert ("gates are open as long as neither losses nor evidence are two groups" in caplog.text) == open_at
    logged = [entry["gates_open"] for entry in straight.state.log_history if "gates_open" in entry]
    assert logged == [open_at, open_at, False] and len(set(straight.sample_store.clean_probability.tolist())) > 2
    for epoch in (1, 2):
        resumed = trainer_of(build, dataset, callbacks=[ExplainsLater(*told[epoch:]).callback()])
        resumed.train(resume_from_checkpoint=f"{build.output_dir}/checkpoint-{25 * epoch}")
        assert_same(state_of(straight), state_of(resumed))


def test_all_samples_take_part_while_gates_are_open(training_arguments, monkeypatch):
    settings = POSTERIOR | {"num_train_epochs": 2, "clear_min_clean_probability": 0.5}
    left_out = []
    for least in (np.inf, -1.0):
        monkeypatch.setattr("hf_clear.estimators._unexplained.LEAST_SEPARATION", least)
        told = ExplainsLater(UNEXPLAINED, UNEXPLAINED).callback()
        trainer = trainer_of(training_arguments(**settings), noisy_dataset(400), callbacks=[told])
        trainer.train()
        left_out.append([entry["left_out"] for entry in trainer.state.log_history if "left_out" in entry])
    assert not any(left_out[0]) and all(left_out[1]) and len(left_out[0]) == 2


def test_gates_that_somebody_asked_for_stay(training_arguments, monkeypatch):
    monkeypatch.setattr("hf_clear.estimators._unexplained.LEAST_SEPARATION", np.inf)
    settings = POSTERIOR | {"num_train_epochs": 1, "clear_routing": "clean"}
    trainer = trainer_of(training_arguments(**settings), callbacks=[ExplainsLater(UNEXPLAINED).callback()])
    trainer.train()
    assert trainer.sample_store.posterior is None and not trainer.sample_store.gates_open


def test_hard_samples_are_one_group_and_wrong_labels_two():
    rng, size = np.random.default_rng(0), 600
    labels, is_wrong = rng.integers(0, 4, size), rng.random(size) < 0.3
    posterior = np.full((size, 4), 0.25)

    def gates_open(losses, told, skill=0.8, **settings):
        estimate = CleanProbabilityEstimate(np.full(size, 0.5), {SKILL: skill, EXPLAINED: 0.1}, posterior, np.eye(4))
        estimator = mixture_if_unexplained(NamedEstimator("told", lambda _: estimate), **settings)
        found = estimator(SampleEvidence(losses, labels, held_out_clean_probability=told))
        assert found.posterior is None and found.is_supported
        return found.diagnostics["gates_open"]

    doubts = rng.normal(size=(2, size))
    hard = np.log1p(np.exp(doubts[0]))
    in_doubt = expit(1 - doubts.sum(axis=0))
    two = np.where(is_wrong, 3.0, 0.3) + 0.3 * rng.random(size)
    told = np.clip(np.where(is_wrong, 0.1, 0.9) + 0.05 * rng.normal(size=size), 0.01, 0.99)
    may = {"least": 0.5, "may_open": True}
    assert gates_open(hard, in_doubt, **may) == 1
    assert gates_open(two, told, **may) == gates_open(two, in_doubt, **may) == 0
    assert gates_open(hard, in_doubt, **may, skill=0.55) == 0, "predictions that tell too little show no groups"
    assert gates_open(hard, in_doubt, least=float("inf"), may_open=True) == 0, "gates that came back"
    assert gates_open(hard, in_doubt, least=0.5) == 0


def test_predictions_that_lose_all_they_said(training_arguments, caplog):
    """Without evidence, labels stay then, as in a first fit."""
    settings = POSTERIOR | {"clear_warmup": "epochs", "clear_warmup_epochs": 1, "num_train_epochs": 3}
    trainer = trainer_of(
        training_arguments(**settings), noisy_dataset(400), callbacks=[ExplainsLater(WEAK, NOTHING).callback()]
    )
    with caplog.at_level(logging.WARNING, "hf_clear"):
        trainer.train()
    assert "predictions say nothing about the labels any more: all are taken for correct." in caplog.text
    assert trainer.clear_args is trainer.args and trainer.sample_store.posterior is not None


def test_an_estimator_of_ones_own_may_not_tell_its_skill(caplog):
    with caplog.at_level(logging.WARNING, "hf_clear"):
        leave_posterior(SimpleNamespace(is_world_process_zero=lambda: True), "posterior", None, {EXPLAINED: 0.2}, 0.5)
    assert "explains 20% of what speaks against the given labels" in caplog.text


def test_what_is_said_where_no_prediction_is_finite(caplog):
    trainer = SimpleNamespace(is_world_process_zero=lambda: True)
    with caplog.at_level(logging.WARNING, "hf_clear"):
        say_explained(trainer, {EXPLAINED: math.nan, SKILL: math.nan})  # no `clean_fraction`: no loss is finite
        assert "nothing is known of any label" in caplog.text and "taken for correct" not in caplog.text
        say_explained(trainer, {EXPLAINED: math.nan, SKILL: math.nan, "clean_fraction": 1.0})
    assert "say nothing about the labels any more: all are taken for correct" in caplog.text
