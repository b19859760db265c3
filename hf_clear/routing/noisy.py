"""`"noisy"`: an ablation of CleaR that routes the wrong way round."""

from __future__ import annotations

import torch

from ._registry import register_routing_strategy


def noisy(clean_probability: torch.Tensor, gamma: float, is_clean: torch.Tensor | None) -> torch.Tensor:
    """`γ·(1 - p)`: the likelier a label is wrong, the more PEFT modules see it. The row "noisy" among the paper's
    routing strategies."""
    return gamma * (1 - clean_probability)


register_routing_strategy("noisy", noisy)
