"""Who takes part in training: samples below `clear_min_clean_probability` are left out of the batches."""

from __future__ import annotations

import logging

import torch

from ._names import IGNORED_LABEL

logger = logging.getLogger(__name__)


class Participation:
    """Which samples of one training take part. All do, to begin with.

    Args:
        takes_part (`torch.BoolTensor` of shape `[num_samples]` or None): False for samples that are left out of the
            batches, in memory that the workers of the dataloader read; None if nothing ever is.
    """

    def __init__(self, takes_part: torch.Tensor | None):
        self.takes_part = takes_part
        if takes_part is not None:
            takes_part.fill_(True)

    def leave_out(self, clean_probability: torch.Tensor, least: float) -> dict[str, float]:
        """Keeps samples below `least` out of the batches from now on; how many, for the log."""
        if self.takes_part is None:
            return {}
        self.takes_part.copy_(clean_probability >= least)
        if (left_out := int((~self.takes_part).sum())) == len(self.takes_part):
            logger.warning(
                f"No sample has a clean probability of `clear_min_clean_probability={least}` or more: until the next "
                "refit, training stands still. Lower it, or warm up for longer."
            )
        return {"left_out": left_out}

    def leaves_out(self, labels: torch.Tensor) -> bool:
        """Whether all samples of a batch were left out: one stays, without a label."""
        return self.takes_part is not None and len(labels) == 1 and bool((labels == IGNORED_LABEL).all())
