"""Which adapters are changes of the base model's weights."""

from __future__ import annotations

from peft import PeftModel

from ._base import RoutedLayer


def can_be_merged(model: PeftModel) -> bool:
    """Whether the active adapter can become a part of the base model's weights (`merge_and_unload`)."""
    if model.active_peft_config.is_prompt_learning or not hasattr(model.base_model, "merge_and_unload"):
        return False
    layers = (layer for layer in model.modules() if isinstance(layer, RoutedLayer))
    return all(type(layer).merge is not RoutedLayer.merge for layer in layers)
