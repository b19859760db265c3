"""What is looked at before an adapter or a checkpoint is loaded: its files, its tensors, its settings."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME
from transformers.utils import WEIGHTS_NAME as MODEL_WEIGHTS_NAME

from .._unwrap import base_of
from ..checksums import is_intact
from ..files import check_inside
from .config_checks import read_config

_MAX_NAMES = 5  # in a message


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
        ValueError: where a file is missing, damaged, a pickle, or leads out of the folder; at unknown settings,
            settings of a wrong type, and those that name code to import or files to read; where a weight is NaN or
            infinite; where tensors don't fit the model. The message names the file.
    """
    folder = Path(folder)
    own = model.peft_config.get(adapter_name) if isinstance(model, PeftModel) else None
    base = base_of(model)
    config = read_config(folder, {} if own is None else own.to_dict())
    refuse_pickle(folder, WEIGHTS_NAME, SAFETENSORS_WEIGHTS_NAME)
    path = folder / SAFETENSORS_WEIGHTS_NAME
    shapes = _check_tensors(path)
    model_type = getattr(getattr(base, "config", None), "model_type", None)
    # Packed, or renamed on the way into the model: left to peft.
    is_converted = getattr(base, "is_quantized", False) or get_checkpoint_conversion_mapping(model_type) is not None
    if model is None or is_converted or (isinstance(model, PeftModel) and own is None):
        return
    if own is None:
        adapter_name = "default"
        config.inference_mode = True  # peft would read a tokenizer, to initialize prompts for training
        try:
            with torch.device("meta"):
                model = get_peft_model(_without_weights(base), config, low_cpu_mem_usage=True)
        except Exception as error:  # peft's own, of any kind
            raise ValueError(f"{folder / CONFIG_NAME} doesn't fit {type(base).__name__}: {error}") from error
    _compare(path, shapes, model, adapter_name)


def check_checkpoint(folder: str | os.PathLike, model: nn.Module, compare: bool = True) -> None:
    """[`check_adapter`] for all adapters that `Trainer` would load from a checkpoint into `model`, and no pickled
    weights of a whole model. Optimizer, scheduler and random states are files of torch, which transformers reads with
    `weights_only`: they hold tensors and numbers, and can't run code.

    Args:
        folder (`str`): the checkpoint.
        model (`nn.Module`): unwrapped.
        compare (`bool`, *optional*, defaults to `True`): also compare the tensors with the model's. Not where these
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
    """
    Raises:
        ValueError: where `folder` has the file `pickled` and not what stands for it in safetensors.
    """
    if (folder / pickled).is_file() and not (folder / instead).is_file():
        raise ValueError(
            f"{folder / pickled} is a pickle, a kind of file that can run code, and there is no {instead} beside it. "
            "If you trust it, load it where you trust it with `torch.load(path, weights_only=True)` and write its "
            f"tensors with `safetensors.torch.save_file(tensors, {instead!r})`; or ask its author to."
        )


def first_not_finite(tensors: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """The name of the first tensor with a NaN or infinite value."""
    for name, tensor in tensors:
        if not tensor.is_floating_point():
            continue
        tensor = tensor.float() if tensor.dtype.itemsize == 1 else tensor  # float8 can't be asked
        if not tensor.isfinite().all():
            return name
    return None


def _check_tensors(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors, by name."""
    if not path.is_file():
        raise ValueError(f"There is no {path.name} in {path.parent}: give the folder that `save_pretrained` wrote to.")
    check_inside(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = list(file.keys())
            wrong = first_not_finite((name, file.get_tensor(name)) for name in names)
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is damaged or no safetensors file ({error}). Get it again from where it came from."
        ) from error
    if not is_intact(path):
        raise ValueError(
            f"{path} is damaged, or was changed by a program that kept its checksum: they differ. Get it again from "
            "where it came from, or save it anew with `save_pretrained`."
        )
    if wrong is not None:
        raise ValueError(
            f"{path}: the tensor {wrong!r} holds NaN or infinite values, so the model would predict nothing but NaN. "
            "Use an adapter from before its training diverged."
        )
    return shapes


def _compare(path: Path, shapes: dict[str, tuple[int, ...]], model: PeftModel, adapter_name: str) -> None:
    """Names and shapes in the file with those of the model's adapter."""

    def of_model(with_embeddings: bool) -> dict[str, tuple[int, ...]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tensors = get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=with_embeddings)
        return {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    expected = of_model(False)
    missing = expected.keys() - shapes.keys()
    allowed = expected if shapes.keys() <= expected.keys() else expected | of_model(True)
    unexpected = shapes.keys() - allowed.keys()
    wrong = [
        f"{name} is {list(shapes[name])}, the model's {list(allowed[name])}"
        for name in sorted(shapes.keys() & allowed.keys())
        if shapes[name] != allowed[name]
    ]
    for what, names in (
        ("tensors are missing", sorted(missing)),
        ("there are tensors that the model has no place for", sorted(unexpected)),
        ("tensors have other shapes than the model's", wrong),
    ):
        if names:
            names = ", ".join(names[:_MAX_NAMES]) + f", and {len(names) - _MAX_NAMES} more" * (len(names) > _MAX_NAMES)
            raise ValueError(
                f"{path}: {what}: {names}. Load it into the base model that it was trained on (with as many labels), "
                "and leave its config as it is."
            )


def _without_weights(model: nn.Module) -> nn.Module:
    """A copy whose tensors have shapes and no memory."""
    tensors = [*model.parameters(), *model.buffers()]
    empty = {id(tensor): torch.empty_like(tensor, device="meta") for tensor in tensors}
    for tensor in model.parameters():
        empty[id(tensor)] = nn.Parameter(empty[id(tensor)], requires_grad=False)
    return copy.deepcopy(model, empty)
