"""Cross entropy with a mixture of given label and ensemble."""

from __future__ import annotations

import torch

from ._evidence import LossEvidence
from ._functional import consistency_loss, cross_entropy
from ._registry import register_training_loss


def label_mix(evidence: LossEvidence) -> dict[str, torch.Tensor]:
    """`CE(f, p·y + (1 - p)·f_ens)`: the less a label is trusted, the more the ensemble takes its place. As dynamic
    bootstrapping with soft labels (Arazo et al., 2019, arXiv 1904.11238), which has the current prediction for it.

    The parts `given_label` and `ensemble` add up to it. In the warm-up, and for a sample without a target, it is cross
    entropy with the given label.
    """
    given = cross_entropy(evidence.logits, evidence.labels)
    if evidence.clean_probability is None or evidence.target is None:
        return {"given_label": given}
    has_target = evidence.target.sum(dim=-1) > 0
    trust = torch.where(has_target, evidence.clean_probability, 1.0)
    return {
        "given_label": trust * given,
        "ensemble": (1 - trust) * consistency_loss(evidence.logits, evidence.target),
    }


register_training_loss("label_mix", label_mix, uses_target=True, uses_clean_probability=True)
