"""Estimators: from what is known of the training samples to the probability that each label is correct.

Arrays in, arrays out: no model, no trainer. [`register_estimator`] adds one.
"""

from ._evidence import CleanProbabilityEstimate, SampleEvidence
from ._groups import LEAST_DIP, LEAST_SEPARATION, Groups, find_groups
from ._registry import ESTIMATORS, Estimator, NamedEstimator, get_estimator, register_estimator
from .evidence_mixture import evidence_mixture
from .mixtures import gaussian_mixture, per_class_gaussian_mixture
from .neighbors import knn_agreement
from .noise_model import NoiseModel, fit_noise_model
from .plain_mixture import plain_gaussian_mixture
from .probe import out_of_sample_cross_entropy

__all__ = [
    "ESTIMATORS",
    "LEAST_DIP",
    "LEAST_SEPARATION",
    "CleanProbabilityEstimate",
    "Estimator",
    "Groups",
    "NamedEstimator",
    "NoiseModel",
    "SampleEvidence",
    "evidence_mixture",
    "find_groups",
    "fit_noise_model",
    "gaussian_mixture",
    "get_estimator",
    "knn_agreement",
    "out_of_sample_cross_entropy",
    "per_class_gaussian_mixture",
    "plain_gaussian_mixture",
    "register_estimator",
]
