"""The mixture of two Gaussians over losses and evidence from outside the sample: `"evidence_mixture"`."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.posterior import POSTERIOR, trainer_of
from helpers.turn import noisy_dataset
from scipy.special import expit
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from hf_clear import TurnTrainingArguments, preset
from hf_clear.callbacks import CleanProbabilityCallback
from hf_clear.estimators import (
    NamedEstimator,
    NoiseModel,
    SampleEvidence,
    evidence_mixture,
    gaussian_mixture,
    get_estimator,
)
from hf_clear.estimators._unexplained import mixture_if_unexplained
from hf_clear.estimators.evidence_mixture import _fit_both, _log_odds_against
from hf_clear.probing.head_start import _clean_probability

NUM = 4000


def drawn(of_loss, of_evidence, seed=0):
    """Losses, held-out clean probabilities, and which labels are wrong. How far the groups are apart, in deviations."""
    rng = np.random.default_rng(seed)
    is_wrong = rng.random(NUM) < 0.3
    losses = 2 + rng.normal(of_loss * is_wrong, 1)
    return losses, expit(-rng.normal(of_evidence * is_wrong, 1)), is_wrong


def of(losses, told=None):
    return evidence_mixture(SampleEvidence(losses, held_out_clean_probability=told))


def auroc(is_wrong, p):
    return roc_auc_score(~is_wrong, p)


def test_the_posterior_is_that_of_two_independent_gaussians():
    """Against the densities of the components that the samples were drawn from."""
    losses, told, _ = drawn(4, 3)
    against = np.log1p(-told) - np.log(told)
    right = 0.7 * norm.pdf(losses, 2, 1) * norm.pdf(against, 0, 1)
    wrong = 0.3 * norm.pdf(losses, 6, 1) * norm.pdf(against, 3, 1)
    estimate = of(losses, told)
    assert np.abs(estimate.clean_probability - right / (right + wrong)).mean() < 0.005
    assert estimate.diagnostics["mixture_evidence_separation"] == pytest.approx(3, abs=0.1)
    assert estimate.diagnostics["mixture_mean_noisy"] == pytest.approx(6, abs=0.1)
    assert estimate.diagnostics["mixture_weight_noisy"] == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("of_loss,of_evidence", [(3, 0.3), (0.7, 2.5), (2, 2)])
def test_each_counts_by_what_it_tells(of_loss, of_evidence):
    losses, told, is_wrong = drawn(of_loss, of_evidence)
    found = auroc(is_wrong, of(losses, told).clean_probability)
    alone = auroc(is_wrong, gaussian_mixture(losses).clean_probability), auroc(is_wrong, told)
    assert found > max(alone) - 0.005
    if of_loss == of_evidence:
        assert found > max(alone) + 0.03


def test_a_missing_value_is_no_evidence():
    losses, told, is_wrong = drawn(2, 2)
    losses[3], told[4] = np.nan, np.nan
    without = gaussian_mixture(losses)
    few = np.where(np.arange(NUM) % 3, np.nan, told)
    for nothing in (None, np.full(NUM, np.nan), np.full(NUM, 0.4), few):
        estimate = of(losses, nothing)
        assert np.array_equal(estimate.clean_probability, without.clean_probability)
        assert np.isnan(estimate.diagnostics.pop("mixture_evidence_separation"))
        assert estimate.diagnostics == without.diagnostics
    assert of(losses, told).clean_probability[3] == 0

    told[::2] = np.nan  # half of them go by their loss, and in its order
    p, missing = of(losses, told).clean_probability, np.isnan(told) & np.isfinite(losses)
    order = np.argsort(losses[missing])
    assert (np.diff(p[missing][order]) <= 0).all() and p[missing].max() > 0.8 > 0.3 > p[missing].min()


def test_of_two_that_contradict_each_other_the_one_that_tells_more_counts():
    losses, told, is_wrong = drawn(3, 1)
    estimate = of(losses, 1 - told)
    assert np.array_equal(estimate.clean_probability, gaussian_mixture(losses).clean_probability)
    assert np.isnan(estimate.diagnostics["mixture_evidence_separation"])
    for seed in range(4):  # losses that say nothing, or that wrong labels are learned by heart
        for of_loss in (0, -0.5, -1):
            losses, told, is_wrong = drawn(of_loss, 3, seed)
            estimate = of(losses, told)
            assert auroc(is_wrong, estimate.clean_probability) > auroc(is_wrong, told) - 0.01
            assert estimate.diagnostics["mixture_evidence_separation"] == pytest.approx(3, abs=0.3)


def test_evidence_in_half_precision_is_rounded_without_a_group_of_its_own():
    rng = np.random.default_rng(0)
    is_wrong = rng.random(NUM) < 0.2
    table = expit(-np.stack([rng.normal(-7.5, 1.2, NUM) + 2 * is_wrong, np.full(NUM, 30.0)], axis=1)).astype(np.float16)
    known, nothing = np.ones(NUM, dtype=bool), np.zeros(NUM, dtype=int)
    model = NoiseModel(np.eye(2), np.ones(1), table, table, nothing, known, 0.0, 1.0, True)
    losses = rng.normal(1 + 1.5 * is_wrong, 1)
    rounded = of(losses, _clean_probability(model).numpy()).clean_probability
    assert abs((rounded < 0.5).mean() - 0.2) < 0.1
    unknown = replace(model, has_scores=~known)
    assert _clean_probability(unknown).isnan().all()


@pytest.mark.parametrize("jitter,num_classes", [(0.0, 5), (0.05, 5), (0.0, 1)])
def test_losses_that_follow_the_class_alone_are_left_out(jitter, num_classes):
    """As of a model that predicts the same for all samples: groups of losses are classes there."""
    _, told, is_wrong = drawn(0, 1.5)
    rng = np.random.default_rng(1)
    labels = rng.integers(0, num_classes, NUM)
    losses = 1 + 0.3 * labels + rng.normal(0, jitter, NUM)
    told[7] = np.nan
    estimate = evidence_mixture(SampleEvidence(losses, labels, held_out_clean_probability=told))
    known = np.isfinite(told)
    assert auroc(is_wrong[known], estimate.clean_probability[known]) == pytest.approx(
        auroc(is_wrong[known], told[known]), abs=0.01
    )
    assert estimate.clean_probability[7] == 1 and np.isfinite(estimate.diagnostics["mixture_evidence_separation"])
    assert np.isnan(estimate.diagnostics["mixture_mean_clean"])
    # Of few samples a class, much of any variance is between classes.
    losses, told, is_wrong = drawn(3, 0.3)
    few = evidence_mixture(SampleEvidence(losses, np.arange(NUM) // 3, held_out_clean_probability=told))
    assert np.array_equal(few.clean_probability, of(losses, told).clean_probability)


def test_more_against_a_label_never_means_more_for_it():
    """Also where the bare posterior rises again, since one component is wider."""
    rng = np.random.default_rng(0)
    is_wrong = rng.random(NUM) < 0.3
    losses = rng.normal(2 + 3 * is_wrong, 0.2 + 2 * is_wrong)
    told = expit(-rng.normal(2 * is_wrong, 2 - 1.5 * is_wrong))
    grid = np.linspace(-8, 14, 40)
    both = np.stack(np.meshgrid(grid, expit(-grid)), axis=-1).reshape(-1, 2)
    p, *_ = _fit_both(np.append(losses, both[:, 0]), _log_odds_against(np.append(told, both[:, 1])), 0)
    table = p[NUM:].reshape(40, 40)
    assert (np.diff(table, axis=0) <= 1e-12).all() and (np.diff(table, axis=1) <= 1e-12).all()
    assert table[0, 0] > 0.9 > 0.1 > table[-1, -1]


def test_many_samples_are_fitted_to_some():
    rng = np.random.default_rng(0)
    is_wrong = rng.random(200_000) < 0.3
    losses, told = rng.normal(3.0 * is_wrong, 1), expit(-rng.normal(2.0 * is_wrong, 1))
    some = of(losses[:30_000], told[:30_000]).clean_probability
    assert np.abs(of(losses, told).clean_probability[:30_000] - some).mean() < 0.01


def test_predictions_that_say_nothing_leave_it_to_the_evidence():
    """Predictions at chance, in training: with evidence, it decides; without, the labels stay."""
    losses, told, is_wrong = drawn(1, 1.5)
    labels, rng = np.arange(NUM) % 2, np.random.default_rng(0)
    evidence = SampleEvidence(losses, labels, probabilities=np.full((NUM, 2), 0.5, dtype=np.float32))
    estimator = mixture_if_unexplained(get_estimator("noise_model"), 0.5)
    assert isinstance(estimator, NamedEstimator)
    stay = estimator(evidence)
    assert (stay.clean_probability == 1).all() and stay.posterior is not None
    same = np.full(NUM, 0.9)
    assert (estimator(replace(evidence, held_out_clean_probability=same)).clean_probability == 1).all()
    decided = estimator(replace(evidence, held_out_clean_probability=told, losses=rng.permutation(losses)))
    assert decided.posterior is None
    assert auroc(is_wrong, decided.clean_probability) == pytest.approx(auroc(is_wrong, told), abs=1e-3)
    with pytest.raises(ValueError, match="has to hold numbers in \\[0, 1\\], or NaN"):
        replace(evidence, held_out_clean_probability=told + 0.5)


def test_where_there_is_no_evidence_it_is_refused(training_arguments):
    missing = "'evidence_mixture.*needs what models say that have not seen the labels.*'gaussian_mixture' does without"
    settings = preset("clear") | {"max_steps": 1}
    for given, callbacks in (
        ({"clear_estimator": "evidence_mixture"}, []),
        ({}, [CleanProbabilityCallback("evidence_mixture+knn")]),
    ):
        trainer = trainer_of(training_arguments(**settings | given), callbacks=callbacks)
        with pytest.raises(ValueError, match=missing):
            trainer.train()
        assert trainer.state.global_step == 0
    with pytest.raises(ValueError, match=missing):
        training_arguments(TurnTrainingArguments, turn_estimator="evidence_mixture")


@pytest.mark.parametrize("warmup", ["evidence", "cross_fit"])
def test_it_can_be_asked_for(training_arguments, warmup):
    """With CleaR's loss, too: after evidence, whatever it is of."""
    asked = {"clear_loss": "clear", "clear_routing": "clean", "clear_estimator": "evidence_mixture"}
    settings = POSTERIOR | asked | {"clear_warmup": warmup, "num_train_epochs": 3, "clear_warmup_epochs": 1}
    trainer = trainer_of(training_arguments(**settings, learning_rate=1e-2), noisy_dataset(400))
    trainer.train()
    fits = [entry for entry in trainer.state.log_history if "mixture_evidence_separation" in entry]
    assert len(fits) == (3 if warmup == "evidence" else 2)
    assert np.isfinite(fits[-1]["mixture_evidence_separation"])
