"""What a training loss is given, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .._names import IGNORED_LABEL


@dataclass(frozen=True)
class LossEvidence:
    """A batch, as a training loss sees it: one row a sample, or one a token if every token has a label (then
    `[batch, tokens]` takes the place of `[batch]`).

    Attributes:
        logits (`torch.Tensor` of shape `[batch, num_labels]`): the routed prediction, in float32, with gradient.
        labels (`torch.LongTensor` of shape `[batch]`): the given labels; -100 for none.
        clean_probability (`torch.Tensor` of shape `[batch]`, or `[batch, 1]` for tokens, *optional*): the probability
            in [0, 1] that a sample's label is correct, without gradient. None in the warm-up, or if the loss doesn't
            use it.
        target (`torch.Tensor` of shape `[batch, num_labels]`, *optional*): the sample's target distribution, the
            ensemble `f_ens`, without gradient; a row of zeros for a sample that has none yet. None if the loss doesn't
            use it, or there is none yet: in the warm-up, the ensemble source `"online"` alone has one, after an epoch.
        epoch (`float`): how many epochs are done, with fractions.
        is_warmup (`bool`): whether nothing has been fitted yet.
        posterior (`torch.Tensor` of shape `[batch, num_labels]`, *optional*): the probability of each true class, given
            all that is known of a sample, its label included, without gradient; a row of zeros for a sample of which
            nothing is known. None if the loss doesn't use it, and before the first fit.
    """

    logits: torch.Tensor
    labels: torch.Tensor
    clean_probability: torch.Tensor | None = None
    target: torch.Tensor | None = None
    epoch: float = 0.0
    is_warmup: bool = False
    posterior: torch.Tensor | None = None

    @property
    def is_labelled(self) -> torch.Tensor:
        """`torch.BoolTensor` of the shape of `labels`."""
        return self.labels != IGNORED_LABEL


@dataclass(frozen=True)
class LossPart:
    """A part of a training loss. What is logged is the mean of its values, without the weight.

    Attributes:
        values (`torch.Tensor` of the shape of `LossEvidence.labels`): one value a sample or token, not reduced.
        weight (`float`, *optional*, defaults to 1.0): its weight in the sum of all parts.
    """

    values: torch.Tensor
    weight: float = 1.0
