"""Each estimator by itself, and estimators by name: registered, combined, refused."""

from dataclasses import dataclass, field
from unittest.mock import patch

import numpy as np
import pytest
from helpers.losses import two_groups
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from transformers import HfArgumentParser

from hf_clear.estimators import (
    ESTIMATORS,
    CleanProbabilityEstimate,
    SampleEvidence,
    gaussian_mixture,
    get_estimator,
    knn_agreement,
    out_of_sample_cross_entropy,
    per_class_gaussian_mixture,
    register_estimator,
)


def test_knn_agreement_by_hand():
    # Samples 0 and 1 point the same way, sample 2 is at 60 degrees to both, sample 3 points away from all.
    features = np.array([[1, 0], [2, 0], [0.5, 0.75**0.5], [-1, -1]])
    agreement = knn_agreement(features, np.array([0, 1, 0, 1]))
    assert agreement == pytest.approx([0.5 / 1.5, 0, 0.5 / 1, 1 / 3], abs=1e-5)
    assert knn_agreement(features, np.array([0, 1, 0, 1]), k=1)[:2].tolist() == [0, 0]
    assert knn_agreement(np.ones((12, 3)), np.zeros(12)).tolist() == [1] * 12
    assert knn_agreement(features[:1], np.zeros(1)).tolist() == [1]


@pytest.mark.parametrize("noise_rate", [0.4, 0.6])
def test_knn_finds_symmetric_noise_without_losses(noise_rate):
    rng = np.random.default_rng(5)
    true, noisy = rng.integers(0, 10, 3000), rng.random(3000) < noise_rate
    features = (rng.normal(size=(10, 32))[true] + rng.normal(0, 0.4, (3000, 32))).astype(np.float16)
    labels = np.where(noisy, (true + rng.integers(1, 10, 3000)) % 10, true)
    probability = get_estimator("knn")(SampleEvidence(np.zeros(3000), labels, features=features)).clean_probability
    assert roc_auc_score(~noisy, probability) > 0.95
    assert ((probability > 0.5) == ~noisy).mean() > 0.85
    if noise_rate == 0.6:  # the bare share would call most clean samples wrong
        assert np.median(knn_agreement(features, labels)[~noisy]) < 0.5 < np.median(probability[~noisy])


def test_the_probe_judges_a_label_by_a_classifier_that_has_not_seen_it():
    """Features that tell every sample from every other: learned by heart, all labels would look right."""
    rng = np.random.default_rng(7)
    true, noisy = rng.integers(0, 3, 240), rng.random(240) < 0.3
    labels = np.where(noisy, (true + rng.integers(1, 3, 240)) % 3, true)
    features = np.hstack([2 * np.eye(3)[true], rng.normal(size=(240, 300))])
    losses = out_of_sample_cross_entropy(features, labels)
    in_sample = LogisticRegression(max_iter=1000).fit(features, labels)
    assert (in_sample.predict(features) == labels).all()
    assert roc_auc_score(noisy, losses) > 0.8 and losses.min() > 0
    assert np.array_equal(losses, out_of_sample_cross_entropy(features, labels))
    # Leave one out: no fit for its fold sees the label of sample 9, so that the likelihoods of its labels add up to 1.
    given = np.tile(labels[:30], (3, 1))
    given[:, 9] = range(3)
    likelihood = [np.exp(-out_of_sample_cross_entropy(features[:30, :5], row, num_folds=30)[9]) for row in given]
    assert sum(likelihood) == pytest.approx(1, abs=1e-3)


def test_the_probe_where_classes_are_small(caplog):
    rng = np.random.default_rng(8)
    labels = np.array([*[0] * 30, *[1] * 30, 2, *[7] * 2, *[9] * 4])
    features = rng.normal(size=(len(labels), 5)) + labels[:, None]
    losses = out_of_sample_cross_entropy(features, labels)
    assert np.flatnonzero(np.isnan(losses)).tolist() == [60]  # its class has no other sample to learn from
    evidence = SampleEvidence(np.zeros(len(labels)), labels, features=features)
    assert get_estimator("probe")(evidence).clean_probability[60] == 1
    assert "1 samples are alone in their class" in caplog.text
    for size, num_folds in [(3, 5), (40, 5), (3, 2)]:  # fewer samples than folds
        classes = np.arange(size) % 2
        assert np.isfinite(out_of_sample_cross_entropy(features[:size], classes, num_folds)).sum() == size - (size == 3)
    assert out_of_sample_cross_entropy(features, np.zeros(len(labels))).tolist() == [0] * len(labels)
    assert np.isnan(out_of_sample_cross_entropy(features[:1], labels[:1])).all()
    with pytest.raises(ValueError, match="`num_folds` has to be a whole number, 2 or above"):
        out_of_sample_cross_entropy(features, labels, num_folds=1)


def evidence() -> SampleEvidence:
    rng = np.random.default_rng(6)
    losses, noisy = two_groups()
    mean_losses = losses + rng.normal(0, 0.5, 2000)
    features = rng.normal(size=(2000, 4)) + 5 * noisy[:, None]
    return SampleEvidence(losses, rng.integers(0, 2, 2000), mean_losses, features=features)


def test_names_stand_for_functions_of_the_evidence():
    known = evidence()
    for name, expected in [
        ("gaussian_mixture", gaussian_mixture(known.losses)),
        ("per_class_gaussian_mixture", per_class_gaussian_mixture(known.losses, known.labels)),
        ("ema_gaussian_mixture", gaussian_mixture(known.mean_losses)),
        ("knn", gaussian_mixture(1 - knn_agreement(known.features, known.labels))),
        ("probe", gaussian_mixture(out_of_sample_cross_entropy(known.features, known.labels))),
    ]:
        estimator = get_estimator(name)
        estimate = estimator(known)
        assert np.array_equal(estimate.clean_probability, expected.clean_probability)
        assert estimate.diagnostics == expected.diagnostics
        assert estimator.uses_features == (name in ("knn", "probe"))
    assert np.array_equal(
        SampleEvidence(known.losses).mean_losses, known.losses
    )  # before a second refit, and for other callers


def test_a_combination_is_the_mean_of_its_parts():
    known = evidence()
    parts = [get_estimator(name)(known) for name in ("ema_gaussian_mixture", "knn", "gaussian_mixture")]
    estimator = get_estimator("ema_gaussian_mixture+knn+gaussian_mixture")
    estimate = estimator(known)
    assert estimator.uses_features
    assert np.allclose(estimate.clean_probability, sum(part.clean_probability for part in parts) / 3, atol=1e-12)
    assert estimate.diagnostics == parts[0].diagnostics  # those of the others have the same names
    assert not get_estimator("gaussian_mixture+ema_gaussian_mixture").uses_features


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_an_estimator_that_finds_nothing_says_so(name):
    """Or it calls labels wrong; to call all right with certainty is a finding, too."""
    rng = np.random.default_rng(0)
    labels, flat = rng.integers(0, 2, 60), np.full((60, 2), 0.5)
    told = {"features": np.ones((60, 3)), "probabilities": flat, "held_out_clean_probability": np.full(60, 0.5)}
    with patch("hf_clear.estimators.probe.out_of_sample_cross_entropy", lambda *_: np.ones(60)):
        found = get_estimator(name)(SampleEvidence(np.ones(60), labels, **told))
    assert not found.is_supported or (found.clean_probability < 1).any()


def test_what_says_nothing_is_no_part_of_a_combination():
    known = evidence()
    with patch("hf_clear.estimators.probe.out_of_sample_cross_entropy", lambda *_: np.ones(len(known.losses))):
        assert not get_estimator("probe")(known).is_supported
        alone, both = (get_estimator(name)(known) for name in ("gaussian_mixture", "gaussian_mixture+probe"))
    assert (alone.clean_probability < 0.5).any() and both.is_supported
    assert np.array_equal(alone.clean_probability, both.clean_probability)


@patch.dict(ESTIMATORS)
def test_one_line_registers_an_estimator():
    known = SampleEvidence(np.array([0.0, 1.0]), probabilities=np.array([[0.1, 0.9], [0.5, 0.5]]))

    register_estimator(
        "toy", lambda e: CleanProbabilityEstimate(e.probabilities[:, 1], {"sure": 0.5}), uses_features=True
    )

    assert get_estimator("toy")(known).clean_probability.tolist() == [0.9, 0.5]
    assert get_estimator("gaussian_mixture+toy").uses_features
    assert list(get_estimator("toy+gaussian_mixture")(known).diagnostics)[:2] == ["sure", "mixture_mean_clean"]
    with pytest.raises(ValueError, match="a clean-probability estimator 'toy' already"):
        register_estimator("toy", get_estimator("knn"))
    with pytest.raises(ValueError, match="'a[+]b' holds '[+]'"):
        register_estimator("a+b", get_estimator("knn"))
    register_estimator("three", lambda e: CleanProbabilityEstimate(np.ones(3)))
    with pytest.raises(ValueError, match="'three' returned 3 clean probabilities for 2 samples"):
        get_estimator("gaussian_mixture+three")(known)


@pytest.mark.parametrize("name", ["gmm", "gaussian_mixture+gmm", "gaussian_mixture+", ""])
def test_unknown_names_are_refused_with_those_that_are_known(name):
    unknown = name.split("+")[-1]
    known = "'gaussian_mixture', .*'knn', 'noise_model', 'plain_gaussian_mixture', .*'probe'. .* Put '[+]'"
    with pytest.raises(ValueError, match=f"no clean-probability estimator '{unknown}'. There are: {known}"):
        get_estimator(name)


def test_a_command_line_lists_the_names_and_takes_combinations(capsys):
    @dataclass
    class Arguments:
        estimator: str = field(default="knn", metadata={"help": "What it is.", "choices": ESTIMATORS})

    with patch.dict(ESTIMATORS):
        register_estimator("toy", lambda e: CleanProbabilityEstimate(np.ones(len(e.losses))))
        (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(["--estimator", "toy+knn"])
        assert arguments.estimator == "toy+knn" and "toy+knn" in ESTIMATORS and "toy+knn" not in list(ESTIMATORS)
        with pytest.raises(SystemExit):
            HfArgumentParser(Arguments).parse_args_into_dataclasses(["--help"])
        assert f"{{{','.join(ESTIMATORS)}}}" in capsys.readouterr().out and list(ESTIMATORS)[-1] == "toy"
    for unknown in ("toy", "knn+toy", "knn+", ""):
        with pytest.raises(SystemExit):
            HfArgumentParser(Arguments).parse_args_into_dataclasses(["--estimator", unknown])
        assert "invalid choice" in capsys.readouterr().err


def test_evidence_that_an_estimator_cannot_use_is_refused():
    losses, labels, features = np.arange(3.0), np.array([0, 1, 1]), np.eye(3)
    for name, known, message in [
        ("per_class_gaussian_mixture", SampleEvidence(losses), "`labels` is None.*'gaussian_mixture' does without"),
        ("knn", SampleEvidence(losses, features=features), "`labels` is None"),
        ("knn", SampleEvidence(losses, labels), "`features` is None"),
        ("probe", SampleEvidence(losses, features=features), "`labels` is None"),
        ("probe", SampleEvidence(losses, labels), "`features` is None"),
        ("probe", SampleEvidence(losses, labels, features=features + [[0], [0], [np.inf]]), "1 samples .*index 2"),
        ("probe", SampleEvidence(losses, labels, features=losses), "got \\[3\\] and \\[3\\]"),
        ("knn", SampleEvidence(losses, labels, features=features * [[1], [0], [1]]), "1 samples .*index 1"),
        ("knn", SampleEvidence(losses, labels, features=features + [[0], [0], [np.nan]]), "1 samples .*index 2"),
        ("knn", SampleEvidence(losses, labels, features=losses), "got \\[3\\] and \\[3\\]"),
        ("knn", SampleEvidence(losses, np.eye(3), features=features), "got \\[3, 3\\] and \\[3, 3\\]"),
        ("per_class_gaussian_mixture", SampleEvidence(losses, np.eye(3)), "`labels` has to be of shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            get_estimator(name)(known)
    for name in ("labels", "mean_losses", "probabilities", "features"):
        with pytest.raises(ValueError, match=f"`{name}` has 2 rows for 3 samples"):
            SampleEvidence(losses, **{name: np.zeros(2)})
    with pytest.raises(ValueError, match="`labels` has 2 rows for 3 samples"):
        per_class_gaussian_mixture(losses, labels[:2])
    with pytest.raises(ValueError, match="at least 1 neighbor, got 0"):
        knn_agreement(features, labels, k=0)


@patch.dict(ESTIMATORS)
def test_a_loss_that_is_not_finite_means_0_whatever_the_estimator_says():
    register_estimator("sure", lambda e: CleanProbabilityEstimate(np.ones(3)))
    evidence = SampleEvidence(np.array([0.1, np.nan, np.inf]))
    for name in ("sure", "sure+sure"):
        assert get_estimator(name)(evidence).clean_probability.tolist() == [1, 0, 0]
    with pytest.raises(ValueError, match="read-only"):
        evidence.losses[0] = 1
