"""`"oracle"`: CleaR if it knew the truth."""

from __future__ import annotations

from typing import cast

import torch

from ._registry import register_routing_strategy


def oracle(clean_probability: torch.Tensor, gamma: float, is_clean: torch.Tensor | None) -> torch.Tensor:
    """A gate probability of 1 for truly clean samples, 0 for truly noisy ones, `γ·p` if the truth is unknown. The row
    "oracle" among the paper's routing strategies: what a perfect estimate would give."""
    known = cast(torch.Tensor, is_clean)  # `needs_truth`
    return torch.where(known.isnan(), gamma * clean_probability, known)


register_routing_strategy("oracle", oracle, needs_truth=True)
