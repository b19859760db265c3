"""What a fit of clean probabilities supports: findings, noise rate, missing values; alone and through the trainers."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from helpers.losses import two_groups
from helpers.toy import collate, tiny_bert, toy_dataset
from transformers import TrainerCallback

import hf_clear.turn.probe_phase
from hf_clear import ClearLoraConfig, ClearTrainer, gaussian_mixture, per_class_gaussian_mixture
from hf_clear.estimators import find_groups
from hf_clear.estimators._groups import dip
from hf_clear.fit_checks import FitFindings, check_fit
from hf_clear.noise import inject_label_noise
from hf_clear.sample_store import SampleStore
from hf_clear.turn.selection import select_clean


def predictions(labels: np.ndarray, given: np.ndarray, error: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Losses and class probabilities of a model that is sure of the true class for most samples, and errs in some."""
    rng, num_labels = np.random.default_rng(seed), int(labels.max()) + 1
    believed = np.where(rng.random(len(labels)) < error, rng.integers(num_labels, size=len(labels)), labels)
    scores = rng.normal(0, 0.5, (len(labels), num_labels))
    scores[np.arange(len(labels)), believed] += rng.normal(4, 1, len(labels))
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return -np.log(p[np.arange(len(labels)), given]), p


def noisy(labels: np.ndarray, rate: float, seed: int = 0) -> np.ndarray:
    rng, num_labels = np.random.default_rng((seed, 1)), int(labels.max()) + 1
    return np.where(
        rng.random(len(labels)) < rate, (labels + rng.integers(1, num_labels, len(labels))) % num_labels, labels
    )


def test_the_dip_by_hand_and_its_published_quantiles():
    """Two points of equal mass are 1/4 from the nearest distribution with one peak; the uniform is the null."""
    two = np.sort(np.concatenate([np.linspace(0, 1e-3, 200), np.linspace(1, 1.001, 200)]))
    assert dip(two) == pytest.approx(0.25, abs=0.01)
    assert dip(np.linspace(0, 1, 100)) == pytest.approx(1 / 200)
    assert dip(np.ones(50)) == 0 == dip(np.array([1.0, 2.0]))
    rng = np.random.default_rng(0)
    uniform = [dip(np.sort(rng.random(100))) for _ in range(300)]
    assert np.quantile(uniform, [0.5, 0.95]) == pytest.approx([0.0361, 0.0506], abs=0.003)  # Hartigan's table


@pytest.mark.parametrize("draw", ["exponential", "lognormal", "gamma", "chisquare", "rayleigh"])
def test_skewed_losses_with_one_peak_are_not_two_groups(draw):
    rng = np.random.default_rng(0)
    sizes = {"gamma": (0.4,), "chisquare": (3,)}.get(draw, ())
    for size in (100, 400, 3000):
        assert not any(find_groups(getattr(rng, draw)(*sizes, size=size)).are_two for _ in range(5))
    assert find_groups(two_groups()[0]).are_two
    assert find_groups(np.linspace(0, 1, 3_000_000)).dip < 0.2, "quantiles stand for them"
    assert not find_groups(np.zeros(30)).are_two and not find_groups(np.array([1.0])).are_two


@pytest.mark.parametrize(("rate", "num_labels"), [(0.2, 2), (0.4, 4), (0.6, 20), (0.8, 20)])
def test_a_good_model_under_noise_is_no_guess(rate, num_labels):
    labels = np.arange(600) % num_labels
    given = noisy(labels, rate)
    losses, p = predictions(labels, given, error=0.05)
    found, _ = check_fit(losses, gaussian_mixture(losses).clean_probability, given, p.argmax(axis=1))
    assert "no_better_than_chance" not in found.warnings


@pytest.mark.parametrize("guess", ["constant", "at random", "majority with few others"])
def test_guesses_are_no_better_than_chance(guess):
    rng = np.random.default_rng(0)
    given = np.where(rng.random(500) < 0.7, 0, rng.integers(1, 4, 500))
    predicted = {
        "constant": np.zeros(500, dtype=int),
        "at random": rng.integers(4, size=500),
        "majority with few others": np.where(rng.random(500) < 0.9, 0, 1),
    }[guess]
    p = np.full((500, 4), 0.1)
    p[np.arange(500), predicted] = 0.7
    losses = -np.log(p[np.arange(500), given])
    found, logs = check_fit(losses, gaussian_mixture(losses).clean_probability, given, p.argmax(axis=1))
    assert "guesses with the same frequencies get about" in found.warnings["no_better_than_chance"]
    assert logs["fit_no_better_than_chance"] == 1 and found.noise_rate is None and "no better" in found.unsupported


def test_classes_that_are_lost_are_named():
    labels = np.arange(400) % 4
    losses, p = predictions(labels, labels, error=0.0)
    clean = np.where(labels == 2, 0.01, 0.99)
    clean[2] = 0.9
    found, logs = check_fit(losses, clean, labels, p.argmax(axis=1), {2: "card | arrival"})
    assert (
        "1 of 4 classes" in found.warnings["lost_classes"]
        and "label 2 ('card | arrival')" in found.warnings["lost_classes"]
    )
    assert logs["fit_lost_classes"] == 1 and found.noise_rate is None and "whole classes" in found.unsupported
    clean[2 : 2 + 4 * 11 : 4] = 0.9  # 11 of 100: one in ten stays
    assert "lost_classes" not in check_fit(losses, clean, labels, p.argmax(axis=1))[0].warnings


def test_classes_that_the_noise_matrix_does_not_explain_are_named():
    labels = np.arange(400) % 4
    losses, p = predictions(labels, labels, error=0.0)
    clean = np.full(400, 0.99)
    clean[labels == 2] = np.where(np.arange(100) < 60, 0.01, 0.9)  # 60 of 100 are called wrong
    right = 0.9 * np.eye(4) + 0.025  # nine in ten labels of each class are right
    found, logs = check_fit(losses, clean, labels, p.argmax(axis=1), {2: "top-up"}, right)
    assert "1 of 4 classes" in found.warnings["unexplained_classes"] and "label 2 ('top-up')" in str(found.warnings)
    assert logs["fit_unexplained_classes"] == 1
    explained = right.copy()
    explained[3] = [0.025, 0.025, 0.9, 0.05]  # most labels 2 are of the true class 3
    assert "unexplained_classes" not in check_fit(losses, clean, labels, p.argmax(axis=1), {}, explained)[0].warnings
    found = check_fit(losses, clean, labels, p.argmax(axis=1), {2: "top-up"})[0]  # of a mixture, which has no matrix
    assert "are called wrong, and 15% of all: label 2 ('top-up')" in found.warnings["unexplained_classes"]
    unlabelled = np.where(labels == 2, -100, labels)
    assert "unexplained_classes" not in check_fit(losses, clean, unlabelled, p.argmax(axis=1))[0].warnings
    clean[np.arange(400) % 10 < 6] = 0.01  # as many of every class
    assert "unexplained_classes" not in check_fit(losses, clean, labels, p.argmax(axis=1))[0].warnings


def test_small_classes_of_which_some_have_no_luck_are_not_lost():
    """Of 300 classes with three samples each, about eight have wrong labels alone under 30 % noise."""
    labels = np.arange(900) % 300
    given = noisy(labels, 0.3)
    losses, p = predictions(labels, given, error=0.0)
    wrong = given != labels
    assert sum(wrong[given == label].all() for label in range(300)) > 3
    found, _ = check_fit(losses, np.where(wrong, 0.01, 0.99), given, p.argmax(axis=1))
    assert not found.warnings and found.noise_rate == pytest.approx(wrong.mean(), abs=0.03)


@pytest.mark.parametrize("labels", [[0], [0, 1, 0], [1] * 1000], ids=["one", "three", "one class"])
def test_where_nobody_could_tell_no_more_is_asked_for_than_there_is(labels):
    labels = np.array(labels)
    losses = np.linspace(0.01, 0.02, len(labels))
    found, _ = check_fit(losses, np.ones(len(labels)), labels, labels)
    assert "So few samples" in found.warnings["no_better_than_chance"] and "tell the model from" in found.unsupported
    assert "or more" not in found.warnings["no_better_than_chance"]


def test_a_noise_rate_is_stated_where_it_is_supported_and_its_interval_holds_the_truth():
    """As far as the model is right when it is sure: what it errs in counts as wrong labels."""
    stated = []
    for seed, rate in itertools.product(range(2), (0.0, 0.1, 0.2, 0.3, 0.4, 0.6)):
        labels = np.arange(800) % 5
        given = noisy(labels, rate, seed)
        losses, p = predictions(labels, given, 0.01, seed)
        for estimate in (gaussian_mixture(losses), per_class_gaussian_mixture(losses, given)):
            found, logs = check_fit(losses, estimate.clean_probability, given, p.argmax(axis=1))
            if found.noise_rate is None:
                assert found.unsupported and not any(name.startswith("estimated") for name in logs)
                continue
            low, high = found.noise_rate_interval
            assert low <= found.noise_rate == logs["estimated_noise_rate"] <= high < low + 0.4 and rate > 0
            stated.append(low <= (given != labels).mean() <= high)
    assert len(stated) >= 12 and np.mean(stated) >= 0.9, stated


def test_findings_survive_json_and_nothing_else_passes_for_them():
    losses, _ = two_groups()
    losses[:3] = np.nan
    found, _ = check_fit(losses, gaussian_mixture(losses).clean_probability)
    assert found.missing == 3 and found.noise_rate == pytest.approx(0.3, abs=0.03)
    assert FitFindings.from_dict(json.loads(json.dumps(found.as_dict()))) == found
    assert FitFindings.from_dict({}) == FitFindings()
    wrong = [
        {"missing": "3"},
        {"warnings": ["x"]},
        {"warnings": {"a": 1}},
        {"noise_rate": 0.2},
        {"more": 1},
        {"unsupported": None},
    ]
    wrong += [{"noise_rate": rate, "noise_rate_interval": [0.1, 0.3]} for rate in (2, "a", math.nan, [0.2])]
    wrong += [{"noise_rate": 0.2, "noise_rate_interval": interval} for interval in ([0.1], 3, "ab", [0.1, math.inf])]
    for values in wrong:
        with pytest.raises(ValueError, match="findings"):
            FitFindings.from_dict(values)


def test_the_state_of_a_run_holds_the_findings(tmp_path):
    store = SampleStore.empty(3)
    store.findings, store.fitted_epoch = FitFindings({"lost_classes": "…"}, 1, 0.25, (0.1, 0.4), ""), 2
    store.save(tmp_path / "state")
    assert SampleStore.load(tmp_path / "state", 3).findings == store.findings


# ---- Through the trainers ----


LARGE_STEPS = {"per_device_train_batch_size": 32, "learning_rate": 3e-2, "clear_ensemble_size": 1}


def clear_trainer(training_arguments, data, model=None, **arguments) -> ClearTrainer:
    return ClearTrainer(
        tiny_bert(initializer_range=0.2) if model is None else model,
        training_arguments(**arguments),
        train_dataset=data,
        data_collator=collate,
        peft_config=ClearLoraConfig(task_type="SEQ_CLS"),
    )


def card_of(trainer) -> str:
    trainer.create_model_card()
    with open(f"{trainer.args.output_dir}/README.md") as file:
        return file.read()


def test_a_model_near_chance_is_said_to_be_one(training_arguments, caplog):
    """A class of 24 is called wrong at p < 1e-5 because it was never predicted."""
    data, _ = inject_label_noise(toy_dataset(96), "symmetric", 0.25, label_column="labels")
    arguments = {"num_train_epochs": 3, "clear_warmup_epochs": 1, "learning_rate": 1e-5}
    trainer = clear_trainer(training_arguments, data, tiny_bert(), **arguments)
    trainer.train()
    assert {"no_better_than_chance", "lost_classes"} <= trainer.fit_findings.warnings.keys()
    assert caplog.text.count("guesses with the same frequencies") == 1, "once a kind"
    fits = [log for log in trainer.state.log_history if "clean_fraction" in log]
    assert len(fits) == 2 and all(log["fit_no_better_than_chance"] == 1 for log in fits)
    card = card_of(trainer)
    assert "How many are wrong was not estimated: the model is no better than chance" in card
    assert "- `lost_classes`: More than 90%" in card and "estimated_noise_rate" not in fits[-1]


def test_clean_labels_have_no_noise_rate(training_arguments, caplog):
    trainer = clear_trainer(training_arguments, toy_dataset(400), clear_warmup_epochs=2, **LARGE_STEPS)
    trainer.train()
    assert len(trainer.label_issues()) > 40, "the mixture calls these wrong"
    assert "show no two groups" in trainer.fit_findings.warnings["no_two_groups"] and "no two groups" in caplog.text
    assert "not estimated: the losses show no two groups" in card_of(trainer)


def test_wrong_labels_have_one(training_arguments):
    data, report = inject_label_noise(toy_dataset(400), "symmetric", 0.3, label_column="labels")
    trainer = clear_trainer(training_arguments, data, num_train_epochs=4, **LARGE_STEPS)
    trainer.train()
    found, card = trainer.fit_findings, card_of(trainer)
    assert found.warnings == {} and found.noise_rate_interval[0] < 0.3 < found.noise_rate_interval[1]
    assert f"with an estimated {found.noise_rate:.1%} of wrong labels" in card and "between" in card
    assert "Warnings of the last fit" not in card


class Spoil(TrainerCallback):
    """Weights become NaN before the last refit."""

    def on_epoch_end(self, args, state, control, model=None, **kwargs):
        if state.epoch >= 2:
            for parameter in (p for p in model.parameters() if p.requires_grad):
                parameter.data.fill_(math.nan)


def test_what_is_missing_is_no_evidence_of_a_wrong_label(training_arguments, caplog):
    data, _ = inject_label_noise(toy_dataset(24), "symmetric", 0.3, label_column="labels")
    trainer = clear_trainer(training_arguments, data, clear_warmup_epochs=1)
    trainer.add_callback(Spoil())
    trainer.train()
    assert np.isnan(trainer.clean_probabilities()["clean_probability"]).all()
    assert len(trainer.label_issues()) == 0 and "The loss of 24 of 24 training samples was not finite" in caplog.text
    assert (trainer.sample_store.clean_probability == 0).all(), "no module acts on them"
    fits = [log for log in trainer.state.log_history if "non_finite_losses" in log]
    assert [log["non_finite_losses"] for log in fits] == [0, 24]
    assert not {"clean_fraction", "detection_auroc", "memorization_clean", "estimated_noise_rate"} & fits[1].keys()
    card = card_of(trainer)
    assert (
        "not estimated: no loss is finite" in card and "100.0%" not in card and "24 of them had no finite loss" in card
    )


def test_turn_leaves_out_what_is_missing_and_stops_if_nothing_is_known(turn, monkeypatch):
    stock = hf_clear.turn.probe_phase.probe_predictions
    missing = slice(0, 10)

    def spoiled(*args):
        predictions = stock(*args)
        predictions.losses[missing] = torch.nan
        return predictions

    monkeypatch.setattr(hf_clear.turn.probe_phase, "probe_predictions", spoiled)
    trainer = turn(turn_balance="min")
    trainer.linear_probe()
    metrics = trainer.cleanse()
    assert metrics["cleanse_non_finite_losses"] == 10 and trainer.fit_findings.missing == 10
    assert (
        trainer.fine_tuning_samples.min() >= 10
        and np.isnan(trainer.clean_probabilities()["clean_probability"][:10]).all()
    )
    assert not set(range(10)) & set(trainer.label_issues()["sample_index"])

    missing = slice(None)
    trainer = turn()
    with pytest.raises(ValueError, match="the loss of all 160 samples is not finite"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_class_of_which_nothing_is_known_is_not_selected(caplog):
    labels, p = np.arange(12) % 3, np.where(np.arange(12) < 6, 0.9, 0.1)
    p[labels == 1] = np.nan
    assert select_clean(p, labels, balance="min").tolist() == [0, 2, 3, 5]
    assert "no sample of 1 of the 3 classes is finite (label 1)" in caplog.text
    p[labels == 2] = [0.1, np.nan, 0.2, 0.3]  # none above: as many as the smallest other class, the known ones
    assert select_clean(p, labels).tolist() == [0, 3, 8, 11]


def test_labels_of_tokens_have_findings_without_classes():
    losses, _ = two_groups()
    found, logs = check_fit(losses, per_class_gaussian_mixture(losses, np.zeros(2000)).clean_probability)
    assert found.warnings == {} and found.noise_rate == logs["estimated_noise_rate"]
