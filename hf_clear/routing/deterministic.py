"""`"deterministic"`: an ablation of CleaR without chance."""

from __future__ import annotations

import torch

from ._registry import register_routing_strategy


def deterministic(clean_probability: torch.Tensor, gamma: float, is_clean: torch.Tensor | None) -> torch.Tensor:
    """A gate probability of 1 if `p > 0.5`, else 0, whatever γ is. The row "deterministic" among the paper's routing
    strategies."""
    return (clean_probability > 0.5).to(clean_probability)


register_routing_strategy("deterministic", deterministic)
