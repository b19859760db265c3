"""Whether a noise matrix is the right model of the labels at hand; a mixture in its place if it is not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ._evidence import CleanProbabilityEstimate, SampleEvidence
from ._groups import LEAST_SEPARATION
from ._matrix_fit import LEAST_SKILL
from ._registry import NamedEstimator
from ._two_gaussians import SEPARATION
from .evidence_mixture import EVIDENCE_SEPARATION, evidence_mixture, held_out_mixture
from .noise_model import EXPLAINED, RATE, SKILL

_LOST = LEAST_SKILL - 0.1  # well below what it takes at first: near a limit, nothing is changed to and fro
_NOTHING = 0.05  # skill: with less, a model hardly predicts better than the class frequencies do
GATES_OPEN = "gates_open"  # a diagnostic


def mixture_if_unexplained(
    estimator: NamedEstimator, least: float, in_force: bool = False, may_open: bool = False
) -> NamedEstimator:
    """An estimator that answers as the given one if that finds its labels explained ([`NoiseModel.explained`]) by
    predictions with enough skill ([`NoiseModel.expected_skill`]), and otherwise with the clean probabilities of
    [`evidence_mixture`], without a posterior. If the predictions say nothing, or next to nothing (skill below 0.05), it
    goes by what models say that have not seen the labels. If there are none, or they say nothing, labels stay.

    A noise matrix holds for all samples of a class alike. People err on samples that a model is in doubt about, too:
    its predictions take their errors in, and the matrix finds hardly any of them, as if there were none. The losses
    still say which samples are in doubt.

    A mixture splits the losses of a model in two, even if all labels are right and some samples are hard. Gates would
    then keep out of the PEFT modules what these have to learn. So if predictions have enough skill, and neither losses
    nor evidence are two groups (Ashman's D of 2 or less in the mixture), `gates_open` is 1 among the diagnostics:
    modules act on all samples. The clean probabilities stay, as an order of suspicion.

    Args:
        least (`float`): of `explained`, in [0, 1]; 0 for any. An estimator that doesn't tell is left as it is.
        in_force (`bool`, *optional*, defaults to `False`): whether training follows the posterior by now. It is given
            up if its predictions lose their skill (below 0.5), and only then: they learn wrong labels by heart.
        may_open (`bool`, *optional*, defaults to `False`): whether `gates_open` may be 1. Not if `least` is infinite,
            which keeps gates.
    """
    least, least_skill = (0.0, _LOST) if in_force else (least, LEAST_SKILL)

    def estimate(evidence: SampleEvidence) -> CleanProbabilityEstimate:
        found = estimator(evidence)
        told = found.diagnostics
        if says_nothing(told):  # nor do their losses
            told = {**told, SKILL: math.nan, RATE: math.nan}
            if evidence.held_out_clean_probability is None:
                return _as_labelled(found, evidence, told)
            mixture = held_out_mixture(evidence)
            if math.isnan(mixture.diagnostics[EVIDENCE_SEPARATION]):
                return _as_labelled(found, evidence, told)
        elif told.get(EXPLAINED, 1.0) < least or told.get(SKILL, 1.0) < least_skill:
            mixture = evidence_mixture(evidence)
        else:
            return found
        told = {**told, **mixture.diagnostics}
        return replace(
            mixture, diagnostics={**told, GATES_OPEN: float(may_open and math.isfinite(least) and _are_one_group(told))}
        )

    return replace(estimator, estimator=estimate, gives_posterior=None)


def says_nothing(diagnostics: Mapping[str, float]) -> bool:
    """Whether predictions say nothing about the labels, or next to nothing. False if an estimator doesn't tell."""
    return not diagnostics.get(SKILL, 1.0) >= _NOTHING


def _are_one_group(diagnostics: Mapping[str, float]) -> bool:
    """Whether neither losses nor evidence are two groups, by a model that tells enough to see them."""
    apart = (diagnostics.get(name, math.nan) for name in (SEPARATION, EVIDENCE_SEPARATION))
    return diagnostics.get(SKILL, math.nan) >= LEAST_SKILL and not any(one > LEAST_SEPARATION for one in apart)


def _as_labelled(
    found: CleanProbabilityEstimate, evidence: SampleEvidence, diagnostics: dict[str, float]
) -> CleanProbabilityEstimate:
    """All labels are taken for correct, since nothing is known of any."""
    posterior = found.posterior
    if posterior is not None and evidence.labels is not None:
        posterior = np.zeros_like(posterior)
        rows = np.flatnonzero(evidence.labels >= 0)
        posterior[rows, evidence.labels[rows]] = 1
    p = np.ones(len(evidence.losses))
    return CleanProbabilityEstimate(p, diagnostics, posterior, is_supported=False)
