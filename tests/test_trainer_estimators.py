"""Estimators in a training: what they are given, and what they may return."""

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from helpers.toy import collate, tiny_bert
from helpers.trainers import lora_trainer

from hf_clear import CleanProbabilityCallback, CleanProbabilityEstimate, SampleEvidence, register_estimator
from hf_clear.estimators import ESTIMATORS


@patch.dict(ESTIMATORS)
def test_a_new_estimator_takes_one_line(training_arguments):
    seen = []
    register_estimator(
        "toy",
        lambda e: seen.append(e) or CleanProbabilityEstimate(e.probabilities.max(axis=1), {"calls": len(seen)}),
    )
    trainer = lora_trainer(training_arguments, clear_estimator="toy")
    trainer.train()
    (first, second) = seen
    assert first.probabilities.shape == (24, 4) and first.features is None
    assert np.array_equal(first.labels, trainer.train_dataset["labels"])
    assert np.array_equal(first.mean_losses, first.losses)
    assert second.mean_losses == pytest.approx(0.9 * first.losses + 0.1 * second.losses, rel=1e-5)
    assert trainer.clean_probabilities()["clean_probability"] == pytest.approx(second.probabilities.max(axis=1))
    logs = trainer.state.log_history
    assert [log["calls"] for log in logs if "calls" in log] == [1, 2]
    assert not [name for log in logs for name in log if name.startswith("mixture")], "it fits none"
    trainer.create_model_card()
    card = (Path(trainer.args.output_dir) / "README.md").read_text()
    assert "| After epoch | p > 0.5 | Warnings |" in card and "nan" not in card


@patch.dict(ESTIMATORS)
def test_features_are_those_of_the_frozen_base(training_arguments):
    seen: list[SampleEvidence] = []
    register_estimator(
        "toy", lambda e: seen.append(e) or CleanProbabilityEstimate(np.ones(len(e.losses))), uses_features=True
    )
    trainer = lora_trainer(training_arguments, clear_estimator="gaussian_mixture+toy")
    base = tiny_bert().eval()
    trainer.train()
    batch = collate(list(trainer.train_dataset))
    mask = batch["attention_mask"].unsqueeze(-1)
    with torch.no_grad():
        states = base(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True
        ).hidden_states[-1]
    expected = (states * mask).sum(1) / mask.sum(1)
    assert len(seen) == 2
    for evidence in seen:  # after an epoch and after two
        assert np.allclose(evidence.features, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["per_class_gaussian_mixture", "ema_gaussian_mixture", "probe", "probe+knn"])
def test_every_estimator_trains(training_arguments, name):
    trainer = lora_trainer(training_arguments, clear_estimator=name)
    trainer.train()
    assert len(trainer.clean_probabilities()) == 24


def test_unknown_names_are_refused_at_once(training_arguments):
    with pytest.raises(
        ValueError, match="`clear_estimator` has to be the name of a clean-probability estimator; got None"
    ):
        training_arguments(clear_estimator=None)
    with pytest.raises(ValueError, match="clean-probability estimator; got 'gaussian'.*'gaussian_mixture'"):
        training_arguments(clear_estimator="gaussian")
    with pytest.raises(ValueError, match="`clear_routing` has to be the name of a routing strategy"):
        training_arguments(clear_routing="clear")
    with pytest.raises(ValueError, match="`clear_ensemble_temperature` has to be 0.01 or above"):
        training_arguments(clear_ensemble_temperature=0.0)


@pytest.mark.parametrize(
    "estimator,message",
    [
        (lambda evidence: np.ones(24), "'mine' returned a ndarray, not a CleanProbabilityEstimate"),
        (lambda evidence: None, "'mine' returned a NoneType"),
        (lambda evidence: CleanProbabilityEstimate(np.ones(3)), "'mine' returned 3 clean probabilities for 24 samples"),
        (lambda evidence: CleanProbabilityEstimate(np.full(24, np.nan)), "one number in .0, 1. for each sample"),
        (lambda evidence: evidence.losses.sort(), "read-only"),
    ],
)
def test_estimators_that_misbehave(training_arguments, estimator, message):
    estimator.__name__ = "mine"
    trainer = lora_trainer(training_arguments, clear_warmup_epochs=0)
    trainer.add_callback(CleanProbabilityCallback(estimator))
    with pytest.raises(ValueError, match=message):
        trainer.train()
