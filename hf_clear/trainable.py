"""Which weights of a model a training changes."""

from __future__ import annotations

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn


def peft_weights(model: nn.Module) -> list[nn.Parameter]:
    """What a PEFT method adds to the base model, but for the trained copies of whole modules (`modules_to_save`)."""
    found: set[nn.Parameter] = set()
    for layer in (module for module in model.modules() if isinstance(module, BaseTunerLayer)):
        base = getattr(layer, "base_layer", None)
        found |= set(layer.parameters()) - (set() if base is None else set(base.parameters()))
    prefix = getattr(model.base_model, "prefix", None) if isinstance(model, PeftModel) else None
    if prefix:  # some methods have a part that all layers share
        found |= {parameter for name, parameter in model.named_parameters() if prefix in name}
    return list(found)


def check_trainable(model: nn.Module) -> None:
    """Makes sure that training changes what it is meant to.

    Args:
        model (`nn.Module`): unwrapped.

    Raises:
        ValueError: if PEFT modules are disabled, or none of their weights requires grad; or none of a model at all.
    """
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    if layers and all(layer.disable_adapters for layer in layers):
        enable = "enable_adapter_layers" if isinstance(model, PeftModel) else "enable_adapters"
        raise ValueError(
            "The adapter of the model is disabled: its PEFT weights neither act nor are trained. Call "
            f"`model.{enable}()` before training."
        )
    trains = any(parameter.requires_grad for parameter in model.parameters())
    weights = peft_weights(model)
    if weights and not any(parameter.requires_grad for parameter in weights):
        others = ", although other weights do, such as those of the head" if trains else ""
        free = f", or set them free: `model.set_adapter({getattr(model, 'active_adapter', 'default')!r})`"
        raise ValueError(
            f"No PEFT weight of the model requires grad{others}. Load the adapter with `is_trainable=True`, leave "
            f"`inference_mode=True` out of its config{free if isinstance(model, PeftModel) else ''}."
        )
    if not trains:
        raise ValueError("No weight of the model requires grad: there is nothing to train. Set `requires_grad` again.")
