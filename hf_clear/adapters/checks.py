"""What is looked at before an adapter or a checkpoint is loaded: its files, its tensors, its settings."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import replicate_layers
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from torch import nn
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME
from transformers.utils import WEIGHTS_NAME as MODEL_WEIGHTS_NAME

from .._unwrap import base_of
from ..files.checksums import is_intact
from .bounds import check_against_model, check_numbers
from .config_checks import read_config
from .names import with_names_for_patterns
from .rehearsal import with_shared_weights, without_weights
from .tensors import TensorInfo, check_fit, check_values, num_values, read_header

_SMALL = 2**30  # bytes
# Types that look at values of the model while they are put into it.
_NEED_WEIGHTS = ("ADAMSS", "BOFT", "FROD", "SHIRA", "UNILORA")
_MOST_TIMES_THE_MODEL = 4  # its embeddings may be in an adapter, too, and in more bits


def check_adapter(folder: str | os.PathLike, model: nn.Module | None = None, adapter_name: str = "default") -> None:
    """Makes sure that an adapter can be loaded, and that loading it reads and runs nothing but its own two files,
    `adapter_config.json` and `adapter_model.safetensors`. Runs nothing of the adapter and changes no model.

    Args:
        folder (`str`): as `save_pretrained` wrote it, or its copy in the cache of the Hub.
        model (`nn.Module`, *optional*): what the adapter is for: the base model, or a `PeftModel`. Then the names
            and shapes of all tensors are compared with the model's; but for quantized models, and for the few
            architectures whose tensors transformers renames on loading (such as Mixtral), that is left to peft.
        adapter_name (`str`, *optional*, defaults to `"default"`): the adapter of a `PeftModel` to compare with. One
            that it doesn't have is not compared.

    Raises:
        ValueError: if a file is missing, damaged, a pickle, too large, or leads out of the folder; at unknown
            settings, settings of a wrong type or beyond all bounds, and those that name code to import or files to
            read; if a weight is NaN, infinite, or too large to compute with; if tensors don't fit the model. The
            message names the file. What is looked at is bounded in time and memory; but without `model`, patterns of
            modules are not matched, which peft does in time without bounds.
    """
    vetted(folder, model, adapter_name)


def vetted(folder: str | os.PathLike, model: nn.Module | None = None, adapter_name: str = "default") -> PeftConfig:
    """[`check_adapter`]; returns the settings as peft may have them: names of modules in place of patterns."""
    folder = Path(folder)
    own = model.peft_config.get(adapter_name) if isinstance(model, PeftModel) else None
    base: Any = None if model is None else base_of(model)
    config = read_config(folder, {} if own is None else own.to_dict())
    refuse_pickle(folder, WEIGHTS_NAME, SAFETENSORS_WEIGHTS_NAME)
    path = folder / SAFETENSORS_WEIGHTS_NAME
    tensors = read_header(path)
    model_type = getattr(getattr(base, "config", None), "model_type", None)
    # Packed, or renamed on the way into the model: left to peft.
    is_renamed = get_checkpoint_conversion_mapping(model_type) is not None
    is_compared = not (is_renamed or getattr(base, "is_quantized", False))
    largest: dict[str, float] = {}
    if own is not None:
        if is_compared:
            largest = check_fit(path, tensors, cast(PeftModel, model), adapter_name)
    elif model is not None:
        if not isinstance(model, PeftModel):
            _choose_modules(folder / CONFIG_NAME, config, base, tensors, is_renamed)
            if is_compared:
                largest = check_fit(path, tensors, _with_adapter(folder / CONFIG_NAME, config, base), "default")
        _check_size(path, base)
    if not is_intact(path):
        raise ValueError(
            f"{path} is damaged, or was changed by a program that kept its checksum: they differ. Get it again from "
            "where it came from, or save it anew with `save_pretrained`."
        )
    check_values(path, tensors, largest)
    return config


def check_checkpoint(folder: str | os.PathLike, model: nn.Module, compare: bool = True) -> None:
    """[`check_adapter`] for all adapters that `Trainer` would load from a checkpoint into `model`, and no pickled
    weights of a whole model. Optimizer, scheduler and random states are files of torch, which transformers reads with
    `weights_only`: they hold tensors and numbers, and can't run code.

    Args:
        folder (`str`): the checkpoint.
        model (`nn.Module`): unwrapped.
        compare (`bool`, *optional*, defaults to `True`): also compare the tensors with the model's. Not if these
            are sharded.

    Raises:
        ValueError: see [`check_adapter`].
    """
    folder = Path(folder)
    refuse_pickle(folder, MODEL_WEIGHTS_NAME, SAFE_WEIGHTS_NAME)
    refuse_pickle(folder, WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_INDEX_NAME)
    if not isinstance(model, PeftModel) or not folder.is_dir():
        return

    def holds_adapter(folder: Path) -> bool:
        return any((folder / name).is_file() for name in (SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME))

    named = [inner for inner in folder.iterdir() if inner.is_dir() and holds_adapter(inner)]
    for inner in named:
        check_adapter(inner, model if compare else None, inner.name)
    if holds_adapter(folder):
        check_adapter(folder, model if compare else None, "default" if named else model.active_adapters[0])


def refuse_pickle(folder: Path, pickled: str, instead: str) -> None:
    """Raises a ValueError if `folder` has the file `pickled` and not what stands for it in safetensors."""
    if (folder / pickled).is_file() and not (folder / instead).is_file():
        raise ValueError(
            f"{folder / pickled} is a pickle, a kind of file that can run code, and there is no {instead} beside it. "
            "If you trust it, load it where you trust it with `torch.load(path, weights_only=True)` and write its "
            f"tensors with `safetensors.torch.save_file(tensors, {instead!r})`; or ask its author to."
        )


def _choose_modules(
    path: Path, config: PeftConfig, base: nn.Module, tensors: Mapping[str, TensorInfo], is_renamed: bool
) -> None:
    """Settles which modules of the model the settings are for, within bounds."""
    try:
        check_numbers(config, num_values(tensors))
        check_against_model(config, base)
        copies = getattr(config, "layer_replication", None)
        if copies:
            base = without_weights(base)
            replicate_layers(base, copies)
        with_names_for_patterns(config, base, is_renamed)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _with_adapter(path: Path, config: PeftConfig, base: nn.Module) -> PeftModel:
    """A copy of the base model with the adapter, if possible without memory for either's tensors."""
    config = copy.deepcopy(config)
    config.inference_mode = True  # peft would read a tokenizer, to initialize prompts for training
    if isinstance(config, LoraConfig):
        config.init_lora_weights = True  # shapes are the same for all
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft is going to say it again
            if config.peft_type in _NEED_WEIGHTS:
                return get_peft_model(with_shared_weights(base), config)
            with torch.device("meta"):
                return get_peft_model(without_weights(base), config, low_cpu_mem_usage=True)
    except Exception as error:  # peft's own, of any kind
        reason = str(error)[:1000] or type(error).__name__
        raise ValueError(f"{path} doesn't fit {type(base).__name__}: {reason}") from error


def _check_size(path: Path, base: nn.Module) -> None:
    of_model = sum(tensor.nbytes for tensor in base.parameters())
    if path.stat().st_size > max(_SMALL, _MOST_TIMES_THE_MODEL * of_model):
        raise ValueError(
            f"{path} has {path.stat().st_size:,} bytes, and the whole model {of_model:,}: no adapter is that large."
        )
