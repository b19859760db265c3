"""What CleaR knows about each training sample: a table keyed by sample index, on the training device."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize

from .files import write_atomically
from .losses import IGNORED_LABEL

STATE_NAME = "clear_state.safetensors"
_FORMAT = "hf_clear.sample_store.v2"
_PAST_WEIGHT = 0.9  # of the exponential mean of losses (official CleaR code, adapter solver)
_WAY_OUT = "Resume from another checkpoint, or start again without `resume_from_checkpoint`."
_TENSORS = ("losses", "clean_probability", "labels", "mean_losses")


@dataclass
class SampleStore:
    """The state of every training sample.

    Attributes:
        losses (`torch.Tensor` of shape `[num_samples]`): loss at the last refit, in nats; NaN before the first.
        clean_probability (`torch.DoubleTensor` of shape `[num_samples]`): 1 before the first refit. In double
            precision, so that the tiny ones among the suspect samples keep their order.
        labels (`torch.LongTensor` of shape `[num_samples]`): the given labels; -100 before the first refit, and where
            every token has its own.
        mean_losses (`torch.Tensor` of shape `[num_samples]`): exponential mean of the losses over the refits, with
            weight 0.9 on the past, in nats; NaN before the first.
        targets (`torch.Tensor` of shape `[num_samples, num_labels]`, *optional*): ensemble targets of the source
            `"epoch"`; a row of zeros where there is none.
        fitted_epoch (`int`): the epoch (from 0) at whose beginning the mixture was fitted last; -1 before the first.
    """

    losses: torch.Tensor
    clean_probability: torch.Tensor
    labels: torch.Tensor
    mean_losses: torch.Tensor
    targets: torch.Tensor | None = None
    fitted_epoch: int = -1

    @classmethod
    def empty(cls, num_samples: int, device: torch.device | str = "cpu") -> SampleStore:
        return cls(
            losses=torch.full((num_samples,), float("nan"), device=device),
            clean_probability=torch.ones(num_samples, dtype=torch.float64, device=device),
            labels=torch.full((num_samples,), IGNORED_LABEL, device=device),
            mean_losses=torch.full((num_samples,), float("nan"), device=device),
        )

    @property
    def is_fitted(self) -> bool:
        return self.fitted_epoch >= 0

    def add_losses(self, losses: torch.Tensor, labels: torch.Tensor) -> None:
        """Takes in what a refit's pass found; both `[num_samples]`. A mean starts with the first finite loss."""
        self.losses.copy_(losses)
        self.labels.copy_(labels)
        mean = _PAST_WEIGHT * self.mean_losses + (1 - _PAST_WEIGHT) * self.losses
        self.mean_losses.copy_(torch.where(self.mean_losses.isfinite(), mean, self.losses))

    def save(self, path: str | os.PathLike) -> None:
        """Writes the state as safetensors, atomically."""
        tensors = {name: getattr(self, name) for name in (*_TENSORS, "targets")}
        metadata = {"format": _FORMAT, "state": json.dumps({"fitted_epoch": self.fitted_epoch})}
        write_atomically(
            path, serialize({name: t.contiguous() for name, t in tensors.items() if t is not None}, metadata)
        )

    @classmethod
    def load(cls, path: str | os.PathLike, num_samples: int, device: torch.device | str = "cpu") -> SampleStore:
        """Reads what [`~SampleStore.save`] wrote.

        Raises:
            FileNotFoundError: where there is no such file.
            ValueError: where the file is damaged, is not a state of CleaR, or belongs to another training set.
        """
        tensors, metadata = read_state(path, _FORMAT, "ClearTrainer with routing on", _TENSORS, device)
        if any(tensor.shape[0] != num_samples for tensor in tensors.values()):
            raise ValueError(
                f"{path} holds the state of {tensors['losses'].shape[0]} samples while the training set has "
                f"{num_samples}: resume with the training set that the run began with. {_WAY_OUT}"
            )
        return cls(**tensors, **json.loads(metadata["state"]))


def read_state(
    path: str | os.PathLike,
    format: str,
    writer: str,
    required: Iterable[str] = (),
    device: torch.device | str = "cpu",
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors and the metadata of a state file that `writer` wrote.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where the file is damaged, or of another format.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path} is missing, so the clean probabilities of the run can't be restored: the checkpoint was not "
            f"written by {writer}, or with `save_only_model=True`. {_WAY_OUT}"
        )
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}). {_WAY_OUT}") from error
    if metadata.get("format") != format or not set(required) <= tensors.keys():
        raise ValueError(f"{path} is not a state of {writer} (format {format}). {_WAY_OUT}")
    return tensors, metadata
