"""CleaR-Adapter: bottleneck adapters that act on the samples that a gate lets through."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from peft import PeftType
from torch import nn
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

from ._base import RoutedLayer, RoutedLayerConfig, RoutedLayerModel
from ._registration import register_with_peft
from ._table import register_peft_method

# The linear layers that end attention (cross-attention too) and the feed-forward part.
TARGET_MODULES = {
    **dict.fromkeys(["bert", "roberta", "xlm-roberta", "electra", "deberta", "deberta-v2"], ["output.dense"]),
    **dict.fromkeys(["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2"], ["o_proj", "down_proj"]),
    "albert": ["attention.dense", "ffn_output"],
    "bart": ["self_attn.out_proj", "encoder_attn.out_proj", "fc2"],
    "distilbert": ["out_lin", "lin2"],
    "gpt2": ["c_proj"],
    "modernbert": ["Wo"],
    "mpnet": ["attn.o", "output.dense"],
    "t5": ["SelfAttention.o", "EncDecAttention.o", "DenseReluDense.wo"],
    "vit": ["o_proj", "fc2"],
}


@dataclass
class ClearAdapterConfig(RoutedLayerConfig):
    """Bottleneck adapters (Houlsby et al., 2019, arXiv 1902.00751): `h + up(activation(down(h)))` after the attention
    output and after the feed-forward output, before the residual connection and its LayerNorm.

    `up` starts at zero, so that the adapted model starts as the base model. If the base model applies dropout to
    the output, the adapter comes before it. The adapter is no change of weights: it can't be merged, and stock peft has
    no form for it; on disk it is of the type `CLEAR_ADAPTER`, which loads after `import hf_clear`.

    Args:
        bottleneck_size (`int`, *optional*, defaults to 64): width of the bottleneck.
        activation (`str`, *optional*, defaults to `"gelu"`): a name among transformers' `ACT2FN`.
        target_modules, exclude_modules, modules_to_save, task_type, ...: as in peft.

    Raises:
        ValueError: if the size is below 1 or the activation is unknown.

    Example:

    ```python
    >>> model = get_peft_model(model, ClearAdapterConfig(task_type="SEQ_CLS", bottleneck_size=64))
    ```
    """

    bottleneck_size: int = field(default=64, metadata={"help": "Width of the bottleneck."})
    activation: str = field(default="gelu", metadata={"help": "Activation inside the bottleneck, as in transformers."})

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = PeftType["CLEAR_ADAPTER"]
        if self.bottleneck_size < 1:
            raise ValueError(f"`bottleneck_size` has to be 1 or above; got {self.bottleneck_size}.")
        if self.activation not in ACT2FN:
            raise ValueError(f"`activation` has to be one of {', '.join(ACT2FN)}; got {self.activation!r}.")
        if any(True for _ in ACT2FN[self.activation].parameters()):
            raise ValueError(f"`activation={self.activation!r}` has weights of its own, which nobody would train.")


class AdapterLayer(RoutedLayer):
    adapter_layer_names = ("clear_adapter_down", "clear_adapter_up")
    other_param_names = ("activation",)

    def __init__(self, base_layer: nn.Module):
        if not isinstance(base_layer, (nn.Linear, Conv1D)):
            raise TypeError(f"a bottleneck adapter follows a linear layer, not a {type(base_layer).__name__}.")
        super().__init__(base_layer)
        self.clear_adapter_down = nn.ModuleDict()
        self.clear_adapter_up = nn.ModuleDict()
        self.activation: dict[str, nn.Module] = {}

    def update_layer(self, adapter_name: str, config: ClearAdapterConfig) -> None:
        base: Any = self.base_layer
        width = base.nf if isinstance(base, Conv1D) else base.out_features
        self.clear_adapter_down[adapter_name] = nn.Linear(width, config.bottleneck_size)
        self.clear_adapter_up[adapter_name] = up = nn.Linear(config.bottleneck_size, width)
        nn.init.zeros_(up.weight)
        nn.init.zeros_(up.bias)
        self.activation[adapter_name] = ACT2FN[config.activation]
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        base = result = self.base_layer(x, *args, **kwargs)
        acting = self.acting_adapters()
        if acting and self.choice is not None:
            return base + self.choice.apply([partial(self._delta, name) for name in self.choice.names], base)
        for name in acting:
            result = result + self._delta(name, base)
        return self.gated(result, base)

    def _delta(self, name: str, base: torch.Tensor) -> torch.Tensor:
        down: Any = self.clear_adapter_down[name]
        up = self.clear_adapter_up[name]
        return up(self.activation[name](down(base.to(down.weight.dtype)))).to(base.dtype)


class ClearAdapterModel(RoutedLayerModel):
    prefix = "clear_adapter_"
    tuner_layer_cls = AdapterLayer
    target_module_mapping = TARGET_MODULES

    def export_to_peft(self, adapter_name: str):
        raise ValueError(
            "Stock peft has no form for a bottleneck adapter: its activation makes it more than a change of weights. "
            "Save it with `save_pretrained`; it loads after `import hf_clear`."
        )


register_with_peft("clear_adapter", ClearAdapterConfig, ClearAdapterModel)
register_peft_method("adapter", ClearAdapterConfig, learning_rate=3e-3)
