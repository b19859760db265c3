"""Which weights of a model a training changes."""

from __future__ import annotations

import logging
from typing import Any

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ._trainer_types import OwnTrainer
from .routing import is_routable

logger = logging.getLogger(__name__)


def peft_weights(model: nn.Module) -> list[nn.Parameter]:
    """What a PEFT method adds to the base model, but for the trained copies of whole modules (`modules_to_save`)."""
    found: set[nn.Parameter] = set().union(*map(_own_weights, _tuner_layers(model)))
    prefix = getattr(model.base_model, "prefix", None) if isinstance(model, PeftModel) else None
    if prefix:  # some methods have a part that all layers share
        found |= {parameter for name, parameter in model.named_parameters() if prefix in name}
    return list(found)


def ungated_peft_weights(model: nn.Module) -> set[nn.Parameter]:
    """Those of PEFT layers of a kind that nothing can route."""
    return set().union(*(_own_weights(layer) for layer in _tuner_layers(model) if not is_routable(layer)))


def _tuner_layers(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def _own_weights(layer: nn.Module) -> set[nn.Parameter]:
    base = getattr(layer, "base_layer", None)
    return set(layer.parameters()) - (set() if base is None else set(base.parameters()))


def check_weights(trainer: OwnTrainer) -> None:
    """Makes sure that training changes what it is meant to. Nothing is looked at if nothing is routed.

    Raises:
        ValueError: as [`check_trainable`] and [`check_optimizer`].
    """
    if trainer._is_stock:
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    check_trainable(model)
    is_sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled  # an optimizer has shards of the weights then
    if trainer.optimizer is not None and not is_sharded:
        check_optimizer(model, trainer.optimizer)


def check_trainable(model: nn.Module) -> None:
    """Makes sure that PEFT modules act, and that something is trained.

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


def check_optimizer(model: nn.Module, optimizer: Any) -> None:
    """Makes sure that an optimizer has what is to be trained. One that has no weight of the model at all may pass on
    its steps to others, as some do: a warning says it.

    Args:
        model (`nn.Module`): unwrapped.
        optimizer (`torch.optim.Optimizer`): as a trainer was given it, or has made it.

    Raises:
        ValueError: if it has frozen weights of the model, and none of those that are to be trained.
    """
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    weights = [parameter for parameter in peft_weights(model) if parameter.requires_grad]
    trained = weights or [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained or any(id(parameter) in held for parameter in trained):
        return
    kind = "PEFT weights" if weights else "weights"
    said = f"The optimizer has none of the {len(trained)} {kind} that are to be trained"
    if not any(id(parameter) in held for parameter in model.parameters()):
        logger.warning(f"{said}, and no other weight of the model. Unless it passes on its steps, nothing is trained.")
        return
    raise ValueError(
        f"{said}: they would stay as they are. It was made for other weights, such as those of the model before it got "
        "its adapter. Call `get_peft_model` first, make the optimizer for that model's parameters, and give both to "
        "the trainer; or give `optimizer_cls_and_kwargs`, and the trainer makes it. If it is of an earlier training of "
        "this trainer: `trainer.optimizer = trainer.lr_scheduler = None`."
    )
