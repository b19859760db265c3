"""Losses as pure functions of tensors, one value a sample or token."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .._names import IGNORED_LABEL


def consistency_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross entropy of the prediction against the ensemble, `-Σ_k f_ens[k] log softmax(logits)[k]` (CleaR).

    No gradient flows into `target`. A row of zeros ("no target for this sample") gives 0.

    Args:
        logits (`torch.Tensor` of shape `[batch, num_labels]` or `[batch, tokens, num_labels]`): the prediction.
        target (`torch.Tensor` of the same shape): mean of the routed predictions' probabilities.

    Returns:
        `torch.Tensor` of shape `[batch]` or `[batch, tokens]`, in nats.
    """
    return -(target.detach() * F.log_softmax(logits.float(), dim=-1)).sum(dim=-1)


def cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0, reduction: str = "none"
) -> torch.Tensor:
    """Cross entropy with the given label, in float32. Labels of -100 give 0.

    Args:
        logits (`torch.Tensor` of shape `[batch, num_labels]` or `[batch, tokens, num_labels]`): the prediction.
        labels (`torch.LongTensor` of shape `[batch]` or `[batch, tokens]`): the class of each sample or token.
        label_smoothing (`float`, *optional*, defaults to 0.0): as `TrainingArguments.label_smoothing_factor`.
        reduction (`str`, *optional*, defaults to `"none"`): `"none"`, or `"sum"` for one number (summed in the order
            that the models of transformers use: bit-identical to their own loss).

    Returns:
        `torch.Tensor` of the shape of `labels` or `[]`, in nats.
    """
    loss = F.cross_entropy(
        logits.float().flatten(0, -2),
        labels.flatten(),
        ignore_index=IGNORED_LABEL,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )
    return loss.view_as(labels) if reduction == "none" else loss


def generalized_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, q: float = 0.7) -> torch.Tensor:
    """Generalized cross entropy, `(1 - p_y^q) / q` with `p = softmax(logits)` (Zhang and Sabuncu, 2018, arXiv
    1805.07836), in float32: between cross entropy (the limit q = 0) and the mean absolute error `1 - p_y` (q = 1).

    Its gradient is that of cross entropy times `p_y^q`: samples whose label the model finds unlikely count little.

    Args:
        logits (`torch.Tensor` of shape `[batch, num_labels]` or `[batch, tokens, num_labels]`): the prediction.
        labels (`torch.LongTensor` of shape `[batch]` or `[batch, tokens]`): the class of each sample or token; -100
            gives 0.
        q (`float`, *optional*, defaults to 0.7): in [0, 1].

    Returns:
        `torch.Tensor` of the shape of `labels`.

    Raises:
        ValueError: if `q` is outside [0, 1].
    """
    check_q(q)
    loss = cross_entropy(logits, labels)
    return loss if q == 0 else -torch.expm1(-q * loss) / q  # exact for a small q too


def check_q(q: float) -> None:
    """Raises a ValueError if `q` is none of the generalized cross entropy."""
    if not 0 <= q <= 1:
        raise ValueError(f"`q` of the generalized cross entropy has to be in [0, 1]; got {q}.")


def per_sample(values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The mean over the labelled tokens of each sample; values of one number a sample are returned as they are.

    Args:
        values (`torch.Tensor` of shape `[batch]` or `[batch, tokens]`): for instance, losses.
        labels (`torch.LongTensor` of the same shape): -100 if a token has no label.

    Returns:
        `torch.Tensor` of shape `[batch]`; NaN for a sample without a labelled token.
    """
    if labels.ndim == 1:
        return values
    labelled = labels != IGNORED_LABEL
    return (values * labelled).sum(dim=1) / labelled.sum(dim=1)


def sharpen(probabilities: torch.Tensor, temperature: float) -> torch.Tensor:
    """`p^(1/T) / Σ p^(1/T)` over the last dimension: a temperature below 1 makes predictions more certain."""
    if temperature == 1:
        return probabilities
    powers = probabilities ** (1 / temperature)
    return powers / powers.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(powers.dtype).tiny)
