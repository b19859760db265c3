"""Files with a run's state: how they are read, and what is said of those that can't be."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft.utils import CONFIG_NAME as PEFT_CONFIG_NAME
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from transformers.utils import CONFIG_NAME

from .._names import IGNORED_LABEL
from .atomic import write_atomically
from .checksums import is_intact, sealed
from .strict_json import parse_json

WAY_OUT = "Resume from another checkpoint, or start again without `resume_from_checkpoint`."
SAMPLE_TENSORS = ("losses", "clean_probability", "labels", "mean_losses")
# Not in all files, or not in those of earlier versions.
OPTIONAL_TENSORS = ("suggestion", "suggestion_confidence", "neighbors_disagree", "held_out_clean_probability")
_LABEL_TYPES = (torch.int16, torch.int32, torch.int64)  # narrowest first
FLOAT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_CLASSES = ("labels", "suggestion")
_PROBABILITIES = ("clean_probability", "suggestion_confidence", "held_out_clean_probability")
_FLAGS = ("neighbors_disagree",)
_ROUNDING = 1e-3  # of probabilities


def read_state(
    path: str | os.PathLike,
    format: str,
    writer: str,
    required: Iterable[str] = (),
    device: torch.device | str = "cpu",
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and the plain state of a file that `writer` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, or of another format.
    """
    if not Path(path).is_file():
        load = loading_call(os.path.dirname(path))
        raise FileNotFoundError(
            f"{path} is missing, so the clean probabilities of the run can't be restored: its checkpoints were saved "
            f"with `save_only_model=True`, or were not written by {writer}. {WAY_OUT}"
            + f" A new run may begin with the weights of this one: `model = {load}`."
            * bool(load)
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).to(device) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise damaged(path, str(error)) from error
    if metadata.get("format") != format or not set(required) <= tensors.keys():
        raise ValueError(f"{path} is not a state of {writer} (format {format}; other versions have others). {WAY_OUT}")
    if not is_intact(path):
        raise damaged(path, "its checksum is not that of what it holds")
    try:
        state = parse_json(metadata.get("state", ""))
    except ValueError as error:
        raise damaged(path, f"its metadata are no valid JSON: {error}") from error
    if not isinstance(state, dict):
        raise damaged(path, f"its metadata are a {type(state).__name__}")
    return tensors, state


def write_tensors(path: str | os.PathLike, format: str, tensors: Mapping[str, torch.Tensor], **state: Any) -> None:
    """Writes tensors, and a plain state beside them, as safetensors."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, *sealed(serialize(on_cpu, {"format": format, "state": json.dumps(state)})))


@torch.no_grad()
def read_tensors_into(
    tensors: Mapping[str, torch.Tensor], path: str | os.PathLike, format: str, writer: str, others: str
) -> None:
    """Gives tensors the values that [`write_tensors`] wrote, in place.

    Args:
        writer (`str`), others (`str`): for errors: who writes such a file, and why it may hold tensors by other names.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or of other tensors.
    """
    found, _ = read_state(path, format, writer)
    if found.keys() != tensors.keys():
        name = min(found.keys() ^ tensors.keys())
        raise ValueError(f"{path} is of {others} than those of this model: {name} is in one of them alone. {WAY_OUT}")
    for name, tensor in tensors.items():
        if found[name].shape != tensor.shape or found[name].dtype != tensor.dtype:
            raise damaged(path, f"{name} is a {found[name].dtype} of shape {list(found[name].shape)}")
        tensor.copy_(found[name])


def damaged(path: str | os.PathLike, reason: str) -> ValueError:
    return ValueError(f"{path} is damaged ({reason}). {WAY_OUT}")


def missing(path: str | os.PathLike, reason: str) -> FileNotFoundError:
    return FileNotFoundError(f"{path} is missing: {reason}. {WAY_OUT}")


def loading_call(folder: str | os.PathLike) -> str:
    """How to load the weights in a folder for a new run, as code; empty if there are none."""
    if os.path.isfile(os.path.join(folder, PEFT_CONFIG_NAME)):
        return f"hf_clear.load_adapter(base_model, {os.fspath(folder)!r}, is_trainable=True)"
    is_model = os.path.isfile(os.path.join(folder, CONFIG_NAME))
    return f"MODEL_CLASS.from_pretrained({os.fspath(folder)!r})" * is_model


def narrowed(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """As a file holds it: classes in the narrowest type that holds them all."""
    if name == "suggestion_confidence":
        return tensor.half()
    if name not in _CLASSES:
        return tensor
    low, high = (int(end) for end in tensor.aminmax()) if len(tensor) else (0, 0)
    return tensor.to(
        next(kind for kind in _LABEL_TYPES if torch.iinfo(kind).min <= low and high <= torch.iinfo(kind).max)
    )


def read_sample_tensors(
    path: str | os.PathLike, tensors: dict[str, torch.Tensor], num_samples: int
) -> dict[str, torch.Tensor]:
    """What [`SampleStore.sample_tensors`] wrote, in the types of a [`SampleStore`].

    Raises:
        ValueError: if losses, clean probabilities, labels and mean losses are not such, one a sample.
    """
    there_are = [*SAMPLE_TENSORS, *(name for name in OPTIONAL_TENSORS if name in tensors)]
    for name in there_are:
        tensor = tensors[name]
        kinds = _LABEL_TYPES if name in _CLASSES else (torch.bool,) if name in _FLAGS else FLOAT_TYPES
        if tensor.ndim != 1 or tensor.dtype not in kinds:
            raise damaged(path, f"{name} is a {tensor.dtype} of shape {list(tensor.shape)}")
        if len(tensor) != num_samples:
            raise ValueError(
                f"{path} holds the state of {len(tensor)} samples while the training set has {num_samples}: "
                f"resume with the training set that the run began with. {WAY_OUT}"
            )
    for name in (name for name in _CLASSES if name in there_are):
        labels = tensors[name]
        if not ((labels >= 0) | (labels == IGNORED_LABEL)).all():
            raise damaged(path, f"{name} holds {int(labels.min())}, which is no label")
    for name in (name for name in _PROBABILITIES if name in there_are):
        known = tensors[name] if name in SAMPLE_TENSORS else tensors[name].nan_to_num(0)
        if not are_probabilities(known):
            raise damaged(path, f"{name} holds what is no probability")
    return {
        name: tensors[name].long() if name in _CLASSES else tensors[name] if name in _FLAGS else tensors[name].float()
        for name in there_are
    }


def are_probabilities(tensor: torch.Tensor) -> bool:
    if tensor.numel() == 0:
        return True
    low, high = (float(end) for end in tensor.aminmax())  # NaN if one is
    return -_ROUNDING <= low and high <= 1 + _ROUNDING
