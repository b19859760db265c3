"""Every estimator keeps the contract of estimators, and the contract finds those that don't."""

import logging
import re

import numpy as np
import pytest

from hf_clear import CleanProbabilityEstimate, SampleEvidence, gaussian_mixture
from hf_clear.estimators import ESTIMATORS, NamedEstimator
from hf_clear.testing import check_estimator


@pytest.mark.parametrize("name", [*ESTIMATORS, "gaussian_mixture+knn"])
def test_every_estimator_keeps_the_contract(name, caplog):
    caplog.set_level(logging.ERROR)  # of every edge case there is a warning
    check_estimator(name)


def test_a_function_can_be_checked_before_it_has_a_name():
    check_estimator(lambda e: gaussian_mixture(e.losses))
    check_estimator(lambda e: gaussian_mixture((e.features @ e.features.T).mean(axis=1) * 0 + e.losses), True)
    check_estimator(NamedEstimator("own", lambda e: gaussian_mixture(e.losses + 0 * e.labels), uses_labels=True))
    with pytest.raises(ValueError, match="no clean-probability estimator 'mine'"):
        check_estimator("mine")


def good(evidence: SampleEvidence, **more) -> CleanProbabilityEstimate:
    losses = np.where(np.isfinite(evidence.losses), evidence.losses, 99)
    return CleanProbabilityEstimate(np.exp(-losses), **more)


def _seeds_numpy(evidence):
    np.random.seed(0)
    return good(evidence)


def _draws(evidence):
    return CleanProbabilityEstimate(
        np.clip(good(evidence).clean_probability + np.random.default_rng().normal(0, 0.01, len(evidence.losses)), 0, 1)
    )


def _writes(evidence):
    evidence.losses[:] = 0
    return good(evidence)


def _writes_all_the_same(evidence):
    estimate = good(evidence)
    evidence.losses.base[:] = 0
    return estimate


class _Remembers:
    mean = 0.0

    def __call__(self, evidence):
        estimate = good(evidence, diagnostics={"last_mean": self.mean})
        self.mean = estimate.clean_probability.mean()
        return estimate


class _Keeps:
    def __call__(self, evidence):
        self.losses = evidence.losses
        return good(evidence)


def _goes_by_the_order(evidence):
    probability = good(evidence).clean_probability
    return CleanProbabilityEstimate(np.where(np.arange(len(probability)) % 8, probability, 1.0))


def _needs_two_of_each_class(evidence):
    counts = np.bincount(evidence.labels)
    if (counts == 1).any():
        raise ValueError("The least populated class has only 1 member")
    return good(evidence)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (lambda e: 1 - good(e).clean_probability, "returned a ndarray, not a CleanProbabilityEstimate"),
        (lambda e: CleanProbabilityEstimate(1 - good(e).clean_probability), r"AUROC of 0.0.*that a label is wrong\?"),
        (lambda e: CleanProbabilityEstimate(np.ones(len(e.losses))), "AUROC of 0.50 on an easy set of 400"),
        (lambda e: CleanProbabilityEstimate(np.exp(-e.losses)), "NaN or infinite: ValueError: `clean_probability` has"),
        (lambda e: good(e, diagnostics={"mean": np.zeros(2)}), "diagnostics.'mean'.. has to be a finite number"),
        (lambda e: good(e, diagnostics={"1 / spread": 1 / e.losses.std()}), "on one sample: .*; got inf"),
        (
            lambda e: good(e, diagnostics={"worst": np.nanmax(e.losses)}),
            "fails on an easy set with 3 losses that are NaN",
        ),
        (lambda e: gaussian_mixture(e.losses + 0 * e.features[:, 0]), r"uses_features=False.*fails on an easy set"),
        (lambda e: gaussian_mixture(e.losses + 0 * e.labels), "uses_labels=False.*on a token-level task"),
        (_needs_two_of_each_class, "fails on (one sample|a class of one sample).*least populated"),
        (_seeds_numpy, "'_seeds_numpy' changes the global random state of numpy"),
        (_draws, "gives another answer on the same evidence"),
        (_Remembers(), "'_Remembers' gives another answer on the same evidence"),
        (_writes, "read-only"),
        (_writes_all_the_same, "changes the losses that it is given"),
        (_Keeps(), "'_Keeps' keeps what it is given"),
        (_goes_by_the_order, "goes by the order of the samples"),
    ],
)
def test_what_breaks_the_contract_is_named(estimator, message):
    with np.errstate(all="ignore"), pytest.raises(AssertionError, match=re.compile(message, re.DOTALL)):
        check_estimator(estimator)
