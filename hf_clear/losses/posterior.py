"""Cross entropy with the posterior over the true class."""

from __future__ import annotations

import torch

from ._evidence import LossEvidence
from ._functional import consistency_loss, cross_entropy
from ._registry import register_training_loss


def posterior(evidence: LossEvidence, certainty_power: float = 0.0) -> dict[str, torch.Tensor]:
    """`c^a · CE(f, t)` with the posterior `t` of the noise model ([`~hf_clear.estimators.fit_noise_model`]): what is
    known of the true class from the prediction and from the given label. A sample may count by the certainty of its
    posterior, `c = (max t - 1/K) / (1 - 1/K)` with K classes.

    It is a form of loss correction by the noise matrix (Patrini et al., 2017, arXiv 1609.03683) with the expectation
    step made explicit, as in training by expectation maximization (Goldberger and Ben-Reuven, 2017). Before the first
    fit, and for a sample of which nothing is known, it is cross entropy with the given label.

    Args:
        certainty_power (`float`, *optional*, defaults to 0.0): a; with 0, all samples count alike.
    """
    given = cross_entropy(evidence.logits, evidence.labels)
    if evidence.posterior is None:
        return {"posterior": given}
    target = evidence.posterior.detach()
    is_known = evidence.is_labelled & (target.sum(dim=-1) > 0)
    chance = 1 / target.shape[-1]
    certainty = ((target.amax(dim=-1) - chance) / max(1 - chance, chance)).clamp(0, 1) ** certainty_power
    return {"posterior": torch.where(is_known, certainty * consistency_loss(evidence.logits, target), given)}


register_training_loss("posterior", posterior, uses_posterior=True)
