"""Each refit decides between the posterior and gates: by whether a noise matrix explains the labels."""

import logging
import math
from types import SimpleNamespace

import torch
from helpers.posterior import GOOD, NOTHING, POSTERIOR, UNEXPLAINED, WEAK, ExplainsLater, Modes, trainer_of
from helpers.turn import assert_same, noisy_dataset, state_of

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
