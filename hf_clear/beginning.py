"""A new beginning for a model that plain epochs have taught nothing."""

from __future__ import annotations

import logging
import os
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader

from ._trainer_types import OwnTrainer
from .files.states import read_tensors_into, write_tensors

# By this ending, files are known as those of a training: no part of a model, and nothing that a push uploads.
STATE_NAME = "clear_beginning_state.safetensors"
_FORMAT = "hf_clear.beginning.v1"
_WRITER = "ClearTrainer in the plain epochs before its first fit"

logger = logging.getLogger(__name__)


class Beginning:
    """The trained parameters of a model, as they are when this is made. Those that are trained later alone, as when
    layers are unfrozen one by one, are no part of it.

    Args:
        model (`nn.Module`): unwrapped.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._tensors = {name: own.detach().clone() for name, own in _trained(model).items()}

    @torch.no_grad()
    def restore(self) -> None:
        own = dict(self._model.named_parameters())
        for name, kept in self._tensors.items():
            own[name].copy_(kept)

    def save(self, path: str | os.PathLike) -> None:
        write_tensors(path, _FORMAT, self._tensors)

    def load(self, path: str | os.PathLike) -> None:
        """Goes on from what [`save`] wrote; raises what [`read_tensors_into`] does."""
        read_tensors_into(self._tensors, path, _FORMAT, _WRITER, "another adapter")


class NewBeginningMixin(OwnTrainer):
    """For a [`~transformers.Trainer`]: what is trained can be kept before plain epochs, and begun anew with if one of
    them teaches nothing. Until the first fit, it is a part of the checkpoints."""

    _beginning: Beginning | None = None

    def keep_beginning(self) -> None:
        """Keeps what is trained as it is now, unless training has begun: a resumed run brings it along. Shards, as of
        FSDP and DeepSpeed, are not kept."""
        has_begun = self._beginning is not None or self.state.global_step > 0
        if not (has_begun or self.is_fsdp_enabled or self.is_deepspeed_enabled):
            self._beginning = Beginning(self.accelerator.unwrap_model(self.model))

    def may_begin_anew(self, epoch: int) -> bool:
        """Whether something was kept, and an epoch (counted from 0) is at its beginning. In its middle, a resumed run
        goes on, and does what one does that nobody has stopped. After the first fit, nothing is kept any more."""
        if self._has_fit:
            self._beginning = None
        return self._beginning is not None and self.state.epoch == epoch

    def begin_anew(self) -> None:
        """Gives the model what was kept, and the optimizer an empty state. Its learning rate goes on."""
        cast(Beginning, self._beginning).restore()
        self._beginning = None
        optimizer: Any = self.optimizer
        getattr(optimizer, "optimizer", optimizer).state.clear()  # accelerate's stands around the one that has it
        if self.is_world_process_zero():
            logger.warning(
                "Plain epochs have taught the model nothing: its predictions say nothing about the labels. So it "
                "begins anew. Its PEFT modules are as before training. Its head, and the targets of the coming epoch, "
                "are by models that have not seen the labels, weak as they are. Look at the learning rate: one that is "
                "too high does this."
            )

    @property
    def _has_fit(self) -> bool:
        return self.sample_store is not None and self.sample_store.is_fitted

    # ---- Hooks ----

    def _prepare_for_training(self, max_steps: int, train_dataloader: DataLoader, resume_from_checkpoint: str | None):
        self._beginning = None  # of an earlier training
        return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self._beginning is not None and not self._has_fit and self.args.should_save:
            self._beginning.save(os.path.join(output_dir, STATE_NAME))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and os.path.isfile(path := os.path.join(checkpoint, STATE_NAME)):
            self._beginning = Beginning(self.accelerator.unwrap_model(self.model))
            self._beginning.load(path)


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: own for name, own in model.named_parameters() if own.requires_grad}
