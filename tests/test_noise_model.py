"""The noise model: against brute force, against simulated data whose truth is known, and at its edges."""

import itertools
import logging

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.simulated import asymmetric, simulated
from scipy.special import softmax
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hf_clear import audit_labels, find_label_issues, fit_noise_model
from hf_clear.estimators import SampleEvidence, gaussian_mixture, get_estimator
from hf_clear.estimators._halves import _agreement, judge_by_halves
from hf_clear.estimators._transition import expected_counts, matrix_of_counts
from hf_clear.estimators._unexplained import mixture_if_unexplained
from hf_clear.estimators._weights import Rows, centered, classes_first, fit_weights
from hf_clear.estimators.noise_model import log_probabilities
from hf_clear.evidence import (
    EVIDENCE_SOURCES,
    cross_fitted_probe,
    evidence_sources,
    register_evidence,
)
from hf_clear.evidence.probes import WEIGHT_DECAYS, _fit, _held_out_likelihood, gce_gradient
from hf_clear.fold_assignment import assign_folds
from hf_clear.losses import generalized_cross_entropy
from hf_clear.metrics import detection_metrics
from hf_clear.noise import corrupt_labels, symmetric_transition_matrix
from hf_clear.transition_matrices import is_symmetric, symmetric_matrix


def test_the_unit_of_scores_makes_no_difference_and_no_search_stays_without_doubt():
    """From some starts, a search leaps to where predictions are 0 or 1, and likelihoods flat."""
    features, true = load_wine(return_X_y=True)
    labels = corrupt_labels(true, symmetric_transition_matrix(3, 0.2), 2)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    scores = np.log(cross_val_predict(classifier, features, labels, method="predict_proba", cv=5))
    models = [fit_noise_model(scores * unit, labels) for unit in (1, 4, 1e6, 3e-3)]
    likeliest = max(model.log_likelihood for model in models)
    for model in models:
        assert model.log_likelihood == pytest.approx(likeliest, abs=1e-3)
        assert detection_metrics(model.clean_probability, true != labels)["detection_auroc"] > 0.98
        assert abs(model.noise_rate - (true != labels).mean()) < 0.08


def by_hand(scores, labels, matrix, scale, bias):
    """Posterior and mean log-likelihood, in plain Python."""
    posterior, total = [], 0.0
    for row, label in zip(scores, labels):
        f = np.exp(scale * (row - row.max()) + bias)
        f = f / f.sum()
        joint = [f[k] * matrix[k][label] for k in range(len(f))]
        total += np.log(sum(joint))
        posterior.append([j / sum(joint) for j in joint])
    return np.array(posterior), total / len(labels)


def test_weights_posterior_and_likelihood_against_brute_force_on_three_classes():
    matrix = np.array([[0.7, 0.2, 0.1], [0.05, 0.9, 0.05], [0.3, 0.1, 0.6]])
    scores, _, labels = simulated(matrix, size=200, separation=1.5, seed=3)
    rows = Rows([classes_first(centered(scores / 7))], labels)

    def penalized(scale, bias, frequencies):
        mean = softmax(scale * scores / 7 + bias, axis=1).mean(axis=0)
        penalty = 0.0 if frequencies is None else 0.3 * (frequencies @ np.log(frequencies / mean))
        return by_hand(scores / 7, labels, matrix, scale, bias)[1] - (bias @ bias) / 2 / 200 - penalty

    for frequencies in (np.array([0.2, 0.5, 0.3]), None):
        weights = fit_weights(rows, matrix, frequencies=frequencies)
        best = penalized(weights.scales[0], weights.bias, frequencies)
        for factor in np.exp(np.linspace(-0.3, 0.3, 7)):  # nothing around it is better
            for step in itertools.product((-0.1, 0, 0.1), repeat=3):
                assert penalized(weights.scales[0] * factor, weights.bias + step, frequencies) <= best + 1e-6
    posterior, likelihood = by_hand(scores / 7, labels, matrix, weights.scales[0], weights.bias)
    model = fit_noise_model(scores / 7, labels, transition_matrix=matrix)
    np.testing.assert_allclose(model.target, posterior, atol=1e-4)
    assert model.log_likelihood == pytest.approx(likelihood, abs=1e-4)
    frequencies = np.bincount(labels) / len(labels)
    assert model.gain == pytest.approx(likelihood - (frequencies * np.log(frequencies)).sum(), abs=0.05)
    np.testing.assert_allclose(model.clean_probability, posterior[np.arange(200), labels], atol=1e-4)
    assert (model.suggestion == posterior.argmax(axis=1)).all()
    assert model.noise_rate == pytest.approx(1 - posterior[np.arange(200), labels].mean(), abs=1e-4)


@pytest.mark.parametrize(
    "matrix",
    [symmetric_matrix(5, 0.2), symmetric_matrix(5, 0.6), asymmetric(0.2, 5), asymmetric(0.4, 5), np.eye(5)],
    ids=["symmetric .2", "symmetric .6", "asymmetric .2", "asymmetric .4", "no noise"],
)
def test_simulated_noise_is_recovered(matrix):
    scores, true, labels = simulated(matrix)
    model = fit_noise_model(3 * scores, labels)  # whatever the scale of the scores is
    assert model.is_supported
    assert model.noise_rate == pytest.approx((true != labels).mean(), abs=0.02)
    assert np.abs(model.transition_matrix - matrix).max() < 0.05
    assert (model.suggestion == true).mean() > 0.97
    if (true != labels).any():
        assert detection_metrics(model.clean_probability, true != labels)["detection_auroc"] > 0.97


def test_the_rate_is_the_likeliest_where_predictions_tell_little():
    """The likelihood hardly changes with it: so weak a slope must not be taken for the top."""
    scores, _, labels = simulated(symmetric_matrix(5, 0.3), separation=0.8, seed=1)
    model = fit_noise_model(scores, labels)
    assert model.expected_skill < 0.6
    rate = 1 - model.transition_matrix[0, 0]
    np.testing.assert_allclose(model.transition_matrix, symmetric_matrix(5, rate))
    for other in (rate - 0.06, rate + 0.06):
        known = fit_noise_model(scores, labels, transition_matrix=symmetric_matrix(5, other))
        assert known.log_likelihood < model.log_likelihood - 5e-5


def test_a_source_that_says_nothing_is_left_out_and_one_that_says_more_counts_more():
    scores, _, labels = simulated(symmetric_matrix(5, 0.4))
    rng = np.random.default_rng(1)
    weak = scores + rng.normal(scale=20, size=scores.shape)
    alone = fit_noise_model(scores, labels)
    model = fit_noise_model([rng.normal(size=scores.shape), scores, np.zeros_like(scores), weak], labels)
    assert model.scales[0] < 0.05 * model.scales[1] and model.scales[3] < 0.2 * model.scales[1]
    np.testing.assert_allclose(model.clean_probability, alone.clean_probability, atol=0.1)


@pytest.mark.parametrize("scores", [np.zeros((500, 4)), np.random.default_rng(0).normal(size=(500, 4))])
def test_without_evidence_the_target_is_the_given_label(scores):
    labels = np.random.default_rng(2).integers(0, 4, 500)
    model = fit_noise_model(scores, labels)
    assert not model.is_supported and np.isnan(model.noise_rate)
    assert (model.target == np.eye(4)[labels]).all() and (model.clean_probability == 1).all()


def test_many_classes_rare_ones_and_missing_ones():
    scores, true, labels = simulated(symmetric_matrix(1000, 0.4), size=4000, separation=5.0)
    model = fit_noise_model(scores.astype(np.float32), labels)
    assert model.noise_rate == pytest.approx((true != labels).mean(), abs=0.05)
    assert np.allclose(model.transition_matrix.sum(axis=1), 1)
    scores, true, labels = simulated(symmetric_matrix(4, 0.3))
    scores = np.concatenate([scores, np.full((len(scores), 2), scores.min())], axis=1)  # two classes without a sample
    rare = np.concatenate([np.flatnonzero(true != 3), np.flatnonzero(true == 3)[:8]])
    model = fit_noise_model(scores[rare], labels[rare])
    assert model.noise_rate == pytest.approx((true != labels)[rare].mean(), abs=0.03)
    assert (model.suggestion[-8:] == 3).all()


@pytest.mark.parametrize(("occurring", "num_labels"), [(4, 50), (10, 77)])
def test_classes_that_no_label_has_change_nothing(occurring, num_labels):
    """As the head of a model for all intents, trained on data with a few of them."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, occurring, 800)
    labels = np.where(rng.random(800) < 0.3, (true + rng.integers(1, occurring, 800)) % occurring, true)
    scores = rng.normal(size=(800, num_labels)) + 5 * np.eye(num_labels)[true]
    places = np.sort(rng.choice(num_labels, occurring, replace=False))  # not the first ones
    everywhere = np.delete(np.arange(num_labels), places)
    spread = np.empty_like(scores)
    spread[:, places], spread[:, everywhere] = scores[:, :occurring], scores[:, occurring:]
    few, all_of_them = fit_noise_model(scores[:, :occurring], labels), fit_noise_model(spread, places[labels])
    assert few.noise_rate == pytest.approx((true != labels).mean(), abs=0.03)
    np.testing.assert_allclose(few.target, all_of_them.target[:, places], atol=1e-3)
    assert not all_of_them.target[:, everywhere].any() and not all_of_them.prediction[:, everywhere].any()
    assert np.allclose(all_of_them.transition_matrix.sum(axis=1), 1)
    audit = audit_labels(places[labels], softmax(spread, axis=1))
    assert audit.noise_rate.low > 0.2 and audit.noise_rate.high < 0.4 and audit.planted.found > 0.9


def test_edges():
    scores, true, labels = simulated(symmetric_matrix(4, 0.4), size=2000)
    broken = scores.copy()
    broken[:50, 2], broken[50:100] = np.nan, np.inf
    without = labels.copy()
    without[100:200] = -100
    model = fit_noise_model(broken, without)
    assert np.isfinite(model.target).all() and np.allclose(model.target.sum(axis=1), 1, atol=1e-5)
    assert (model.suggestion[100:200] == true[100:200]).mean() > 0.95  # no label: the prediction
    assert (model.clean_probability[100:200] == 1).all()
    assert not model.has_scores[:100].any() and model.has_scores[100:].all()
    assert (model.clean_probability[:100] == 1).all()  # a missing value is no evidence
    assert model.noise_rate == pytest.approx((true != labels)[200:].mean(), abs=0.03)
    few = fit_noise_model(scores[:1], labels[:1])
    assert (few.target == np.eye(4)[labels[:1]]).all()
    one = fit_noise_model(np.zeros((5, 1)), np.zeros(5, dtype=int))
    assert (one.clean_probability == 1).all()
    nothing = fit_noise_model(scores, np.full(2000, -100))
    assert np.isnan(nothing.noise_rate) and np.isfinite(nothing.target).all()
    order = np.random.default_rng(5).permutation(2000)
    shuffled = fit_noise_model(scores[order], labels[order])
    np.testing.assert_allclose(shuffled.target, fit_noise_model(scores, labels).target[order], atol=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [0]), "`scores` is empty"),
        ((np.zeros((3, 2)), [0, 1]), "`labels` has to be of shape"),
        ((np.zeros((3, 2)), [0, 1, 2]), r"`labels\[2\]` is 2, and there are scores for 2 classes"),
        ((np.zeros((2, 2)), [0.5, 1.0]), "whole numbers"),
        (([np.zeros((3, 2)), np.zeros((3, 3))], [0, 1, 0]), "the same for each source"),
        ((np.zeros((2, 2)), [0, 1], [[0.5, 0.6], [0, 1]]), "Row 0 of the transition matrix has to sum to 1"),
        ((np.zeros((2, 4097)), [0, 1]), "A noise matrix is for 4096 at most"),
        ((np.zeros((2, 2)), [0, 1], None, float("nan")), "`least_skill` has to be a number, 0 or above; got nan"),
        ((np.zeros((2, 2)), [0, 1], np.eye(3)), "is for 3 classes, and there are scores for 2"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit_noise_model(*arguments)


def test_a_probability_of_zero_is_a_small_one():
    """Logarithms of predictions are those predictions, however many zeros there are; a row of zeros says nothing."""
    scores, _, labels = simulated(symmetric_matrix(4, 0.2), size=1500, separation=4)
    probabilities = softmax(scores / 3, axis=1)
    probabilities[probabilities < 0.05] = 0
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    probabilities[3] = 0
    assert (probabilities == 0).any(axis=1).mean() > 0.9
    with np.errstate(divide="ignore"):
        model = fit_noise_model(np.log(probabilities), labels)
    assert model.has_scores.sum() == 1499 and not model.has_scores[3]
    expected = fit_noise_model(log_probabilities(probabilities), labels)
    np.testing.assert_allclose(model.target, expected.target, atol=1e-2)
    assert model.noise_rate == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("rates, size", [((0.05, 0.25), 500), ((0.0, 0.4), 500)], ids=str)
def test_rates_that_differ_by_class_are_found_among_few_samples(rates, size):
    """Symmetric noise of the likeliest rate, 0, would call none of these labels wrong."""
    matrix = np.array([[1 - rates[0], rates[0]], [rates[1], 1 - rates[1]]])
    found = []
    for seed in range(4):
        scores, true, labels = simulated(matrix, size, separation=2.5, seed=seed)
        model = fit_noise_model(scores, labels)
        found.append((model.suggestion != labels)[true != labels].mean())
        assert model.is_free and not is_symmetric(model.transition_matrix)
    assert np.mean(found) > 0.7


@pytest.mark.parametrize("rate, size", [(0.0, 500), (0.6, 1000)])
def test_what_predictions_get_wrong_is_not_taken_for_wrong_labels(rate, size, monkeypatch):
    """Of many classes, a free matrix can do that, and makes predictions look surer than they are."""
    scores, true, labels = simulated(symmetric_matrix(20, rate), size=size, separation=2.5)

    def errors(model):
        right = (model.prediction.argmax(axis=1) == true).mean()
        return model.noise_rate - (true != labels).mean(), model.prediction.max(axis=1).mean() - right

    model = fit_noise_model(scores, labels)
    assert not model.is_free and is_symmetric(model.transition_matrix)
    assert np.abs(errors(model)).max() < 0.03
    monkeypatch.setattr(
        "hf_clear.estimators.noise_model.judge_by_halves",
        lambda *arguments: judge_by_halves(*arguments)._replace(is_free=True),
    )
    free = fit_noise_model(scores, labels, least_skill=0)
    assert free.is_free and max(errors(free)) > 0.03


def test_scores_may_be_of_any_kind():
    scores, _, labels = simulated(symmetric_matrix(3, 0.2), size=300)
    expected, tensor = fit_noise_model(scores, labels).target, torch.tensor(scores)
    kinds = [scores.tolist(), pd.DataFrame(scores), tensor.requires_grad_(), [tensor], [scores.tolist()]]
    for kind in kinds:
        np.testing.assert_allclose(fit_noise_model(kind, torch.tensor(labels)).target, expected, atol=1e-5)
    coarse = fit_noise_model(tensor.bfloat16(), labels.tolist())
    assert np.abs(coarse.target - expected).mean() < 0.01
    table = find_label_issues(labels, softmax(scores, axis=1), return_all=True)["label_score"]
    as_tensor = find_label_issues(torch.tensor(labels), tensor.softmax(dim=1), features=None, return_all=True)[
        "label_score"
    ]
    np.testing.assert_allclose(table, as_tensor, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": np.ones((4, 2)), "label_names": list(map(str, range(5000)))}, "There are 5000 classes. A noise"),
        ({"features": ["some", "texts"] * 2}, "`features` has to hold numbers, in an array; got list of str"),
        ({"features": np.ones(4)}, r"`features` has to be of shape \[4, dim\].*got \[4\]"),
        ({"pred_probs": "none"}, "`pred_probs` has to hold numbers, in an array; got str"),
        (
            {"features": np.ones((4, 2)), "labels": [0, 1, 94107, 0]},
            r"`labels\[2\]` is 94107, which makes 94108 classes",
        ),
    ],
)
def test_what_is_no_evidence_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        find_label_issues(**{"labels": [0, 1, 0, 1], **arguments})


def test_counting():
    counts = np.array([[6.0, 2.0], [0.0, 0.0]])
    rate = 1 - 6 / 8
    expected = [[(6 + 2 * (1 - rate)) / 10, (2 + 2 * rate) / 10], [rate, 1 - rate]]
    np.testing.assert_allclose(matrix_of_counts(counts), expected)
    found = expected_counts(np.array([[0.5, 1, 0.2], [0.5, 0, 0.8]]), np.array([1, 1, 0]))
    np.testing.assert_allclose(found, [[0.2, 1.5], [0.8, 0.5]])


def test_as_an_estimator_and_as_find_label_issues(caplog):
    scores, true, labels = simulated(symmetric_matrix(4, 0.4), size=1000)
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    evidence = SampleEvidence(-np.log(probabilities[np.arange(1000), labels]), labels, probabilities=probabilities)
    estimate = get_estimator("noise_model")(evidence)
    np.testing.assert_allclose(estimate.posterior, fit_noise_model(scores, labels).target, atol=0.05)
    table = find_label_issues(labels, probabilities)
    found = np.array(table["sample_index"])
    assert (true != labels)[found].mean() > 0.97 and (np.diff(table["label_score"]) >= 0).all()
    assert (np.array(table["predicted_label"]) == true[found]).mean() > 0.97
    every = find_label_issues(labels.tolist(), probabilities, return_all=True)
    assert len(every) == 1000 and sum(every["is_label_issue"]) == len(table)
    probabilities[:7] = np.nan
    with caplog.at_level(logging.WARNING, "hf_clear"):
        every = find_label_issues(labels, probabilities, return_all=True)
        assert len(find_label_issues(labels[:300], np.full((300, 4), 0.25))) == 0
    assert "7 of 1000 labelled samples have no finite prediction" in caplog.text
    assert "say nothing about the labels" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "hf_clear"):
        assert len(find_label_issues(labels[:10], softmax(scores[:10], axis=1))) == 0
    assert "may say something about the labels, but 10 are too few to be sure of it" in caplog.text
    assert sorted(every["sample_index"][-7:]) == list(range(7)) and np.isnan(every["label_score"][-7:]).all()
    assert not any(every["is_label_issue"][-7:])
    with pytest.raises(ValueError, match=r"`pred_probs\[0\]` is no distribution.*softmax"):
        find_label_issues(labels, scores)


@pytest.mark.parametrize("num_labels, size, rate", [(2, 200, 0.35), (4, 80, 0.5), (10, 150, 0.6)])
def test_few_labels_of_which_many_are_wrong_are_told_from_labels_at_random(num_labels, size, rate):
    told = at_random = certain = 0
    for seed in range(8):
        scores, _, labels = simulated(symmetric_matrix(num_labels, rate), size, separation=3.0, seed=seed)
        model = fit_noise_model(scores, labels)
        told, certain = told + model.is_supported, certain + model.is_certain
        assert model.is_supported or not model.is_certain
        at_random += fit_noise_model(scores, np.random.default_rng(seed + 1).permutation(labels)).is_supported
    assert told >= 6 and at_random <= 1 and certain <= told - (num_labels == 2)  # a t-test takes more samples


def test_agreement_is_that_with_permuted_labels():
    """Mean and variance over all orders of the labels, counted out."""
    rng = np.random.default_rng(0)
    labels, predicted = np.array([0, 1, 1, 2, 0]), rng.dirichlet(np.ones(3), 5).T
    sums = [predicted[list(order), np.arange(5)].sum() for order in itertools.permutations(labels)]
    excess, variance = _agreement(predicted.astype(np.float32), labels)
    assert excess == pytest.approx(predicted[labels, np.arange(5)].sum() - np.mean(sums), abs=1e-5)
    assert variance == pytest.approx(np.var(sums), rel=1e-4)


def test_labels_that_are_mostly_the_next_class_agree_with_what_is_predicted_for_them():
    scores, _, labels = simulated(asymmetric(0.8, 3), 300)
    assert fit_noise_model(scores, labels, transition_matrix=asymmetric(0.8, 3)).is_supported


# ---- Evidence ----


def test_a_score_doesnt_know_the_label_of_its_sample():
    """Another label of a sample, or none: the classifier that scores it stays the same to the last bit."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (200,), generator=generator)
    features = torch.randn(200, 8, generator=generator) + 4 * torch.nn.functional.one_hot(labels, 8)
    state = torch.random.get_rng_state()
    scores = cross_fitted_probe(features, labels, 3)
    assert torch.equal(state, torch.random.get_rng_state())
    assert (scores.argmax(dim=1) == labels).float().mean() > 0.9
    folds, others = torch.from_numpy(assign_folds(200, 5, 0, labels)), labels.clone()
    others[0] = (labels[0] + 1) % 3
    learned = torch.ones(200, dtype=torch.bool)
    fits = [_fit(features, given, folds, learned, 3, 5, 0.7, 0, 0.01) for given in (labels, others)]
    same = [all(torch.equal(first[fold], second[fold]) for first, second in zip(*fits)) for fold in range(5)]
    assert same == [fold == folds[0] for fold in range(5)]
    features[5] = torch.nan
    again = cross_fitted_probe(features, labels, 3)
    assert again[5].isnan().all() and again[torch.arange(200) != 5].isfinite().all()


@pytest.mark.parametrize("q", [0.0, 0.7, 1.0])
def test_the_gradient_of_the_probes_is_that_of_their_loss(q):
    logits, labels = torch.randn(3, 8, 5, requires_grad=True), torch.arange(8) % 5
    generalized_cross_entropy(logits, labels.expand(3, -1), q).sum().backward()
    torch.testing.assert_close(gce_gradient(logits.detach(), labels, q), logits.grad)
    with pytest.raises(ValueError, match=r"has to be in \[0, 1\]; got 7"):
        cross_fitted_probe(logits.detach()[0], labels, 5, q=7)


def test_weights_are_kept_small_as_far_as_labels_ask_for_it():
    """Four classes as in embeddings, in a few directions which most of the variance is in. Right labels and wide gaps:
    hardly any decay, to the last bit. Wrong labels and near gaps: without decay, mostly chance is learned."""
    generator = torch.Generator().manual_seed(0)
    true = torch.randint(4, (800,), generator=generator)
    noise, centers = torch.randn(800, 256, generator=generator), torch.nn.functional.one_hot(true, 256)
    noise[:, 8:] *= 0.15
    least, *_ = WEIGHT_DECAYS
    plain = cross_fitted_probe(noise + 6 * centers, true, 4)
    assert torch.equal(plain, cross_fitted_probe(noise + 6 * centers, true, 4, weight_decay=least))
    is_wrong = torch.rand(800, generator=generator) < 0.6
    given = torch.where(is_wrong, torch.randint(4, (800,), generator=generator), true)
    noise += 0.5 * centers
    found = {decay: cross_fitted_probe(noise + centers, given, 4, weight_decay=decay) for decay in WEIGHT_DECAYS}
    likelihoods = {}
    for decay, scores in found.items():  # by a search over a table of scales
        scaled = (scores.unsqueeze(2) * torch.logspace(-3, 2, 400) / scores.abs().mean()).softmax(dim=1)
        right = scaled[torch.arange(800), given]
        by_share = [((1 - share) * right + share / 4).log().mean(dim=0).max() for share in (0, 0.1, 0.3, 0.5, 0.7, 0.9)]
        likelihoods[decay] = float(max(by_share))
        assert _held_out_likelihood(scores, given) == pytest.approx(likelihoods[decay], abs=1e-4)
    likeliest = max(likelihoods, key=likelihoods.get)
    chosen = cross_fitted_probe(noise + centers, given, 4)
    assert likeliest != least and torch.equal(chosen, found[likeliest])
    right = {decay: float((scores.argmax(dim=1) == true).float().mean()) for decay, scores in found.items()}
    assert right[likeliest] > right[least] + 0.05 and right[likeliest] > 0.5
    with pytest.raises(ValueError, match="`weight_decay` is empty"):
        cross_fitted_probe(noise, given, 4, weight_decay=())


def test_a_rare_class_is_learned():
    """Beside a class that is near it. If all classes' samples count alike, its labels look wrong to the probe."""
    rng, sizes = np.random.default_rng(0), [60] * 39 + [12]
    means = rng.normal(size=(40, 24))
    means[39] = means[0] + 0.4 * rng.normal(size=24)
    labels = np.repeat(np.arange(40), sizes)
    features = torch.from_numpy(means[labels] + 0.35 * rng.normal(size=(len(labels), 24)))
    is_right = cross_fitted_probe(features, torch.from_numpy(labels), 40).argmax(dim=1).numpy() == labels
    assert is_right[labels == 39].mean() > 0.9 and is_right.mean() > 0.98


def test_a_source_of_your_own():
    def centroid(features, labels, num_labels, seed):
        return features[:, :num_labels]

    register_evidence("centroid", centroid)
    try:
        (mean, own) = evidence_sources("mean_probe+centroid")
        assert (mean.features, own.name) == ("mean", "centroid")
        assert own(torch.ones(4, 5), torch.zeros(4).long(), 3, 0).shape == (4, 3)
        with pytest.raises(ValueError, match=r"scores of shape \[4, 7\]"):
            own(torch.ones(4, 5), torch.zeros(4).long(), 7, 0)
    finally:
        del EVIDENCE_SOURCES["centroid"]
    for names, message in (("mean_probe+mean_probe", "twice"), ("mean", "There are: 'mean_probe', 'head_probe'")):
        with pytest.raises(ValueError, match=message):
            evidence_sources(names)


def test_a_noise_matrix_explains_injected_noise_and_not_errors_on_samples_in_doubt():
    scores, true, labels = simulated(symmetric_matrix(5, 0.3), size=2000, separation=2.5)
    probabilities = softmax(2.5 * scores, axis=1)
    rng = np.random.default_rng(0)
    by_doubt = np.array([rng.choice(5, p=row) for row in probabilities])  # right as often as the prediction says
    assert (by_doubt != true).mean() > 0.05
    found = {
        name: fit_noise_model(log_probabilities(probabilities), given)
        for name, given in {"noise": labels, "clean": true, "doubt": by_doubt}.items()
    }
    assert found["noise"].explained > 0.7 and found["doubt"].explained < 0.3 and found["clean"].explained < 0.4
    doubt = (1 - found["noise"].prediction[np.arange(2000), labels]).mean()
    assert found["noise"].explained == pytest.approx(found["noise"].noise_rate / doubt, rel=1e-5)
    assert np.isnan(fit_noise_model(rng.normal(size=(200, 3)), rng.integers(0, 3, 200)).explained)  # says nothing

    def estimate(given, least):
        losses = -np.log(probabilities[np.arange(2000), given])
        estimator = mixture_if_unexplained(get_estimator("noise_model"), least)
        return estimator(SampleEvidence(losses, given, probabilities=probabilities)), losses

    asked, _ = estimate(labels, 0.5)
    np.testing.assert_array_equal(asked.posterior, found["noise"].target)
    unexplained, losses = estimate(by_doubt, 0.5)
    assert unexplained.posterior is None and unexplained.transition_matrix is None
    np.testing.assert_array_equal(unexplained.clean_probability, gaussian_mixture(losses).clean_probability)
    assert {"noise_model_explained", "mixture_separation"} <= unexplained.diagnostics.keys()
    assert estimate(by_doubt, 0.0)[0].posterior is not None
    by_losses = get_estimator("gaussian_mixture")  # tells nothing of a matrix
    assert (
        mixture_if_unexplained(by_losses, 1.0)(SampleEvidence(losses))
        .diagnostics.keys()
        .isdisjoint({"noise_model_explained"})
    )
