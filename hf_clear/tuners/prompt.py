"""CleaR-Prompt: deep prompts that act on the samples that a gate lets through."""

from __future__ import annotations

import copy
import inspect
import sys
from dataclasses import dataclass, field
from typing import Any, cast

import peft
import torch
import torch.nn.functional as F
import transformers
from peft import PeftModel, PeftType, PrefixTuningConfig, get_peft_model
from torch import nn
from transformers import AttentionInterface, PretrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ..routing import expand_gate
from ._base import RoutedLayer, RoutedLayerConfig, RoutedLayerModel, alone
from ._registration import register_with_peft
from ._table import register_peft_method

# The self-attention modules, of architectures whose attention goes through transformers' attention interface.
TARGET_MODULES = {
    **dict.fromkeys(["bert", "roberta", "xlm-roberta", "electra"], ["attention.self"]),
    **dict.fromkeys(["albert", "distilbert", "vit"], ["attention"]),
    **dict.fromkeys(["llama", "mistral", "qwen2", "qwen3", "bart"], ["self_attn"]),
    **dict.fromkeys(["gpt2", "modernbert"], ["attn"]),
    "t5": ["SelfAttention"],
}
_OWN_ATTENTION = {"deberta": "DeBERTa", "deberta-v2": "DeBERTa", "mpnet": "MPNet"}
_ATTENTION = "clear_prompt"
_INIT_STD = 0.02
_TASKS_THAT_LOOK = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")  # for a name in a signature, in stock peft
_LENGTH_FREE_ROPE = ("default", "linear", "llama3")  # rotate alike at every length, and do nothing else


@dataclass
class ClearPromptConfig(RoutedLayerConfig):
    """Deep prompt tuning (P-tuning v2, Liu et al., 2022, arXiv 2110.07602): trained keys and values that every layer's
    self-attention sees in front of the tokens.

    For a bypassed sample, they are masked out of that layer's attention. Positions of the tokens are not shifted, so
    that a bypassed sample is the base model's; peft's `PREFIX_TUNING` shifts them. Needs a model whose attention
    goes through transformers' attention interface, with `attn_implementation` `"sdpa"` or `"eager"`. On disk the type
    is `CLEAR_PROMPT`, which loads after `import hf_clear`; [`export_to_peft`] works for decoder-only models with rotary
    positions. Prompts can't be merged.

    Args:
        num_virtual_tokens (`int`, *optional*, defaults to 20): trained keys and values a layer.
        exact (`bool`, *optional*, defaults to `False`): makes bypassed samples equal the base model bit for bit, by
            computing each routed layer's attention a second time, without the prompt. Without it they are equal up to
            rounding (about 1e-6 in float32). A routed step takes 1.2 times (24 tokens) to 1.4 times (128 tokens) as
            long, by `benchmarks/prompt_exact.py`; evaluation is not affected.
        target_modules (`list[str]` or `str`, *optional*): the self-attention modules.
        exclude_modules, modules_to_save, task_type, ...: as in peft.

    Raises:
        ValueError: if `num_virtual_tokens` is below 1, or the model computes attention in a way of its own.

    Example:

    ```python
    >>> model = get_peft_model(model, ClearPromptConfig(task_type="SEQ_CLS", num_virtual_tokens=20))
    ```
    """

    num_virtual_tokens: int = field(default=20, metadata={"help": "Trained keys and values a layer."})
    exact: bool = field(
        default=False, metadata={"help": "Bypassed samples equal the base model bit for bit, at a cost."}
    )

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = PeftType["CLEAR_PROMPT"]
        if self.num_virtual_tokens < 1:
            raise ValueError(f"`num_virtual_tokens` has to be 1 or above; got {self.num_virtual_tokens}.")


class PromptLayer(RoutedLayer):
    """Wraps a self-attention module: its attention function becomes ours, which puts the prompt in front."""

    adapter_layer_names = ("clear_prompt_embedding",)
    other_param_names = ("exact",)

    def __init__(self, base_layer: nn.Module):
        if not _uses_attention_interface(base_layer):
            raise TypeError(
                f"a deep prompt needs an attention module of transformers' attention interface, and "
                f"{type(base_layer).__name__} is none."
            )
        super().__init__(base_layer)
        self.clear_prompt_embedding = nn.ModuleDict()
        self.exact: dict[str, bool] = {}
        self.model_config = base_layer.config
        self._attention()  # refuses what is not supported, before anything is changed
        # A config of its own for this module: on the model's, the mask would no longer be made for sdpa or eager.
        base_layer.config = copy.copy(self.model_config)
        cast(PretrainedConfig, base_layer.config)._attn_implementation_internal = _ATTENTION
        object.__setattr__(base_layer, "clear_prompt_layer", self)  # not as a submodule: that would be a cycle

    def update_layer(self, adapter_name: str, config: ClearPromptConfig) -> None:
        embedding = nn.Embedding(config.num_virtual_tokens, 2 * _width_of_keys(self.model_config))
        nn.init.normal_(embedding.weight, std=_INIT_STD)
        weight = next(self.base_layer.parameters())
        if "meta" not in (weight.device.type, embedding.weight.device.type):  # `low_cpu_mem_usage`
            embedding.to(weight.device, weight.dtype if weight.is_floating_point() else None)
        self.clear_prompt_embedding[adapter_name] = embedding
        self.exact[adapter_name] = config.exact
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, *args, **kwargs):
        return self.base_layer(*args, **kwargs)

    def attend(self, query, key, value, attention_mask, **kwargs):
        """Attention with the prompt in front of the keys and values; arguments as of any attention function."""
        attention, module = self._attention(), self.base_layer
        adapters = self.acting_adapters()
        if not adapters:
            return attention(module, query, key, value, attention_mask, **kwargs)
        batch, heads, _, width = key.shape
        prompt = self._prompt(adapters, batch).to(key.dtype)
        length = prompt.shape[1]
        keys, values = (
            part.view(len(prompt), length, heads, width).transpose(1, 2).expand(batch, -1, -1, -1)
            for part in prompt.chunk(2, dim=2)
        )
        with_prompt = dict(kwargs)
        if kwargs.get("position_bias") is not None:  # T5: no bias towards the prompt
            with_prompt["position_bias"] = F.pad(kwargs["position_bias"], (length, 0))
        mask = attention_mask
        causal = attention is sdpa_attention_forward and mask is None and query.shape[2] > 1
        causal = causal and (module.is_causal if kwargs.get("is_causal") is None else kwargs["is_causal"])
        if causal:  # sdpa would make the mask itself, and hide the prompt with it
            ones = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=key.device)
            mask = ones.tril()[None, None]
            with_prompt["is_causal"] = False
        mask = self._mask_with_prompt(mask, query, key, length, attention is sdpa_attention_forward)
        result, weights = attention(
            module, query, torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2), mask, **with_prompt
        )
        if self.gate is not None and any(self.exact[name] for name in adapters):
            base, _ = attention(module, query, key, value, attention_mask, **kwargs)
            result = self.gated(result, base)
        return result, weights

    def _prompt(self, adapters: list[str], batch: int) -> torch.Tensor:
        """Keys and values beside each other, `[1 or batch, length, 2 * width]`."""
        if self.choice is None:
            return torch.cat([self._weight(name) for name in adapters]).unsqueeze(0)
        return self.choice.pick([self._weight(name).unsqueeze(0) for name in self.choice.names], batch)

    def _weight(self, name: str) -> torch.Tensor:
        return cast(nn.Embedding, self.clear_prompt_embedding[name]).weight

    def _mask_with_prompt(self, mask, query, key, length: int, boolean: bool):
        """The mask with columns for the prompt, which only the samples that the gate lets through see."""
        if mask is None and self.gate is None:
            return None
        batch, rows = query.shape[0], query.shape[2]
        if mask is None:
            mask = torch.ones(1, 1, 1, key.shape[2], dtype=torch.bool, device=key.device)
            if not boolean:
                mask = torch.zeros_like(mask, dtype=query.dtype)
        visible = torch.ones(batch, dtype=torch.bool, device=key.device)
        if self.gate is not None:
            visible = expand_gate(self.gate, batch)
        visible = visible.view(batch, 1, 1, 1).expand(batch, mask.shape[1], rows, length)
        if mask.dtype != torch.bool:
            hidden = torch.finfo(mask.dtype).min
            visible = torch.zeros_like(visible, dtype=mask.dtype).masked_fill(~visible, hidden)
        return torch.cat([visible, mask.expand(batch, -1, rows, -1)], dim=-1)

    def _attention(self):
        """The attention function of the model, whatever it is set to now."""
        name = cast(PretrainedConfig, self.model_config)._attn_implementation
        if name == "sdpa":
            return sdpa_attention_forward
        if name == "eager":
            return sys.modules[type(self.get_base_layer()).__module__].eager_attention_forward
        raise ValueError(
            f"Deep prompts work with attn_implementation='sdpa' or 'eager', not {name!r}: load the model with one of "
            "those."
        )


class ClearPromptModel(RoutedLayerModel):
    prefix = "clear_prompt_"
    tuner_layer_cls = PromptLayer
    target_module_mapping = TARGET_MODULES

    def _prepare_adapter_config(self, peft_config, model_config):
        if model_config["model_type"] in _OWN_ATTENTION:
            raise ValueError(
                f"Deep prompts don't work with {_OWN_ATTENTION[model_config['model_type']]}: its attention doesn't go "
                "through transformers' attention interface, the only place where keys can be added for every layer. "
                "Use another PEFT method, such as ClearLoraConfig or ClearAdapterConfig."
            )
        return super()._prepare_adapter_config(peft_config, model_config)

    def _replace_module(self, parent, child_name, new_module, child) -> None:
        if isinstance(child, PromptLayer):  # unloading
            new_module.config = child.model_config
            del new_module.__dict__["clear_prompt_layer"]
        setattr(parent, child_name, new_module)

    def export_to_peft(self, adapter_name: str) -> PeftModel:
        own, model = cast(ClearPromptConfig, self.peft_config[adapter_name]), cast(PreTrainedModel, self.model)
        layers = [module for module in model.modules() if isinstance(module, PromptLayer)]
        rotary = [module for module in model.modules() if "RotaryEmbedding" in type(module).__name__]
        if model.config.is_encoder_decoder or len(rotary) != 1 or not layers[0].base_layer.is_causal:
            raise ValueError(
                f"Stock peft has no form for a deep prompt on {type(model).__name__}: its PREFIX_TUNING shifts the "
                "positions of the tokens by the length of the prompt, which makes no difference on decoder-only models "
                "with rotary positions alone. Save it with `save_pretrained`; it loads after `import hf_clear`."
            )
        config = model.config
        slides = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
        if slides or getattr(rotary[0], "rope_type", "default") not in _LENGTH_FREE_ROPE:
            raise ValueError(
                "Stock peft has no form for a deep prompt on this model: in its PREFIX_TUNING, a sliding window hides "
                "the prompt from later tokens, and a scaling of positions that depends on the length changes with it."
            )
        if len(layers) != model.config.num_hidden_layers:
            raise ValueError(
                f"The prompt is on {len(layers)} of {model.config.num_hidden_layers} layers, and PREFIX_TUNING on all."
            )
        if not peft_prefixes_work(model, own.task_type):
            raise ValueError(
                f"peft {peft.__version__} can't run PREFIX_TUNING for the task {own.task_type} with transformers "
                f"{transformers.__version__}, whose models call their `past_key_values` `cache`. Export it with "
                "transformers below 5.24; `save_pretrained` works, and loads after `import hf_clear`."
            )
        length = own.num_virtual_tokens
        prefix = PrefixTuningConfig(
            task_type=own.task_type,
            num_virtual_tokens=length,
            modules_to_save=own.modules_to_save and list(own.modules_to_save),
        )
        parts = []
        for layer in layers:
            embedding = layer._weight(adapter_name).data.float()
            keys, values = embedding.chunk(2, dim=1)
            parts += [_rotated(keys, length, rotary[0], layer), values]
        exported = get_peft_model(cast(PreTrainedModel, alone(self, adapter_name).unload()), prefix)
        cast(Any, exported.prompt_encoder)["default"].embedding.weight.data.copy_(torch.cat(parts, dim=1))
        return exported


def peft_prefixes_work(model: nn.Module, task_type: str | None) -> bool:
    """Whether stock peft runs its PREFIX_TUNING on a model: for tasks with a head of their own, it (0.21) looks for an
    argument `past_key_values`, which is called `cache` from transformers 5.24 on."""
    backbone = getattr(model, cast(str, model.base_model_prefix), model)
    names = {name for module in (model, backbone) for name in inspect.signature(module.forward).parameters}
    return task_type not in _TASKS_THAT_LOOK or "past_key_values" in names


def prompt_attention(module, query, key, value, attention_mask, **kwargs):
    """The attention function of modules that a [`PromptLayer`] wraps."""
    return module.clear_prompt_layer.attend(query, key, value, attention_mask, **kwargs)


def _rotated(keys: torch.Tensor, position: int, rotary: nn.Module, layer: PromptLayer) -> torch.Tensor:
    """The keys `[length, width]` rotated to `position`: seen from tokens that peft shifts by as much, they are the
    unrotated keys seen from tokens that nobody shifted."""
    apply_rotary = sys.modules[type(layer.get_base_layer()).__module__].apply_rotary_pos_emb
    width = cast(int, layer.base_layer.head_dim)
    heads = keys.view(1, len(keys), -1, width).transpose(1, 2)
    cos, sin = rotary(heads, torch.full((1, len(keys)), position, device=keys.device))
    return apply_rotary(heads, heads, cos, sin)[1].transpose(1, 2).reshape(keys.shape)


def _width_of_keys(config) -> int:
    """All heads' keys together; in T5 and with grouped queries, other than the hidden size."""
    heads = getattr(config, "num_key_value_heads", None)
    if heads is not None:
        width = getattr(config, "head_dim", None)
        return heads * (config.hidden_size // config.num_attention_heads if width is None else width)
    width = getattr(config, "d_kv", None)
    return config.hidden_size if width is None else config.num_attention_heads * width


def _uses_attention_interface(module: nn.Module) -> bool:
    return "ALL_ATTENTION_FUNCTIONS" in inspect.unwrap(type(module).forward).__code__.co_names


AttentionInterface.register(_ATTENTION, prompt_attention)
register_with_peft("clear_prompt", ClearPromptConfig, ClearPromptModel)
register_peft_method("prompt", ClearPromptConfig, learning_rate=1e-2)
