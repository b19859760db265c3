"""Whether a noise matrix is the right model of the labels at hand; the mixture of losses in its place if it is not."""

from __future__ import annotations

import math
from dataclasses import replace

from ._evidence import CleanProbabilityEstimate, SampleEvidence
from ._matrix_fit import LEAST_SKILL
from ._registry import NamedEstimator
from .evidence_mixture import EVIDENCE_SEPARATION, evidence_mixture
from .noise_model import EXPLAINED, SKILL


def mixture_if_unexplained(estimator: NamedEstimator, least: float) -> NamedEstimator:
    """An estimator that answers as the given one if that finds its labels explained ([`NoiseModel.explained`]) by
    predictions with enough skill ([`NoiseModel.expected_skill`]), and otherwise with the clean probabilities of
    [`evidence_mixture`], without a posterior.

    A noise matrix holds for all samples of a class alike. People err on samples that a model is in doubt about, too:
    its predictions take their errors in, and the matrix finds hardly any of them, as if there were none. The losses
    still say which samples are in doubt.

    Args:
        least (`float`): of `explained`, in [0, 1]; 0 for any. An estimator that doesn't tell is left as it is.
    """

    def estimate(evidence: SampleEvidence) -> CleanProbabilityEstimate:
        found = estimator(evidence)
        told = found.diagnostics
        says_nothing = math.isnan(told.get(SKILL, 1.0))
        if not (says_nothing or told.get(EXPLAINED, 1.0) < least or told.get(SKILL, 1.0) < LEAST_SKILL):
            return found
        mixture = evidence_mixture(evidence)
        if says_nothing and math.isnan(mixture.diagnostics[EVIDENCE_SEPARATION]):
            return found  # nor does anything else: the labels stay
        return CleanProbabilityEstimate(mixture.clean_probability, {**told, **mixture.diagnostics})

    return replace(estimator, estimator=estimate, gives_posterior=None)
