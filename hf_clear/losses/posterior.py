"""Cross entropy with the posterior over the true class."""

from __future__ import annotations

import torch

from ._evidence import LossEvidence
from ._functional import consistency_loss, cross_entropy
from ._registry import register_training_loss


def posterior(evidence: LossEvidence) -> dict[str, torch.Tensor]:
    """`CE(f, t)` with the posterior `t` of the noise model ([`~hf_clear.estimators.fit_noise_model`]): what is known of
    the true class from the prediction and from the given label.

    It is a form of loss correction by the noise matrix (Patrini et al., 2017, arXiv 1609.03683) with the expectation
    step made explicit, as in training by expectation maximization (Goldberger and Ben-Reuven, 2017). Before the first
    fit, and for a sample of which nothing is known, it is cross entropy with the given label.
    """
    given = cross_entropy(evidence.logits, evidence.labels)
    if evidence.posterior is None:
        return {"posterior": given}
    is_known = evidence.is_labelled & (evidence.posterior.sum(dim=-1) > 0)
    return {"posterior": torch.where(is_known, consistency_loss(evidence.logits, evidence.posterior), given)}


register_training_loss("posterior", posterior, uses_posterior=True)
