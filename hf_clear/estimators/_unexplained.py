"""Whether a noise matrix is the right model of the labels at hand; a mixture in its place if it is not."""

from __future__ import annotations

import math
from dataclasses import replace

from ._evidence import CleanProbabilityEstimate, SampleEvidence
from ._matrix_fit import LEAST_SKILL
from ._registry import NamedEstimator
from .evidence_mixture import EVIDENCE_SEPARATION, evidence_mixture, held_out_mixture
from .noise_model import EXPLAINED, SKILL


def mixture_if_unexplained(estimator: NamedEstimator, least: float) -> NamedEstimator:
    """An estimator that answers as the given one if that finds its labels explained ([`NoiseModel.explained`]) by
    predictions with enough skill ([`NoiseModel.expected_skill`]), and otherwise with the clean probabilities of
    [`evidence_mixture`], without a posterior. If the predictions say nothing, it goes by what models say that have
    not seen the labels, if there are any.

    A noise matrix holds for all samples of a class alike. People err on samples that a model is in doubt about, too:
    its predictions take their errors in, and the matrix finds hardly any of them, as if there were none. The losses
    still say which samples are in doubt.

    Args:
        least (`float`): of `explained`, in [0, 1]; 0 for any. An estimator that doesn't tell is left as it is.
    """

    def estimate(evidence: SampleEvidence) -> CleanProbabilityEstimate:
        found = estimator(evidence)
        told = found.diagnostics
        if math.isnan(told.get(SKILL, 1.0)):  # the predictions say nothing, and so do their losses
            if evidence.held_out_clean_probability is None:
                return found  # the labels stay
            mixture = held_out_mixture(evidence)
            if math.isnan(mixture.diagnostics[EVIDENCE_SEPARATION]):
                return found
        elif told.get(EXPLAINED, 1.0) < least or told.get(SKILL, 1.0) < LEAST_SKILL:
            mixture = evidence_mixture(evidence)
        else:
            return found
        return replace(mixture, diagnostics={**told, **mixture.diagnostics})

    return replace(estimator, estimator=estimate, gives_posterior=None)
