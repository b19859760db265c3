"""Clean probabilities from mixtures, over all samples and per class."""

import json
import logging

import numpy as np
import pytest
from helpers.losses import two_groups
from sklearn.mixture import GaussianMixture

from hf_clear.estimators import (
    CleanProbabilityEstimate,
    gaussian_mixture,
    per_class_gaussian_mixture,
    plain_gaussian_mixture,
)

NO_MIXTURE = {
    **{f"mixture_{name}": np.nan for name in ("mean_clean", "mean_noisy", "std_clean", "std_noisy", "separation")},
    "mixture_weight_noisy": 0.0,
}


def by_scikit_learn(losses: np.ndarray) -> np.ndarray:
    """What [`gaussian_mixture`] is for, of all losses, sorted."""
    ordered, outer = np.sort(losses.astype(np.float64)), int(0.005 * len(losses))
    low, high = ordered[outer], ordered[-1 - outer]
    clipped = losses.astype(np.float64).clip(2 * low - high, 2 * high - low)
    standardized = ((clipped - clipped.mean()) / clipped.std())[:, None]
    mixture = GaussianMixture(2, random_state=0, max_iter=500).fit(standardized)
    mixture.covariances_ = np.maximum(mixture.covariances_, 0.01)
    mixture.precisions_cholesky_ = 1 / np.sqrt(mixture.covariances_)
    clean = mixture.means_.argmin()
    ordered = np.sort(standardized.ravel())
    posterior = mixture.predict_proba(ordered[:, None])[:, clean]
    last = np.searchsorted(ordered, mixture.means_[clean, 0]) + 1
    posterior[:last] = np.maximum.accumulate(posterior[:last][::-1])[::-1]  # below the mean, from there outwards
    return np.minimum.accumulate(posterior)


def test_posterior_of_the_component_with_the_smaller_mean():
    losses, noisy = two_groups()
    estimate = gaussian_mixture(losses)
    reference = GaussianMixture(2, random_state=0, max_iter=500, tol=1e-8).fit(losses[:, None])
    posterior = reference.predict_proba(losses[:, None])[:, reference.means_.argmin()]
    assert np.abs(estimate.clean_probability - posterior).max() < 0.01
    assert ((estimate.clean_probability < 0.5) == noisy).mean() > 0.995
    found = estimate.diagnostics
    assert (found["mixture_mean_clean"], found["mixture_mean_noisy"]) == pytest.approx((0.6, 3.0), abs=0.05)
    assert (found["mixture_std_clean"], found["mixture_std_noisy"]) == pytest.approx((0.3, 0.5), abs=0.05)
    assert found["mixture_weight_noisy"] == pytest.approx(0.3, abs=0.03)
    assert found["mixture_separation"] == pytest.approx(2.4 / (0.34 / 2) ** 0.5, rel=0.1)
    assert found.keys() == NO_MIXTURE.keys() and set(map(type, found.values())) == {float}


def test_the_plain_mixture_is_that_of_scikit_learn():
    rng = np.random.default_rng(3)
    losses = np.concatenate([rng.normal(0.5, 0.05, 600), rng.normal(1.5, 1.0, 400)])  # one component is much wider
    estimate = plain_gaussian_mixture(losses)
    standardized = ((losses - losses.mean()) / losses.std())[:, None]
    reference = GaussianMixture(2, random_state=0, max_iter=500).fit(standardized)
    clean = reference.means_.argmin()
    assert np.array_equal(estimate.clean_probability, reference.predict_proba(standardized)[:, clean])
    assert estimate.diagnostics["mixture_weight_noisy"] == reference.weights_[1 - clean]
    assert estimate.diagnostics.keys() == NO_MIXTURE.keys()
    # The wide one's tail on the left: what ours never says.
    left = losses < 0.3
    assert estimate.clean_probability[left].max() < 0.1 and gaussian_mixture(losses).clean_probability[left].min() > 0.9

    for odd in ([], [1.0], [2.0] * 5, [0.0, 1.0, np.nan, np.inf, 0.1, 0.9]):
        ours, plain = gaussian_mixture(np.array(odd)), plain_gaussian_mixture(np.array(odd))
        assert plain.clean_probability == pytest.approx(ours.clean_probability, abs=0.05)
        assert np.isnan(plain.diagnostics["mixture_mean_clean"]) == np.isnan(ours.diagnostics["mixture_mean_clean"])


def test_scale_and_offset_of_the_losses_do_not_matter():
    losses, _ = two_groups()
    probability = gaussian_mixture(losses).clean_probability
    for scaled in (losses * 1e-8, losses * 1e6 - 5e6):
        assert np.abs(gaussian_mixture(scaled).clean_probability - probability).max() < 1e-6


def test_a_smaller_loss_never_means_a_smaller_clean_probability():
    rng = np.random.default_rng(1)
    # Where one component is much wider, its tail overtakes the narrow one on the far side of the latter's mean.
    for narrow, wide in [((1.0, 0.05), (3.0, 1.0)), ((4.0, 0.05), (2.0, 1.0))]:
        losses = np.concatenate([rng.normal(*narrow, 1000), rng.normal(*wide, 1000)])
        probability = gaussian_mixture(losses).clean_probability[losses.argsort()]
        assert (np.diff(probability) <= 0).all() and probability[0] > 0.9 and probability[-1] < 0.1


def test_samples_that_are_not_learned_yet_are_not_called_wrong_for_it():
    """Late in training: most clean losses at 0, some clean samples learned less well, the wrong labels far off."""
    rng = np.random.default_rng(2)
    clean = np.concatenate([rng.exponential(0.01, 1500), rng.normal(0.4, 0.05, 30)])
    losses = np.concatenate([clean, rng.normal(4.0, 0.8, 1000)])
    bare = GaussianMixture(2, random_state=0).fit(losses[:, None])
    assert bare.predict_proba(losses[:, None])[1500:1530, bare.means_.argmin()].max() < 0.5
    assert gaussian_mixture(losses).clean_probability[:1530].min() > 0.5


def test_a_smaller_loss_never_means_a_smaller_clean_probability_on_any_input():
    rng = np.random.default_rng(3)
    for _ in range(150):
        groups = [rng.normal(rng.uniform(0, 5), rng.uniform(0.001, 2), rng.integers(2, 120)) for _ in range(3)]
        losses = np.concatenate([*groups, [50.0] * rng.integers(2)])
        estimate = gaussian_mixture(losses)
        probability = estimate.clean_probability[losses.argsort()]
        assert (np.diff(probability) <= 0).all()
        if np.isfinite(estimate.diagnostics["mixture_separation"]):  # else one component has no sample
            assert np.abs(probability - by_scikit_learn(losses)).max() < 1e-12


@pytest.mark.parametrize("wide", ["noisy", "clean"])
def test_many_losses_are_fitted_by_their_quantiles(wide, monkeypatch):
    rng, size = np.random.default_rng(5), 200_000
    clean, noisy = (
        (rng.gamma(1, 0.7, size), rng.gamma(6, 0.6, size))
        if wide == "noisy"
        else (rng.normal(2, 0.8, size), rng.normal(5, 0.4, size))
    )
    losses = np.where(rng.random(size) < 0.6, clean, noisy)
    losses = (losses + np.where(rng.random(size) < 1e-3, rng.exponential(20, size), 0)).astype(np.float32)
    expected = by_scikit_learn(losses)
    fit, sizes = GaussianMixture.fit, []
    monkeypatch.setattr(GaussianMixture, "fit", lambda self, X: sizes.append(len(X)) or fit(self, X))
    estimate = gaussian_mixture(losses)
    assert sizes == [2**15]
    probability = estimate.clean_probability[losses.argsort()]
    assert np.abs(probability - expected).max() < 0.01 and (np.diff(probability) <= 0).all()
    assert estimate.clean_probability.dtype == np.float64 and 0.2 < probability.mean() < 0.8


@pytest.mark.parametrize("outliers", [[100.0], [1e6, 1e6], [1e300], [-1e6]])
def test_outliers_make_no_component_of_their_own(outliers):
    losses, noisy = two_groups()
    losses, noisy = np.append(losses, outliers), np.append(noisy, np.array(outliers) > 0)
    assert ((gaussian_mixture(losses).clean_probability < 0.5) == noisy).mean() > 0.995


def test_losses_that_are_not_finite_are_left_out_and_named(caplog):
    losses, _ = two_groups()
    expected = gaussian_mixture(np.delete(losses, [3, 70, 800]))
    losses[[3, 70, 800]] = np.nan, np.inf, -np.inf
    with caplog.at_level(logging.WARNING):
        estimate = gaussian_mixture(losses)
    assert "3 samples (index 3, 70, 800)" in caplog.text
    assert (estimate.clean_probability[[3, 70, 800]] == 0).all()
    assert np.array_equal(np.delete(estimate.clean_probability, [3, 70, 800]), expected.clean_probability)


@pytest.mark.parametrize(
    ("losses", "expected", "message"),
    [
        ([0.7] * 50, [1] * 50, "All losses are the same"),
        ([0.7, 0.7 + 1e-9] * 25, [1] * 50, "All losses are the same"),
        ([0.0] * 50, [1] * 50, "All losses are the same"),
        ([0.7], [1], "too few"),
        ([], [], "too few"),
        ([0.7, np.nan], [1, 0], "too few"),
        ([np.nan] * 3, [0] * 3, "3 samples (index 0, 1, 2)"),
    ],
)
def test_where_a_mixture_makes_no_sense(losses, expected, message, caplog):
    with caplog.at_level(logging.WARNING):
        estimate = gaussian_mixture(np.array(losses))
    assert estimate.clean_probability.tolist() == expected
    assert message in caplog.text
    assert estimate.diagnostics == pytest.approx(NO_MIXTURE, nan_ok=True)


def test_a_component_without_mass(monkeypatch, caplog):
    fit = GaussianMixture.fit

    def collapse(self, X):
        fit(self, X)
        self.weights_ = np.array([1 - 1e-6, 1e-6])
        return self

    monkeypatch.setattr(GaussianMixture, "fit", collapse)
    with caplog.at_level(logging.WARNING):
        estimate = gaussian_mixture(two_groups()[0])
    assert (estimate.clean_probability == 1).all() and "no sample" in caplog.text


def test_shapes_and_ranges_are_checked():
    with pytest.raises(ValueError, match="num_samples"):
        gaussian_mixture(np.zeros((3, 2)))
    for wrong, message in [([0.5, 7.0], "got 7.0"), ([0.5, np.nan], "got nan"), ([[0.5]], "shape")]:
        with pytest.raises(ValueError, match=message):
            CleanProbabilityEstimate(np.array(wrong))
    for wrong, message in [
        ([0.5], "a dict of numbers by name; got a list"),
        ({1: 0.5}, "strings for names; got 1"),
        ({"share": "half"}, "`diagnostics.'share'.` has to be a finite number, or NaN for none; got half"),
        ({"share": np.inf}, "got inf"),
    ]:
        with pytest.raises(ValueError, match=message):
            CleanProbabilityEstimate(np.ones(3), wrong)
    numbers = {"share": np.float32(0.5), "count": 3, "none": np.nan}
    diagnostics = CleanProbabilityEstimate(np.ones(3), numbers).diagnostics
    assert json.loads(json.dumps(diagnostics)) == pytest.approx(numbers, nan_ok=True)


def test_a_mixture_per_class_separates_what_one_mixture_cannot():
    """The clean losses of the hard class are as large as the noisy losses of the easy one."""
    rng = np.random.default_rng(4)
    labels, noisy = (np.arange(2000) % 4 == 0).astype(int), rng.random(2000) < 0.3
    losses = rng.normal(np.array([[0.5, 2.0], [2.0, 3.5]])[labels, noisy.astype(int)], 0.15)
    estimate = per_class_gaussian_mixture(losses, labels)
    assert ((estimate.clean_probability < 0.5) == noisy).mean() > 0.995
    assert (gaussian_mixture(losses).clean_probability[(labels == 1) & ~noisy] < 0.5).mean() > 0.99
    for label in (0, 1):
        own = gaussian_mixture(losses[labels == label])
        assert np.array_equal(estimate.clean_probability[labels == label], own.clean_probability)
    found = estimate.diagnostics  # three quarters are the easy class's
    assert (found["mixture_mean_clean"], found["mixture_mean_noisy"]) == pytest.approx((0.875, 2.375), abs=0.05)
    assert (found["mixture_std_clean"], found["mixture_std_noisy"]) == pytest.approx((0.15, 0.15), abs=0.02)
    assert found["mixture_weight_noisy"] == pytest.approx(0.3, abs=0.03)
    assert found["mixture_separation"] == pytest.approx(1.5 / 0.15, rel=0.1)


def test_a_class_without_a_mixture_gets_its_answer_from_all_samples(caplog):
    losses, _ = two_groups()
    labels = np.zeros(2000, dtype=int)
    labels[:20] = 1  # too few: 19 are finite
    labels[30:90], losses[30:90] = 2, 0.6  # all the same
    losses[[5, 35, 100]] = np.nan
    of_all = gaussian_mixture(losses).clean_probability
    with caplog.at_level(logging.WARNING):
        estimate = per_class_gaussian_mixture(losses, labels)
    assert "2 of the 3 classes (label 1, 2)" in caplog.text and "index 5, 35, 100" in caplog.text
    assert np.array_equal(estimate.clean_probability[labels > 0], of_all[labels > 0])
    own = gaussian_mixture(losses[labels == 0])
    assert np.array_equal(estimate.clean_probability[labels == 0], own.clean_probability)
    assert estimate.diagnostics == own.diagnostics

    everywhere = per_class_gaussian_mixture(losses, np.arange(2000))
    assert np.array_equal(everywhere.clean_probability, of_all)
    assert everywhere.diagnostics == gaussian_mixture(losses).diagnostics
