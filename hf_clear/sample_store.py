"""What CleaR knows about each training sample: a table keyed by sample index, on the training device."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize

from ._names import IGNORED_LABEL
from .class_tables import merge_rows
from .files import write_atomically

STATE_NAME = "clear_state.safetensors"
_FORMAT = "hf_clear.sample_store.v3"
_PAST_WEIGHT = 0.9  # of the exponential mean of losses (official CleaR code, adapter solver)
FULL_PRECISION = 2**28  # numbers in a table of samples by classes: up to 1 GiB of them are in float32, more in float16
_ROWS = 1024  # of a table that are worked on at a time
_WAY_OUT = "Resume from another checkpoint, or start again without `resume_from_checkpoint`."
SAMPLE_TENSORS = ("losses", "clean_probability", "labels", "mean_losses")
_LABEL_TYPES = (torch.int16, torch.int32, torch.int64)  # in a file, narrowest first
_ROUNDING = 1e-3  # of probabilities


@dataclass
class SampleStore:
    """The state of every training sample.

    Attributes:
        losses (`torch.Tensor` of shape `[num_samples]`): loss at the last refit, in nats; NaN before the first.
        clean_probability (`torch.FloatTensor` of shape `[num_samples]`): 1 before the first refit.
        labels (`torch.LongTensor` of shape `[num_samples]`): the given labels; -100 before the first refit, and where
            every token has its own.
        mean_losses (`torch.Tensor` of shape `[num_samples]`): exponential mean of the losses over the refits, with
            weight 0.9 on the past, in nats; NaN before the first.
        targets (`torch.Tensor` of shape `[num_samples, num_labels]`, *optional*): ensemble targets of the sources
            `"epoch"` and `"online"`; a row of zeros where there is none. In float32, or float16 if there are more than
            `FULL_PRECISION` numbers.
        fitted_epoch (`int`): the epoch (from 0) at whose beginning the mixture was fitted last; -1 before the first.
    """

    losses: torch.Tensor
    clean_probability: torch.Tensor
    labels: torch.Tensor
    mean_losses: torch.Tensor
    targets: torch.Tensor | None = None
    fitted_epoch: int = -1
    _is_new: torch.Tensor | None = field(default=None, repr=False)  # what this process added since the last `merge`

    @classmethod
    def empty(cls, num_samples: int, device: torch.device | str = "cpu") -> SampleStore:
        return cls(
            losses=torch.full((num_samples,), float("nan"), device=device),
            clean_probability=torch.ones(num_samples, device=device),
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

    def add_predictions(
        self, index: torch.Tensor, probabilities: torch.Tensor, labels: torch.Tensor, window: int
    ) -> None:
        """Takes a batch's predictions into the running mean `targets` (temporal ensembling, Laine and Aila, 2017): with
        weight `1 / window`, or 1 where a sample is new.

        Args:
            index (`torch.LongTensor` of shape `[batch]`): which samples.
            probabilities (`torch.Tensor` of shape `[batch, num_labels]`): where a row is not finite, the sample's mean
                starts anew.
            labels (`torch.LongTensor` of shape `[batch]`): the given labels.
            window (`int`): of how many predictions the mean is, roughly.
        """
        if self.targets is None:
            shape = (len(self.losses), probabilities.shape[1])
            self.targets = probabilities.new_zeros(shape, dtype=table_type(*shape))
        if self._is_new is None:
            self._is_new = torch.zeros_like(self.labels, dtype=torch.bool)
        past = self.targets[index].to(probabilities.dtype)
        is_first = past.sum(dim=1, keepdim=True) == 0
        mean = torch.where(is_first, probabilities, past + (probabilities - past) / window)
        self.targets[index] = finite_rows(mean).to(self.targets.dtype)
        self.labels[index], self._is_new[index] = labels, True

    def begin_predictions(self, index: torch.Tensor, probabilities: torch.Tensor, labels: torch.Tensor) -> None:
        """Lets the running mean of some samples begin.

        Args:
            index (`torch.LongTensor` of shape `[rows]`): which samples.
            probabilities (`torch.Tensor` of shape `[num_samples, num_labels]`), labels (`torch.LongTensor` of shape
                `[num_samples]`): of all samples, on the CPU.
        """
        for part in index.split(_ROWS):  # no copy of the whole table
            rows = part.cpu()
            given = probabilities[rows].float().to(part.device), labels[rows].to(part.device)
            self.add_predictions(part, *given, window=1)

    def merge(self, accelerator: Accelerator) -> None:
        """Gives every process what the others added; a sample that several of them saw gets their mean. To be called by
        all processes: one that added nothing gets what the others did."""
        if accelerator.num_processes == 1:
            return
        own = 0 if self._is_new is None else self.targets.shape[1]
        num_labels = int(accelerator.gather(torch.tensor([own], device=accelerator.device)).max())
        if num_labels == 0:
            return
        if self.targets is None:
            shape = (len(self.losses), num_labels)
            self.targets = torch.zeros(shape, dtype=table_type(*shape), device=self.losses.device)
        if self._is_new is None:
            self._is_new = torch.zeros_like(self.labels, dtype=torch.bool)
        merge_rows(accelerator, self._is_new, self.labels, self.targets)
        self._is_new = None

    def sample_tensors(self) -> dict[str, torch.Tensor]:
        """What a file holds of the samples, targets aside. Labels are in the narrowest type that holds them all: that
        makes 14 bytes a sample with up to 32,768 classes, 16 with more. [`read_sample_tensors`] is the way back."""
        tensors = {name: getattr(self, name) for name in SAMPLE_TENSORS}
        low, high = (int(end) for end in self.labels.aminmax()) if len(self.labels) else (0, 0)
        narrowest = next(
            kind for kind in _LABEL_TYPES if torch.iinfo(kind).min <= low and high <= torch.iinfo(kind).max
        )
        return tensors | {"labels": self.labels.to(narrowest)}

    def save(self, path: str | os.PathLike) -> None:
        """Writes the state as safetensors, atomically."""
        tensors = self.sample_tensors() | ({} if self.targets is None else {"targets": self.targets})
        metadata = {"format": _FORMAT, "state": json.dumps({"fitted_epoch": self.fitted_epoch})}
        write_atomically(path, serialize({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        num_samples: int,
        device: torch.device | str = "cpu",
        num_labels: int | None = None,
    ) -> SampleStore:
        """Reads what [`~SampleStore.save`] wrote.

        Args:
            num_labels (`int`, *optional*): classes of the model, that the targets have to be for.

        Raises:
            FileNotFoundError: where there is no such file.
            ValueError: where the file is damaged, is not a state of CleaR, or belongs to another training set or model.
        """
        tensors, state = read_state(path, _FORMAT, "ClearTrainer with routing on", SAMPLE_TENSORS, device)
        of_samples = read_sample_tensors(path, tensors, num_samples)
        targets = tensors.get("targets")
        if targets is not None:
            if targets.ndim != 2 or len(targets) != num_samples or not targets.is_floating_point():
                raise damaged(path, f"targets is a {targets.dtype} of shape {list(targets.shape)}")
            if num_labels is not None and targets.shape[1] != num_labels:
                raise ValueError(
                    f"{path} holds targets for {targets.shape[1]} classes while the model has {num_labels}: resume "
                    f"with the model that the run began with. {_WAY_OUT}"
                )
            if not _are_probabilities(targets):
                raise damaged(path, "targets holds what is no probability")
        epoch = state.get("fitted_epoch")
        if type(epoch) is not int or epoch < -1:
            raise damaged(path, f"fitted_epoch is {epoch!r}, which is no epoch")
        return cls(**of_samples, targets=targets, fitted_epoch=epoch)


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
            f"written by {writer}, or with `save_only_model=True`. {_WAY_OUT}"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).to(device) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise damaged(path, str(error)) from error
    if metadata.get("format") != format or not set(required) <= tensors.keys():
        raise ValueError(f"{path} is not a state of {writer} (format {format}). {_WAY_OUT}")
    try:
        state = json.loads(metadata.get("state", ""))
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"its metadata are no valid JSON: {error}") from error
    if not isinstance(state, dict):
        raise damaged(path, f"its metadata are a {type(state).__name__}")
    return tensors, state


def read_sample_tensors(
    path: str | os.PathLike, tensors: dict[str, torch.Tensor], num_samples: int
) -> dict[str, torch.Tensor]:
    """What [`SampleStore.sample_tensors`] wrote, in the types of a [`SampleStore`].

    Raises:
        ValueError: where losses, clean probabilities, labels and mean losses are not such, one a sample.
    """
    for name in SAMPLE_TENSORS:
        tensor = tensors[name]
        is_of_kind = tensor.dtype in _LABEL_TYPES if name == "labels" else tensor.is_floating_point()
        if tensor.ndim != 1 or not is_of_kind:
            raise damaged(path, f"{name} is a {tensor.dtype} of shape {list(tensor.shape)}")
        if len(tensor) != num_samples:
            raise ValueError(
                f"{path} holds the state of {len(tensor)} samples while the training set has {num_samples}: "
                f"resume with the training set that the run began with. {_WAY_OUT}"
            )
    if not _are_probabilities(tensors["clean_probability"]):
        raise damaged(path, "clean_probability holds what is no probability")
    return {name: tensors[name].long() if name == "labels" else tensors[name].float() for name in SAMPLE_TENSORS}


def _are_probabilities(tensor: torch.Tensor) -> bool:
    if tensor.numel() == 0:
        return True
    low, high = (float(end) for end in tensor.aminmax())  # NaN if one is
    return -_ROUNDING <= low and high <= 1 + _ROUNDING


def damaged(path: str | os.PathLike, reason: str) -> ValueError:
    return ValueError(f"{path} is damaged ({reason}). {_WAY_OUT}")


def table_type(num_samples: int, num_labels: int) -> torch.dtype:
    """Of probabilities of classes for all samples: half the memory if there are very many."""
    return torch.float32 if num_samples * num_labels <= FULL_PRECISION else torch.float16


def finite_rows(probabilities: torch.Tensor) -> torch.Tensor:
    """Zeros in place of a row (over the last dimension) with anything that is not finite: no target for
    [`~hf_clear.consistency_loss`]."""
    return probabilities.where(probabilities.isfinite().all(dim=-1, keepdim=True), torch.zeros_like(probabilities))
