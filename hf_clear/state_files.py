"""Files with a run's state: how they are read, and what is said of those that can't be."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from .checksums import is_intact
from .strict_json import parse_json

WAY_OUT = "Resume from another checkpoint, or start again without `resume_from_checkpoint`."


def read_state(
    path: str | os.PathLike,
    format: str,
    writer: str,
    required: Iterable[str] = (),
    device: torch.device | str = "cpu",
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and the plain state of a file that `writer` wrote.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where the file is damaged, or of another format.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path} is missing, so the clean probabilities of the run can't be restored: the checkpoint was not "
            f"written by {writer}, or with `save_only_model=True`. {WAY_OUT}"
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


def damaged(path: str | os.PathLike, reason: str) -> ValueError:
    return ValueError(f"{path} is damaged ({reason}). {WAY_OUT}")


def missing(path: str | os.PathLike, reason: str) -> FileNotFoundError:
    return FileNotFoundError(f"{path} is missing: {reason}. {WAY_OUT}")
