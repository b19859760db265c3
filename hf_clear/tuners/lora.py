"""CleaR-LoRA: routed LoRA layers. Routing is a matter of training alone, so the adapter is and stays a stock LoRA."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, LoraModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import Embedding, LoraVariant
from torch import nn
from torch.nn.functional import linear

from .._argument_checks import check_least
from ..routing import AdapterChoice, Gate, apply_gate, register_choice, register_routable
from ._registration import register_with_peft
from ._table import register_peft_method


@dataclass
class ClearLoraConfig(LoraConfig):
    """A [`~peft.LoraConfig`] for [`ClearTrainer`]: the same arguments, defaults and saved files.

    The layers are peft's own. [`hf_clear.route`] gates them while CleaR trains, and a model that already carries peft
    LoRA layers (`LoraConfig`, rsLoRA, DoRA) is routed just the same. What `save_pretrained` writes is a stock LoRA
    adapter that loads with identical logits without hf_clear.

    Example:

    ```python
    >>> model = get_peft_model(model, ClearLoraConfig(task_type="SEQ_CLS", r=8))
    ```
    """

    def __post_init__(self):
        super().__post_init__()
        for name in ("lora_alpha", "lora_dropout"):
            check_least(self, name, 0)
        # peft appends the names of the head to this very list, which would grow in the hands of its owner.
        if isinstance(self.modules_to_save, list):
            self.modules_to_save = list(self.modules_to_save)


class RoutedLora(LoraVariant):
    """Stands in for a layer's LoRA variant (none, DoRA, ...) while a gate is set: `gate ? δ + θ : θ` for each sample.

    Args:
        gate (`torch.BoolTensor` of shape `[batch]`): True for the samples that the adapter acts on.
        variant (`LoraVariant`, *optional*): the layer's own variant; None for plain LoRA.
    """

    def __init__(self, gate: Gate, variant: LoraVariant | None):
        self.gate = gate
        self.variant = variant

    def forward(  # type: ignore[override]  # static in peft, whose variants have no state
        self, module: LoraLayer, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        if self.variant is not None:
            own = result.clone()  # some variants add to it in place
            routed = self.variant.forward(module, active_adapter=active_adapter, x=x, result=own, **kwargs)
            return apply_gate(self.gate, routed, result)
        # The expression of peft's `Linear.forward`, for bit-identical results. The gate is applied where the rank makes
        # rows short (a finite B maps zeros to a delta of zeros): at full width it would go over the output often.
        lora_a, lora_b = module.lora_A[active_adapter], module.lora_B[active_adapter]
        hidden = lora_a(module.lora_dropout[active_adapter](x))
        if lora_b.bias is not None:
            return apply_gate(self.gate, result + lora_b(hidden) * module.scaling[active_adapter], result)
        hidden = apply_gate(self.gate, hidden, torch.zeros_like(hidden))
        return result + lora_b(hidden) * module.scaling[active_adapter]


class ChosenLora(LoraVariant):
    """Stands in for the variant of a layer's active adapter while each row passes one of several adapters.

    Args:
        choice (`AdapterChoice`): which adapter acts on which sample.
        variant (`LoraVariant`, *optional*): the layer's own variant; None for plain LoRA.
    """

    def __init__(self, choice: AdapterChoice, variant: LoraVariant | None):
        self.choice = choice
        self.variant = variant

    def forward(  # type: ignore[override]  # static in peft, whose variants have no state
        self, module: LoraLayer, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        names, rows = self.choice.names, len(x)
        if self.variant is not None:
            forward = self.variant.forward
            routed = [forward(module, active_adapter=n, x=x, result=result.clone(), **kwargs) for n in names]
            return self.choice.pick(routed, rows)
        downs: list[Any] = [module.lora_A[name] for name in names]
        ups: list[Any] = [module.lora_B[name] for name in names]
        x, scaling = module.lora_dropout[active_adapter](x), module.scaling[active_adapter]
        if any(type(part) is not nn.Linear or part.bias is not None for part in (*downs, *ups)):
            return result + self.choice.pick([up(down(x)) for down, up in zip(downs, ups)], rows) * scaling
        # As one LoRA of all ranks together, of which each row keeps its own: one product at full width, not several.
        hidden = linear(x, torch.cat([down.weight for down in downs]))
        number = torch.arange(len(names), device=x.device).repeat_interleave(downs[0].out_features)
        is_own = self.choice.rows(rows, x.device).unsqueeze(1) == number
        hidden = hidden.where(is_own.view(rows, *[1] * (x.ndim - 2), -1), 0.0)
        return result + linear(hidden, torch.cat([up.weight for up in ups], dim=1)) * scaling


def _check_model(model: nn.Module) -> None:
    """Refuses settings that train or change the base layers' own weights."""
    changes_base = ("pissa", "olora", "corda", "lora_ga", "loftq")
    for config in getattr(model, "peft_config", {}).values():
        if not isinstance(config, LoraConfig):
            continue
        if config.bias != "none":
            raise ValueError(
                f"LoRA with bias={config.bias!r} trains biases of the base model, which no gate bypasses: CleaR needs "
                'bias="none".'
            )
        if getattr(config, "kasa_config", None) is not None:
            raise ValueError(
                "KaSA takes a part of the pretrained weights away, so that a bypassed layer would not be the "
                "pretrained one. CleaR needs LoRA that leaves the base model alone: leave `kasa_config` out."
            )
        if isinstance(config.init_lora_weights, str) and config.init_lora_weights.startswith(changes_base):
            raise ValueError(
                f"init_lora_weights={config.init_lora_weights!r} moves a part of the pretrained weights into LoRA, so "
                "that a bypassed layer would not be the pretrained one. CleaR needs an initialization that leaves the "
                'base model alone, such as the default or "gaussian".'
            )


def _set_gate(module: LoraLayer, gate: Gate) -> Callable[[], None]:
    _check_layer(module)
    variants = module.lora_variant
    stock = dict(variants)
    for adapter in module.active_adapters:
        if adapter in module.lora_A:
            inner = stock.get(adapter)
            variants[adapter] = RoutedLora(gate, inner.variant if isinstance(inner, RoutedLora) else inner)
    return _undo(variants, stock)


def _set_choice(module: LoraLayer, choice: AdapterChoice) -> Callable[[], None]:
    _check_layer(module)
    variants = module.lora_variant
    stock = dict(variants)
    variants[choice.names[0]] = ChosenLora(choice, stock.get(choice.names[0]))
    return _undo(variants, stock)


def _undo(variants: dict[str, LoraVariant], stock: dict[str, LoraVariant]) -> Callable[[], None]:
    def undo() -> None:
        variants.clear()
        variants.update(stock)

    return undo


def _check_layer(module: LoraLayer) -> None:
    if isinstance(module, Embedding) or not _calls_variant(module):
        raise ValueError(
            f"peft's {type(module).__name__} on a {type(module.get_base_layer()).__name__} can't be routed. Take such "
            "modules out of `target_modules`, or use LoRA on linear layers."
        )
    if module.merged:
        raise ValueError("The LoRA weights are merged into the base model, which can't be routed: unmerge them first.")


def _calls_variant(module: LoraLayer) -> bool:
    """Whether the layer's forward pass asks `lora_variant`, as peft's Linear, Conv, bitsandbytes and GPTQ layers do."""
    return any(
        "lora_variant" in vars(cls)["forward"].__code__.co_names
        for cls in type(module).__mro__
        if "forward" in vars(cls) and hasattr(vars(cls)["forward"], "__code__")
    )


register_routable(LoraLayer, _set_gate, _check_model)
register_choice(LoraLayer, _set_choice)
# On disk and in memory the type is peft's LORA; CLEAR_LORA is a name under which configs may ask for it.
register_with_peft("clear_lora", ClearLoraConfig, LoraModel, prefix=LoraModel.prefix)
register_peft_method("lora", ClearLoraConfig, learning_rate=2e-3)
