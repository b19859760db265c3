"""Early-learning regularization."""

from __future__ import annotations

import torch

from ._evidence import LossEvidence, LossPart
from ._registry import register_training_loss

_LARGEST = 1 - 1e-4  # of the inner product, so that the logarithm stays finite


def elr(evidence: LossEvidence, elr_weight: float = 3.0, ensemble_size: int = 3) -> dict[str, LossPart]:
    """`CE(f, y) + λ · log(1 - <f, t>)` (Liu et al., 2020, arXiv 2007.00151, Equation 6): holds the prediction near what
    the model predicted earlier, before it memorized wrong labels. `CE(f, y)` is the task loss.

    The target `t` is a running mean of the model's predictions with weight `β = 1 - 1/N` on the past, the current one
    included; with N = 1 it would be the current one alone. With the ensemble source `"online"`, it is that of the paper
    but for its beginning: theirs starts from zeros, ours from a sample's first prediction. It acts in the warm-up too,
    from the second epoch on.

    Args:
        elr_weight (`float`, *optional*, defaults to 3.0): λ of the paper (there 3 or 7).
        ensemble_size (`int`, *optional*, defaults to 3): N, `clear_ensemble_size`, 2 or more; 3 is next to the β of the
            paper, 0.7.
    """
    if evidence.target is None:
        return {}
    probabilities, past = evidence.logits.softmax(dim=-1), evidence.target.detach()
    has_target = past.sum(dim=-1, keepdim=True) > 0
    target = past + (probabilities.detach() - past) / ensemble_size
    agreement = (probabilities * torch.where(has_target, target, 0.0)).sum(dim=-1)
    return {"elr": LossPart(torch.log1p(-agreement.clamp_max(_LARGEST)), elr_weight)}


register_training_loss(
    "elr",
    elr,
    adds_to_task_loss=True,
    uses_target=True,
    active_if=lambda elr_weight: elr_weight > 0,
    least_ensemble_size=2,
)
