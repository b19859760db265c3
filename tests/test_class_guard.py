"""The mixture of losses with an answer of their own for classes that are not learned."""

import logging

import numpy as np
import pytest

from hf_clear.estimators import class_guarded_gaussian_mixture, gaussian_mixture
from hf_clear.estimators.class_guard import OWN_CLASSES


@pytest.fixture
def losses_and_labels():
    """Three classes of 200, the first fifth of each with wrong labels: small losses, if right, of the first two; the
    last one has not been learned."""
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(3), 200)
    is_wrong = np.tile(np.arange(200) < 40, 3)
    means = np.where(is_wrong, 3.0, np.where(labels == 2, 2.5, 0.3))
    return rng.normal(means, 0.1), labels, is_wrong


def test_a_class_that_is_not_learned_has_a_mixture_of_its_own(losses_and_labels, caplog):
    losses, labels, is_wrong = losses_and_labels
    of_all, own = gaussian_mixture(losses), labels == 2
    assert of_all.clean_probability[own].max() < 0.1  # locked out
    with caplog.at_level(logging.WARNING, "hf_clear"):
        found = class_guarded_gaussian_mixture(losses, labels)
    assert "finds less than half as many right labels with label 2 as over all" in caplog.text
    assert found.diagnostics == {**of_all.diagnostics, OWN_CLASSES: 1.0}
    assert (found.clean_probability[~own] == of_all.clean_probability[~own]).all()
    expected = gaussian_mixture(losses[own]).clean_probability
    np.testing.assert_array_equal(found.clean_probability[own], np.maximum(expected, of_all.clean_probability[own]))
    assert ((found.clean_probability < 0.5) == is_wrong).mean() > 0.98


def test_a_lost_class_without_groups_says_nothing(losses_and_labels):
    """Too few samples, or losses that are all the same: the mean of all, so that it is learned with the others."""
    losses, labels, _ = losses_and_labels
    losses[labels == 2] = 3.0
    few = np.r_[:400, 400:410]
    for rows in (np.arange(600), few):
        of_all = gaussian_mixture(losses[rows]).clean_probability
        found = class_guarded_gaussian_mixture(losses[rows], labels[rows]).clean_probability
        np.testing.assert_allclose(found[400:], of_all.mean())


def test_a_few_small_losses_of_a_class_do_not_lock_out_its_others(losses_and_labels):
    """Its own mixture takes ten that happen to be small for the only right ones: the mean stays where it was."""
    losses, labels, _ = losses_and_labels
    losses[labels == 2] = np.r_[np.full(10, 0.02), np.random.default_rng(1).normal(2.5, 0.05, 190)]
    of_all = gaussian_mixture(losses).clean_probability
    found = class_guarded_gaussian_mixture(losses, labels).clean_probability
    assert (of_all[labels == 2] < 0.1).mean() >= 0.9
    assert found[labels == 2].min() == pytest.approx(of_all.mean()) and (found[400:410] > 0.9).all()


def test_small_classes_without_luck_are_left_alone():
    """150 classes of four, 40 % wrong labels in each: some classes have nothing but wrong ones by accident."""
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(150), 4)
    is_wrong = rng.random(600) < 0.4
    losses = rng.normal(np.where(is_wrong, 3.0, 0.3), 0.1)
    assert (is_wrong.reshape(150, 4).all(axis=1)).any()
    found = class_guarded_gaussian_mixture(losses, labels)
    assert found.diagnostics[OWN_CLASSES] == 0
    np.testing.assert_array_equal(found.clean_probability, gaussian_mixture(losses).clean_probability)


def test_without_a_lost_class_it_is_the_mixture_of_all(losses_and_labels, caplog):
    losses, labels, _ = losses_and_labels
    shuffled = np.random.default_rng(0).permutation(labels)
    unlabelled = np.where(labels == 2, -100, labels)
    for given in (shuffled, None, unlabelled):
        with caplog.at_level(logging.WARNING, "hf_clear"):
            found = class_guarded_gaussian_mixture(losses, given)
        np.testing.assert_array_equal(found.clean_probability, gaussian_mixture(losses).clean_probability)
        assert found.diagnostics[OWN_CLASSES] == 0 and not caplog.text


def test_what_is_not_finite_stays_unknown(losses_and_labels):
    losses, labels, _ = losses_and_labels
    losses[500] = np.nan
    assert class_guarded_gaussian_mixture(losses, labels).clean_probability[500] == 0
    nothing = class_guarded_gaussian_mixture(np.full(4, np.nan), np.zeros(4, dtype=int))
    assert (nothing.clean_probability == 0).all()
    with pytest.raises(ValueError, match="`labels` has 3 rows for 600 samples"):
        class_guarded_gaussian_mixture(losses, labels[:3])
    with pytest.raises(ValueError, match=r"`labels` has to be of shape \[num_samples\], got \[600, 1\]"):
        class_guarded_gaussian_mixture(losses, labels[:, None])
