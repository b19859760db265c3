"""Symmetric cross entropy."""

from __future__ import annotations

from ._evidence import LossEvidence, LossPart
from ._functional import cross_entropy
from ._registry import register_training_loss


def sce(evidence: LossEvidence, alpha: float = 0.1, beta: float = 1.0, log_zero: float = -4.0) -> dict[str, LossPart]:
    """`α · CE(f, y) + β · RCE(f, y)` (Wang et al., 2019, arXiv 1908.06112). The reverse cross entropy
    `-Σ_k f[k] log y[k]` takes `log 0` for a number A, so that it is `-A (1 - f[y])`.

    Args:
        alpha, beta (`float`, *optional*, default to 0.1 and 1.0): the weights (their CIFAR-10).
        log_zero (`float`, *optional*, defaults to -4.0): A.
    """
    labels = evidence.labels.clamp_min(0).unsqueeze(-1)
    given = evidence.logits.softmax(dim=-1).gather(-1, labels).squeeze(-1)
    return {
        "cross_entropy": LossPart(cross_entropy(evidence.logits, evidence.labels), alpha),
        "reverse_cross_entropy": LossPart(-log_zero * (1 - given), beta),
    }


register_training_loss("sce", sce)
