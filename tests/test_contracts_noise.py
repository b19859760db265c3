"""Every noise type keeps the contract of noise types, and the contract finds those that don't."""

from functools import partial

import numpy as np
import pytest

from hf_clear.noise import (
    NOISE_TYPES,
    NoiseType,
    asymmetric_transition_matrix,
    class_conditional,
    instance_dependent_noise,
    symmetric_transition_matrix,
)
from hf_clear.testing import check_noise_type

OTHER_RATES = ("symmetric_including_true_class",)


@pytest.mark.parametrize("num_labels", [2, 5])
@pytest.mark.parametrize("name", NOISE_TYPES)
def test_every_noise_type_keeps_the_contract(name, num_labels):
    check_noise_type(name, exact_rate=name not in OTHER_RATES, num_labels=num_labels)


def test_a_function_can_be_checked_before_it_has_a_name():
    check_noise_type(class_conditional(partial(asymmetric_transition_matrix, shift=2)))
    check_noise_type(instance_dependent_noise, uses_features=True)
    check_noise_type(NoiseType("own", instance_dependent_noise, uses_features=True))
    with pytest.raises(ValueError, match="no noise type 'mine'"):
        check_noise_type("mine")


def good(labels, num_labels, noise_rate, rng, features):
    other = (labels + rng.integers(1, num_labels, len(labels))) % num_labels
    return np.where(rng.random(len(labels)) < noise_rate, other, labels)


def _adds_in_place(labels, num_labels, noise_rate, rng, features):
    noisy = good(labels, num_labels, noise_rate, rng, features)
    labels[:] = noisy
    return noisy


def _draws_globally(labels, num_labels, noise_rate, rng, features):
    return np.where(np.random.random(len(labels)) < noise_rate, (labels + 1) % num_labels, labels)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda *given: good(*given)[:1].repeat(2), "at a rate of 0.0.*has to return 4000 class numbers from 0 to 4"),
        (lambda *given: good(*given) + 1, "has to return 4000 class numbers"),
        (lambda *given: good(*given) * 1.0, "has to return 4000 class numbers from 0 to 4; got float64"),
        (lambda labels, *rest: good(labels, *rest) if (labels == 1).any() else labels[1:], "fails on 1 labels of 5"),
        (lambda labels, K, rate, rng, x: good(labels, K, max(rate, 0.01), rng, x), r"changes \d+ of 4000 .* rate of 0"),
        (lambda labels, K, rate, rng, x: good(labels, K, rate / 2, rng, x), "changes 0.[01].* exact_rate=False"),
        (class_conditional(partial(symmetric_transition_matrix, include_true_class=True)), "exact_rate=False"),
        (lambda labels, K, rate, rng, x: good(labels, K, rate**0.5, rng, x), r"labels at a rate of 0.2\.$"),
        (lambda labels, K, rate, rng, x: good(labels, K, rate, np.random.default_rng(), x), "again with the same seed"),
        (lambda labels, K, rate, rng, x: good(labels, K, rate, np.random.default_rng(0), x), "with another seed"),
        (_draws_globally, "with the same seed"),
        (_adds_in_place, "'_adds_in_place' changes the labels"),
        (instance_dependent_noise, "uses_features=False"),
    ],
)
def test_what_breaks_the_contract_is_named(function, message):
    with pytest.raises(AssertionError, match=message):
        check_noise_type(function)


def test_features_are_used_and_the_global_state_is_left_alone():
    with pytest.raises(AssertionError, match="says that it uses features, and gives the same labels"):
        check_noise_type(good, uses_features=True)

    def seeds(*given):
        np.random.seed(0)
        return good(*given)

    with pytest.raises(AssertionError, match="'seeds' changes the global random state of numpy"):
        np.random.random()
        check_noise_type(seeds)
