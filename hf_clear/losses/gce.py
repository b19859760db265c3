"""Generalized cross entropy."""

from __future__ import annotations

import torch

from ._evidence import LossEvidence
from ._functional import generalized_cross_entropy
from ._registry import register_training_loss


def gce(evidence: LossEvidence, q: float = 0.7) -> dict[str, torch.Tensor]:
    """`(1 - p_y^q) / q` (Zhang and Sabuncu, 2018, arXiv 1805.07836): between cross entropy and the mean absolute error.

    Args:
        q (`float`, *optional*, defaults to 0.7): in [0, 1]; 0 is cross entropy.
    """
    return {"gce": generalized_cross_entropy(evidence.logits, evidence.labels, q)}


register_training_loss("gce", gce)
