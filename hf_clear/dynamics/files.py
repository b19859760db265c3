"""Training dynamics on disk: one safetensors file an epoch, with what the model said of every training sample."""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save as serialize

from ..files import write_atomically
from ..files.checksums import sealed
from ..files.states import read_state

_FORMAT = "hf_clear.training_dynamics.v1"
_NAME = re.compile(r"epoch_(\d+)\.safetensors")
_WRITER = "TrainingDynamicsCallback"
_TENSORS = ("losses", "labels", "log_probabilities")


@dataclass
class EpochDynamics:
    """What the model said after one epoch.

    Attributes:
        losses (`torch.Tensor` of shape `[num_samples]`): cross entropy with the given label, in nats; NaN for a sample
            that the collator never returned.
        labels (`torch.Tensor` of shape `[num_samples]`): the given classes; -100 for such a sample.
        log_probabilities (`torch.Tensor` of shape `[num_samples, num_labels]`): logarithms of the softmax, in float16.
    """

    losses: torch.Tensor
    labels: torch.Tensor
    log_probabilities: torch.Tensor


def epoch_path(folder: str | os.PathLike, epoch: int) -> Path:
    """The file of an epoch, counted from 1."""
    return Path(folder) / f"epoch_{epoch}.safetensors"


def write_epoch(folder: str | os.PathLike, epoch: int, run: str, dynamics: EpochDynamics) -> None:
    """Writes the file of an epoch, whole or not at all.

    Args:
        run (`str`): what the epochs of one training have in common: those of another are not read with them.

    Raises:
        FileExistsError: if there is a file of this name that is no such file.
    """
    path = epoch_path(folder, epoch)
    check_epoch(path)
    tensors = {
        "losses": dynamics.losses.float(),
        "labels": dynamics.labels.int(),
        "log_probabilities": dynamics.log_probabilities.half(),
    }
    metadata = {"format": _FORMAT, "state": json.dumps({"epoch": epoch, "run": run})}
    content = serialize({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)
    write_atomically(path, *sealed(content))
    for later in (number for number in epochs_in(folder) if number > epoch):
        # Of the same training, before it was resumed from an earlier epoch; what can't be read is somebody else's.
        with contextlib.suppress(OSError, ValueError):
            if read_epoch(epoch_path(folder, later))[1] == run:
                epoch_path(folder, later).unlink()


def check_epoch(path: Path) -> None:
    """Makes sure that nothing would be lost if an epoch is written to this path.

    Raises:
        FileExistsError: if there is a file that no callback has written.
    """
    if not os.path.lexists(path):
        return
    try:
        read_epoch(path)
    except (OSError, ValueError) as error:
        raise FileExistsError(
            f"{path} is in the way: it holds no training dynamics ({error}) Move it away, or name another folder."
        ) from error


def read_epoch(path: Path) -> tuple[EpochDynamics, str]:
    """What [`write_epoch`] wrote, and the run that it is of.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or of another format.
    """
    tensors, state = read_state(path, _FORMAT, _WRITER, _TENSORS)
    return EpochDynamics(**{name: tensors[name] for name in _TENSORS}), str(state.get("run"))


def epochs_in(folder: str | os.PathLike) -> list[int]:
    """The epochs that have a file, in order."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(int(match[1]) for match in map(_NAME.fullmatch, names) if match)
