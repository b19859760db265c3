"""Losses as pure functions of tensors, one value a sample."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def consistency_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross entropy of the prediction against the ensemble, `-Σ_k f_ens[k] log softmax(logits)[k]` (CleaR).

    No gradient flows into `target`. A row of zeros ("no target for this sample") gives 0.

    Args:
        logits (`torch.Tensor` of shape `[batch, num_labels]`): the prediction.
        target (`torch.Tensor` of shape `[batch, num_labels]`): mean of the routed predictions' probabilities.

    Returns:
        `torch.Tensor` of shape `[batch]`, in nats.
    """
    return -(target.detach() * F.log_softmax(logits.float(), dim=-1)).sum(dim=-1)


def cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0, reduction: str = "none"
) -> torch.Tensor:
    """Cross entropy with the given label, in float32.

    Args:
        logits (`torch.Tensor` of shape `[batch, num_labels]`): the prediction.
        labels (`torch.LongTensor` of shape `[batch]`): the class of each sample.
        label_smoothing (`float`, *optional*, defaults to 0.0): as `TrainingArguments.label_smoothing_factor`.
        reduction (`str`, *optional*, defaults to `"none"`): `"none"`, or `"sum"` for one number (summed in the order
            that the models of transformers use: bit-identical to their own loss).

    Returns:
        `torch.Tensor` of shape `[batch]` or `[]`, in nats.
    """
    return F.cross_entropy(logits.float(), labels, reduction=reduction, label_smoothing=label_smoothing)
