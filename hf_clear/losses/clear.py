"""CleaR's training loss: the task loss, and consistency with the ensemble of routed predictions."""

from __future__ import annotations

from ._evidence import LossEvidence, LossPart
from ._functional import consistency_loss
from ._registry import register_training_loss


def clear(evidence: LossEvidence, consistency_weight: float = 1.0) -> dict[str, LossPart]:
    """`L = CE(f, y) + λ · CE(f, f_ens)` (CleaR, Kim et al., 2024, arXiv 2411.00873). `CE(f, y)` is the task loss, which
    stands alone in the warm-up.

    Args:
        consistency_weight (`float`, *optional*, defaults to 1.0): λ, `clear_consistency_weight`.
    """
    if evidence.is_warmup or evidence.target is None:
        return {}
    return {"consistency": LossPart(consistency_loss(evidence.logits, evidence.target), consistency_weight)}


register_training_loss(
    "clear",
    clear,
    adds_to_task_loss=True,
    uses_target=True,
    active_if=lambda consistency_weight: consistency_weight > 0,
)
