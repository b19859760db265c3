"""Cross entropy weighted by the clean probability."""

from __future__ import annotations

import torch

from ._evidence import LossEvidence
from ._functional import cross_entropy
from ._registry import register_training_loss


def weighted(evidence: LossEvidence) -> dict[str, torch.Tensor]:
    """`p · CE(f, y)`: the gradient of a label counts as much as the label is trusted, in the head as in the PEFT
    modules. The sum is divided by the number of samples, not by that of the weights. In the warm-up, all weigh 1."""
    loss = cross_entropy(evidence.logits, evidence.labels)
    return {"weighted_cross_entropy": loss if evidence.clean_probability is None else evidence.clean_probability * loss}


register_training_loss("weighted", weighted, uses_clean_probability=True)
