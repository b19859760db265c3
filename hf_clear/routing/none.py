"""`"none"`: CleaR without routing."""

from __future__ import annotations

import torch

from ._registry import register_routing_strategy


def none(clean_probability: torch.Tensor, gamma: float, is_clean: torch.Tensor | None) -> torch.Tensor:
    """1: every module sees every sample. The row "without routing" among the paper's ablations; without
    consistency too, it is plain PEFT."""
    return torch.ones_like(clean_probability)


register_routing_strategy("none", none)
