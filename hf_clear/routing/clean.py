"""`"clean"`: CleaR itself (arXiv 2411.00873)."""

from __future__ import annotations

import torch

from ._registry import register_routing_strategy


def clean(clean_probability: torch.Tensor, gamma: float, is_clean: torch.Tensor | None) -> torch.Tensor:
    """`γ·p`: the likelier a label is correct, the more PEFT modules see it. The row "CleaR" of the paper's tables."""
    return gamma * clean_probability


register_routing_strategy("clean", clean)
