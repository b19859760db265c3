"""The model inside of a PEFT model."""

from __future__ import annotations

from peft import PeftModel
from torch import nn


def base_of(model: nn.Module) -> nn.Module:
    """The base model of a `PeftModel`, with the adapter's layers in it; any other model as it is."""
    return model.get_base_model() if isinstance(model, PeftModel) else model
