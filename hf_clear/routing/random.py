"""`"random"`: an ablation of CleaR that doesn't look at the sample."""

from __future__ import annotations

import torch

from ._registry import register_routing_strategy


def random(clean_probability: torch.Tensor, gamma: float, is_clean: torch.Tensor | None) -> torch.Tensor:
    """`γ` times the mean of `p`, the same for all samples: as many modules act as under `"clean"`. The row
    "random" among the paper's routing strategies."""
    return (gamma * clean_probability.mean()).expand_as(clean_probability)


register_routing_strategy("random", random)
