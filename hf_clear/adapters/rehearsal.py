"""An adapter is loaded twice: first into a copy of the model, so that what goes wrong leaves the model as it was."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftConfig, PeftModel
from torch import nn

_DECOMPOSE = ("loftq", "mica", "olora", "pissa")  # initializations
_NUM_TOKENS = 6
_IMAGE_CHANNELS = 3  # if the config doesn't say


def _copy_of(model: nn.Module, tensor: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    """A copy of the modules, without hooks, whose tensors are what `tensor` makes of the model's."""
    memo: dict[int, Any] = {id(buffer): tensor(buffer) for buffer in model.buffers()}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(tensor(parameter.data), requires_grad=False)
    copied = copy.deepcopy(model, memo)
    for module in copied.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    return copied


def without_weights(model: nn.Module) -> nn.Module:
    """A copy whose tensors have shapes and no memory."""
    return _copy_of(model, lambda tensor: torch.empty_like(tensor, device="meta"))


def with_shared_weights(model: nn.Module) -> nn.Module:
    """A copy of the modules, in whose parameters others can be put without a change of the model's."""
    return _copy_of(model, lambda tensor: tensor)


def rehearse(model: nn.Module, folder: Path, config: PeftConfig, adapter_name: str) -> None:
    """Loads an adapter into a copy of the model that shares the base model's weights, and lets it predict something.

    Models in parts (on several devices or processes) and quantized ones are not copied: nothing happens.

    Raises:
        ValueError: if the adapter can't be loaded, or makes a model predict NaN or infinite values that doesn't
            without it.
    """
    if not _is_in_one_piece(model):
        return
    config = copy.deepcopy(config)
    init = getattr(config, "init_lora_weights", None)
    if isinstance(init, str) and init.startswith(_DECOMPOSE):
        cast(Any, config).init_lora_weights = True  # the weights are in the file; to compute them takes long
    device = next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        try:
            twin = with_shared_weights(model).eval()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # peft is going to say it again
                adapted = PeftModel.from_pretrained(twin, folder, adapter_name, config=config, torch_device=str(device))
        except Exception as error:  # peft's own, of any kind
            raise ValueError(
                f"{folder} can't be loaded into a {type(model).__name__}: {str(error)[:1000] or type(error).__name__}"
            ) from error
        tried = ((inputs, _predicts_numbers(adapted, inputs)) for inputs in _inputs_for(model))
        inputs, is_finite = next((found for found in tried if found[1] is not None), ({}, None))
        if is_finite is False and _predicts_numbers(with_shared_weights(model).eval(), inputs):
            raise ValueError(
                f"{folder}: with this adapter the model predicts NaN or infinite values. Use an adapter from before "
                "its training diverged."
            )


def _is_in_one_piece(model: nn.Module) -> bool:
    if getattr(model, "hf_device_map", None) or getattr(model, "is_quantized", False):
        return False
    tensors = list(model.parameters())
    kinds = {(type(tensor.data), tensor.device) for tensor in tensors}
    is_plain = len(kinds) == 1 and next(iter(kinds))[0] is torch.Tensor and not tensors[0].is_meta
    return is_plain and not any(hasattr(module, "_hf_hook") for module in model.modules())


def _inputs_for(model: nn.Module) -> Iterable[dict[str, torch.Tensor]]:
    """What a model of transformers may take, the likeliest first."""
    device, dtype = next((p.device, p.dtype) for p in model.parameters())
    name, config = getattr(model, "main_input_name", None), getattr(model, "config", None)
    if name == "input_ids":
        yield {name: tensor.to(device) for name, tensor in cast(Any, model).dummy_inputs.items()}
        # One text that ends as texts do: some classify at the end, or have no padding.
        special = {getattr(config, f"{kind}_token_id", None) for kind in ("pad", "bos", "eos")}
        end = [token for token in [getattr(config, "eos_token_id", None)] if isinstance(token, int)]
        tokens = [token for token in range(_NUM_TOKENS + len(special)) if token not in special][:_NUM_TOKENS]
        yield {name: torch.tensor([tokens + end], device=device)}
    size = getattr(config, "image_size", None)
    if name == "pixel_values" and size is not None:
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        channels = getattr(config, "num_channels", _IMAGE_CHANNELS)
        values = torch.linspace(-1, 1, channels * height * width, device=device)
        yield {name: values.view(1, channels, height, width).to(dtype)}


def _predicts_numbers(model: nn.Module, inputs: dict[str, torch.Tensor]) -> bool | None:
    """Whether all that the model predicts is finite; None if it doesn't take such inputs."""
    try:
        outputs = model(**inputs)
    except Exception:  # of its own kind: it may need more, or other, inputs
        return None
    return all(bool(tensor.isfinite().all()) for tensor in _tensors_in(outputs) if tensor.is_floating_point())


def _tensors_in(outputs: Any) -> Iterable[torch.Tensor]:
    if isinstance(outputs, torch.Tensor):
        yield outputs
    elif isinstance(outputs, (dict, list, tuple)):
        for part in outputs.values() if isinstance(outputs, dict) else outputs:
            yield from _tensors_in(part)
