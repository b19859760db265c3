"""What is stated without the truth, against the truth: noise rate, expected precision, accuracy on true labels."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from helpers.simulated import asymmetric, simulated, softmax

from hf_clear import audit_labels, find_label_issues, fit_noise_model
from hf_clear.data import read_files, text_features
from hf_clear.transition_matrices import symmetric_matrix
from hf_clear.trust import (
    NoiseRate,
    PlantedErrors,
    clean_accuracy,
    confident_joint,
    expected_precision,
    plant_and_find,
)

DATA = Path(__file__).parents[2] / "shared" / "data"


def check_statements(audit, is_wrong, predictions_right=None):
    """Every statement holds within its interval."""
    assert audit.noise_rate.low <= is_wrong.mean() <= audit.noise_rate.high
    found = np.cumsum(is_wrong[audit.table["sample_index"][:]])
    assert audit.expected_precision
    for row in audit.expected_precision:
        share = found[row["num_labels"] - 1] / row["num_labels"]
        assert row["precision_low"] - 1e-9 <= share <= row["precision_high"] + 1e-9, row
    if predictions_right is not None:
        assert audit.accuracy.low <= predictions_right.mean() <= audit.accuracy.high


@pytest.mark.parametrize(
    ("matrix", "separation", "tells"),
    [
        (symmetric_matrix(5, 0.4), 4.0, True),
        (asymmetric(0.3, 5), 4.0, True),
        (symmetric_matrix(2, 0.3), 3.0, True),
        (np.eye(5), 1.0, False),  # hard samples: half of them are beyond every classifier
    ],
    ids=["symmetric", "asymmetric", "two classes", "no noise, hard samples"],
)
def test_statements_are_right_on_simulated_labels(matrix, separation, tells):
    scores, true, labels = simulated(matrix, size=1500, separation=separation)
    audit = audit_labels(labels, softmax(scores))
    check_statements(audit, true != labels, scores.argmax(axis=1) == true)
    rate, row = audit.noise_rate, audit.precision_of_issues
    if tells:  # not only wide intervals
        assert rate.high - rate.low < 0.15 and audit.planted.found > 0.88
        assert row["precision_low"] > 0.5
        precision = (true != labels)[audit.label_issues["sample_index"][:]].mean()
        assert row["precision_mixture"] == pytest.approx(precision, abs=0.03)
        assert row["precision_planted"] == pytest.approx(precision, abs=0.06)
        assert audit.accuracy.estimate == pytest.approx((scores.argmax(axis=1) == true).mean(), abs=0.02)
        assert audit.accuracy.given < 0.75
    else:  # nothing says that a label is wrong
        assert rate.low == 0 and all(row["precision_low"] == 0 for row in audit.expected_precision)


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize("name", ["banking77", "sst5"])
def test_statements_are_right_on_texts(name):
    """Features by TF-IDF, in place of a model. On SST-5 they say little, and the range has to say so."""
    column = "category" if name == "banking77" else "label"
    data = read_files({"train": str(DATA / name / "train.csv")})["train"]
    _, true = np.unique(data[column][:], return_inverse=True)
    rows = np.flatnonzero(true < 8)[:800]
    data, true = data.select(rows), true[rows]
    num_labels = int(true.max()) + 1
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(len(true)) < 0.4, (true + rng.integers(1, num_labels, len(true))) % num_labels, true)
    audit = audit_labels(labels, features=text_features(data))
    check_statements(audit, true != labels)
    if name == "banking77":
        assert audit.noise_rate.high - audit.noise_rate.low < 0.35 and audit.planted.found > 0.8
        precision = (true != labels)[audit.label_issues["sample_index"][:]].mean()
        assert audit.precision_of_issues["precision_mixture"] == pytest.approx(precision, abs=0.1)
    else:
        assert audit.noise_rate.low == 0 and audit.noise_rate.high > 0.6 and len(audit.label_issues) < 80


def test_few_samples_one_class_and_rows_that_say_nothing():
    """None of them is an error, and what says nothing changes nothing for the others."""
    for size in (10, 12, 24, 29):
        labels = np.arange(size) % 2
        assert len(audit_labels(labels, np.where(np.eye(2)[labels] == 1, 0.98, 0.02)).table) == size
    assert audit_labels(np.zeros(20, dtype=int), np.ones((20, 1))).noise_rate.high <= 1
    scores, _, labels = simulated(symmetric_matrix(3, 0.3), size=1500, separation=3.0)
    probabilities, silent = softmax(scores), np.arange(1500) % 2 == 0
    others = audit_labels(labels[~silent].astype(np.uint8), probabilities[~silent])
    probabilities[silent] = np.nan
    audit = audit_labels(labels, probabilities, cuts=[10])
    assert audit.noise_rate.mixture == pytest.approx(others.noise_rate.mixture, abs=1e-6)
    assert len(audit.label_issues) == len(others.label_issues) and len(audit.table) == 1500
    assert audit.accuracy.estimate == pytest.approx(others.accuracy.estimate, abs=1e-6)
    assert audit.precision_of_issues is not None


def test_nothing_is_stated_if_nothing_is_known(caplog):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 400)
    audit = audit_labels(labels, features=rng.normal(size=(400, 8)))
    assert not audit.is_supported and len(audit.label_issues) == 0 and audit.precision_of_issues is None
    assert (audit.noise_rate.low, audit.noise_rate.high) == (0, 1) and np.isnan(audit.noise_rate.mixture)
    for row in audit.expected_precision:
        assert (row["precision_low"], row["precision_high"]) == (0, 1) and np.isnan(row["precision_mixture"])
    assert "say nothing about the labels" in caplog.text


def test_confident_joint_is_that_of_cleanlab():
    scores, _, labels = simulated(asymmetric(0.3, 4), size=600, separation=2.0)
    probabilities = softmax(scores)
    joint = confident_joint(probabilities, labels)
    expected = np.zeros((4, 4))
    threshold = [probabilities[labels == label, label].mean() for label in range(4)]
    for row, label in zip(probabilities, labels):
        confident = [k for k in range(4) if row[k] >= threshold[k]]
        if confident:
            expected[label, max(confident, key=lambda k: row[k])] += 1
    expected = expected / expected.sum(axis=1, keepdims=True) * np.bincount(labels)[:, None] / 600
    np.testing.assert_allclose(joint, expected, atol=1e-6)
    cleanlab = pytest.importorskip("cleanlab.count", reason="needs the extra benchmarks")
    np.testing.assert_allclose(joint, cleanlab.estimate_joint(labels, probabilities), atol=0.01)
    labels[:9], probabilities[9:12] = -100, np.nan
    assert np.isfinite(confident_joint(probabilities, labels)).all()


def test_an_audit_shows_no_tables():
    scores, _, labels = simulated(symmetric_matrix(3, 0.3), size=300)
    audit = audit_labels(labels, softmax(scores))
    assert len(repr(audit)) < 600 and "array" not in repr(audit.planted) + repr(audit)


def test_planted_errors_are_drawn_and_found_again():
    scores, true, labels = simulated(symmetric_matrix(4, 0.2), size=1000)
    labels[:50] = -100
    seen = []

    def rescore(given):
        seen.append(given)
        return scores

    found = plant_and_find(fit_noise_model(scores, labels), rescore, seed=3)
    assert len(seen) == 4 and len(found.planted) == 4 * round(0.05 * 950) and found.num_labels == 4
    for given in seen:
        changed = given != labels
        assert changed.sum() == round(0.05 * 950) and not changed[:50].any()
        assert given[~changed].tolist() == labels[~changed].tolist() and (given[50:] >= 0).all()
    assert found.found > 0.9
    assert set(found.kind) == {0, 1} and len(found.untouched) == 4 * (950 - round(0.05 * 950))
    again = plant_and_find(fit_noise_model(scores, labels), rescore, seed=3)
    assert np.array_equal(again.planted, found.planted)


def test_a_flipped_wrong_label_may_be_right():
    """Two classes, 30 % wrong: a flip of a wrong label mends it. Counted for what it is, precision comes out right."""
    rng = np.random.default_rng(0)
    wrong = rng.random(40_000) < 0.3
    planted = rng.random(40_000) < 0.5  # not to wait for a large sample
    is_wrong = wrong ^ planted
    score = np.where(is_wrong, rng.beta(1, 3, 40_000), rng.beta(3, 1, 40_000))
    seen = PlantedErrors(score[planted], np.arange(planted.sum()) % 2, score[~planted], 2, noise_rate=0.3)
    order = np.argsort(score[~planted])
    cut = 5000
    (row,) = expected_precision(score[~planted], NoiseRate(0.3, 0.3, 0.3, 0.3), seen, [cut, 10**6])
    truth = wrong[~planted][order[:cut]].mean()
    assert row["precision_planted"] == pytest.approx(truth, abs=0.03)
    assert seen.found == pytest.approx((score[is_wrong] < 0.5).mean(), abs=0.02)
    assert row["num_labels"] == cut and row["threshold"] == np.sort(score[~planted])[cut - 1]


def test_precision_of_a_short_list_is_less_certain():
    probability = np.concatenate([np.full(200, 0.05), np.full(800, 0.999), [np.nan] * 5])
    rate = NoiseRate(0.19, 0.19, 0.19, 0.19)
    short, long = expected_precision(probability, rate, None, [10, 200, 0, 5000])
    assert short["precision_mixture"] == pytest.approx(0.95) and np.isnan(short["precision_planted"])
    assert (short["precision_low"], short["precision_high"]) == (0, 1)
    assert (
        long["precision_high"] == pytest.approx(0.98) and expected_precision(np.full(3, np.nan), rate, None, [1]) == []
    )


@pytest.mark.parametrize("separation", [3.0, 1.5])
def test_estimate_by_planted_errors_does_not_rise_along_the_list(separation):
    """At the top, where one planted error or two are found, it goes by those further down, or there is none."""
    too_high = []
    for seed in range(4):
        rng = np.random.default_rng(100 + seed)
        true = rng.integers(0, 4, 3000)
        scores = separation * np.eye(4)[true] + rng.normal(size=(3000, 4))
        labels = np.where(rng.random(3000) < 0.2, (true + rng.integers(1, 4, 3000)) % 4, true)
        audit = audit_labels(labels, softmax(scores), cuts=[10, 50, 100, 200, 500, 1000], seed=seed)
        found = np.cumsum((true != labels)[audit.table["sample_index"][:]])
        first, *rows = audit.expected_precision
        estimate = np.array([row["precision_planted"] for row in rows])
        assert np.isnan(first["precision_planted"]) and (np.diff(estimate) <= 1e-9).all()
        assert all(row["precision_low"] <= row["precision_planted"] <= row["precision_high"] for row in rows)
        truth = np.array([found[row["num_labels"] - 1] / row["num_labels"] for row in rows])
        too_high.append(estimate - truth)
        if separation == 3:
            assert estimate[:3] == pytest.approx(truth[:3], abs=0.1)
    assert np.mean(too_high, axis=0).max() < 0.12


def test_a_cut_among_equal_scores_is_as_good_as_all_of_them():
    """600 labels share the lowest score, half of them wrong: so is every cut of them."""
    score = np.repeat([0.2, 0.9], [600, 1400])
    planted = PlantedErrors(np.full(300, 0.2), np.arange(300) % 2, score, 4, noise_rate=0.15)
    rows = expected_precision(score, NoiseRate(0.15, 0.15, 0.15, 0.15), planted, [100, 600, 1200])
    assert [row["precision_planted"] for row in rows] == pytest.approx([0.5, 0.5, 0.25], abs=0.03)
    assert rows[0]["precision_low"] < 0.5 < rows[0]["precision_high"]


def test_accuracy_on_true_labels():
    rng = np.random.default_rng(0)
    matrix = np.array([[0.8, 0.2, 0], [0.1, 0.6, 0.3], [0.3, 0.1, 0.6]])
    covered = []
    for _ in range(200):
        true = rng.integers(0, 3, 500)
        predictions = np.where(rng.random(500) < 0.85, true, rng.integers(0, 3, 500))
        labels = (rng.random(500)[:, None] > np.cumsum(matrix, axis=1)[true]).sum(axis=1)
        found = clean_accuracy(predictions, labels, matrix)
        assert found.given < 0.75
        covered.append(found.low <= (predictions == true).mean() <= found.high)
    assert 0.93 < np.mean(covered)  # 95 %, and of this sample more
    wider = clean_accuracy(predictions, labels, matrix, (0.2, 0.4))
    assert wider.low < found.low and wider.high >= found.high and wider.estimate == found.estimate
    useless = clean_accuracy(predictions, labels, np.full((3, 3), 1 / 3))
    assert (useless.low, useless.high) == (0, 1)
    for arguments, message in (
        (([0, 1], [0], np.eye(2)), r"`predictions` has to be of shape \[1\].*got \[2\]"),
        (([0], [-100], np.eye(2)), "No sample has a label"),
        (([0, 2], [0, 1], np.eye(2)), r"`predictions` has to hold classes from 0 to 1: `predictions\[1\]` is 2"),
        (([0, 1], [0, -1], np.eye(2)), r"`labels` has to hold classes from 0 to 1, or -100 for none: `labels\[1\]` is"),
        (([0.2, 0.8], [0, 1], np.eye(2)), r"`predictions` has to hold class numbers.*float64. Of scores.*argmax"),
        *(
            (([0, 1], [0, 1], np.eye(2), rates), "`noise_rate` has to be the two ends of a range in")
            for rates in (0.2, (np.nan, 0.5), (0.9, 2.0), (0.5, 0.1), (0.1, 0.2, 0.3), "ab")
        ),
    ):
        with pytest.raises(ValueError, match=message):
            clean_accuracy(*arguments)
    as_lists = clean_accuracy(torch.tensor([0, 1, 1]), pd.Series([0, 1, 0]), np.eye(2).tolist(), [0.1, 0.2])
    assert as_lists == clean_accuracy(np.array([0, 1, 1]), np.array([0, 1, 0]), np.eye(2), (0.1, 0.2))


def test_find_label_issues_with_features_of_any_model(caplog):
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, 300)
    features = 4 * np.eye(3)[true] + rng.normal(size=(300, 3))
    labels = np.where(rng.random(300) < 0.2, (true + 1) % 3, true)
    features[0] = np.nan
    texts, names = {"text": [f"text {i}" for i in range(300)]}, ["red", "green", "blue"]
    state = torch.random.get_rng_state()
    with caplog.at_level(logging.WARNING, "hf_clear"):
        table = find_label_issues(labels, features=features, texts=texts, label_names=names)
    assert torch.equal(state, torch.random.get_rng_state())
    assert "1 of 300 labelled samples have no finite prediction" in caplog.text
    assert table.column_names == [
        *("sample_index", "text", "given_label", "predicted_label", "is_label_issue", "label_score"),
        *("suggestion_confidence", "loss", "reasons"),
    ]
    found = np.array(table["sample_index"])
    assert (true != labels)[found].mean() > 0.9 and len(found) > 0.8 * (true != labels).sum()
    assert table["text"][:] == [f"text {i}" for i in found]
    assert (np.array(table["predicted_label"]) == np.array(names)[true[found]]).mean() > 0.95
    assert all("disagrees_with_neighbors" in reasons for reasons in table["reasons"][:5])
    both = find_label_issues(labels, softmax(features @ np.eye(3)), features=[features, features[:, :2]])
    assert len(set(both["sample_index"]) & set(found)) > 0.9 * len(found)
    every = find_label_issues(labels, features=features, return_all=True)
    assert len(every) == 300 and every[-1]["sample_index"] == 0 and every[-1]["reasons"] == ["not_scored"]
    for arguments, message in (
        ({}, "nothing to judge labels by"),
        ({"features": features[:5]}, r"`features` has to be of shape \[300, dim\].*got \[5, 3\]"),
        ({"features": []}, "`features` is empty"),
        ({"features": scipy.sparse.csr_matrix(features)}, "`features` is sparse.*TruncatedSVD"),
        ({"features": features, "label_names": ["a", "b"]}, "there are 2 classes"),
        ({"features": features, "texts": {"text": ["a"]}}, "`texts` has 1 rows for 300 labels"),
    ):
        with pytest.raises(ValueError, match=message):
            find_label_issues(labels, **arguments)
    for wrong, message in (
        (np.array(["a"]), "np.unique"),
        ([], "`labels` is empty"),
        (np.ma.array([0, 1], mask=[True, False]), "`labels` is masked: fill in -100"),
    ):
        with pytest.raises(ValueError, match=message):
            find_label_issues(wrong, features=features[: len(wrong)])
