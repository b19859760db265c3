"""Whether a noise matrix is the right model of the labels at hand; the mixture of losses in its place if it is not."""

from __future__ import annotations

from dataclasses import replace

from ._evidence import CleanProbabilityEstimate, SampleEvidence
from ._registry import NamedEstimator
from .mixtures import gaussian_mixture
from .noise_model import EXPLAINED, SKILL


def mixture_if_unexplained(estimator: NamedEstimator, least: float, least_skill: float = 0.0) -> NamedEstimator:
    """An estimator that answers as the given one if that finds its labels explained ([`NoiseModel.explained`]) by
    predictions with enough skill ([`NoiseModel.expected_skill`]), and otherwise with the clean probabilities of
    [`gaussian_mixture`], without a posterior.

    A noise matrix holds for all samples of a class alike. People err on samples that a model is in doubt about, too:
    its predictions take their errors in, and the matrix finds hardly any of them, as if there were none. The losses
    still say which samples are in doubt.

    Args:
        least (`float`): of `explained`, in [0, 1]; 0 for any. An estimator that doesn't tell is left as it is.
        least_skill (`float`, *optional*, defaults to 0.0): of the skill, likewise.
    """

    def estimate(evidence: SampleEvidence) -> CleanProbabilityEstimate:
        found = estimator(evidence)
        told = found.diagnostics
        # NaN: the predictions say nothing, and the labels stay.
        if not (told.get(EXPLAINED, 1.0) < least or told.get(SKILL, 1.0) < least_skill):
            return found
        mixture = gaussian_mixture(evidence.losses)
        return CleanProbabilityEstimate(mixture.clean_probability, {**told, **mixture.diagnostics})

    return replace(estimator, estimator=estimate, gives_posterior=None)
