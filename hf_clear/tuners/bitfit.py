"""CleaR-BitFit: changes of biases that act on the samples that a gate lets through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from peft import LoraConfig, PeftModel, PeftType, get_peft_model
from peft.tuners.tuners_utils import check_adapters_to_merge
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..routing import layer_paths
from ._base import RoutedLayer, RoutedLayerConfig, RoutedLayerModel, alone
from ._registration import register_with_peft
from ._table import register_peft_method

# These also project relative positions, whose rows are no samples.
_NO_SAMPLES = {"deberta-v2": ("query_proj", "key_proj", "pos_query_proj", "pos_key_proj")}


@dataclass
class ClearBitFitConfig(RoutedLayerConfig):
    """BitFit (Ben Zaken et al., 2022, arXiv 2106.10199): trains the biases of the layers, those of LayerNorm included.

    Each targeted module gets a bias change `δb` that starts at zero: a routed sample uses `b0 + δb`, a bypassed one the
    pretrained `b0`. By default every bias inside the numbered layers is targeted (in DeBERTa all but those of the query
    and key projections, which also see relative positions). `merge_and_unload` gives a plain model, and
    [`export_to_peft`] an adapter for stock peft; on disk the type is `CLEAR_BITFIT`, which loads after `import
    hf_clear`.

    Args:
        target_modules, exclude_modules, modules_to_save, task_type, ...: as in peft. Linear, `Conv1D` and LayerNorm
            modules with a bias can be targeted.

    Example:

    ```python
    >>> model = get_peft_model(model, ClearBitFitConfig(task_type="SEQ_CLS"))
    ```
    """

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = PeftType["CLEAR_BITFIT"]


class BiasDelta(nn.Module):
    """A module of its own, as FSDP and DeepSpeed want trained weights beside frozen ones."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self) -> torch.Tensor:
        return self.weight


class BitFitLayer(RoutedLayer):
    # "bias" in the name keeps weight decay away: the Trainer goes by it.
    adapter_layer_names = ("clear_bitfit_bias",)

    def __init__(self, base_layer: nn.Module):
        if not _has_bias(base_layer):
            raise TypeError(f"BitFit needs a linear or LayerNorm module with a bias, not {base_layer}.")
        super().__init__(base_layer)
        self.clear_bitfit_bias = nn.ModuleDict()

    def update_layer(self, adapter_name: str, config: ClearBitFitConfig) -> None:
        self.clear_bitfit_bias[adapter_name] = BiasDelta(len(cast(torch.Tensor, self.base_layer.bias)))
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        acting = self.acting_adapters()  # first: it unmerges what is merged and disabled
        base = result = self.base_layer(x, *args, **kwargs)
        if acting and self.choice is not None:
            shape = [1] * (base.ndim - 1) + [-1]
            deltas = [self.clear_bitfit_bias[name]().view(shape) for name in self.choice.names]
            return base + self.choice.pick(deltas, len(base)).to(base.dtype)
        for name in acting:
            result = result + self.clear_bitfit_bias[name]().to(result.dtype)
        return self.gated(result, base)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Adds the changes to the base layer's bias, as in peft."""
        for name in check_adapters_to_merge(self, adapter_names):
            if name not in self.clear_bitfit_bias:
                continue
            bias = cast(torch.Tensor, self.base_layer.bias)
            merged = bias.data + cast(BiasDelta, self.clear_bitfit_bias[name]).weight.data.to(bias.dtype)
            if safe_merge and not merged.isfinite().all():
                raise ValueError(f"The merged bias is not finite: the adapter {name} seems to be broken.")
            bias.data = merged
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            bias = cast(torch.Tensor, self.base_layer.bias)
            bias.data = bias.data - cast(BiasDelta, self.clear_bitfit_bias[name]).weight.data.to(bias.dtype)


class ClearBitFitModel(RoutedLayerModel):
    prefix = "clear_bitfit_"
    tuner_layer_cls = BitFitLayer
    target_module_mapping: dict[str, list[str]] = {}  # the biases are looked up in the model

    def _prepare_adapter_config(self, peft_config, model_config):
        if peft_config.target_modules is None:
            left_out = _NO_SAMPLES.get(model_config["model_type"], ())
            names = set()
            layers = layer_paths(self.model)
            for path, module in self.model.named_modules():
                layer, path = (name.replace(".base_layer", "") for name in (layers[path], path))  # earlier adapters
                if layer != path and _has_bias(module) and not path.endswith(left_out):
                    names.add(path[len(layer) + 1 :])
            if not names:
                raise ValueError(
                    f"ClearBitFitConfig trains the biases of the layers, and the layers of "
                    f"{type(self.model).__name__} have none. Use another PEFT method, such as ClearLoraConfig."
                )
            peft_config.target_modules = names
        return peft_config

    def export_to_peft(self, adapter_name: str) -> PeftModel:
        own = cast(ClearBitFitConfig, self.peft_config[adapter_name])
        config = LoraConfig(
            task_type=own.task_type,
            target_modules=DUMMY_TARGET_MODULES,
            bias="all",
            modules_to_save=own.modules_to_save and list(own.modules_to_save),
        )
        return get_peft_model(alone(self, adapter_name).merge_and_unload(), config)


def _has_bias(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, Conv1D, nn.LayerNorm)) and module.bias is not None


register_with_peft("clear_bitfit", ClearBitFitConfig, ClearBitFitModel)
register_peft_method("bitfit", ClearBitFitConfig, learning_rate=3e-3)
