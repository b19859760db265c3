"""Checkpoints that are either complete or not there."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from typing import Any

from torch import nn
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from .files import flush_folder

logger = logging.getLogger(__name__)

# Where a checkpoint is written to before it gets its name. `Trainer` uploads nothing that begins with "_".
INCOMPLETE = "_incomplete"
_TRAINER_STATE_NAME = "trainer_state.json"


class CompleteCheckpointsMixin:
    """For a [`~transformers.Trainer`] whose runs can be killed at any moment.

    `Trainer` writes the files of `checkpoint-N` one by one, and takes a folder that holds a part of them for the last
    checkpoint. Here they are written under `_incomplete/`, flushed to disk and renamed together, and only then are
    older ones deleted and a push to the Hub begins. A failure (a full disk) leaves the earlier checkpoints alone.
    """

    state: TrainerState
    _is_saving = False

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if not getattr(self, "is_routed", True):  # a strict pass-through
            return super()._save_checkpoint(model, trial)
        run_dir, name = self._get_output_dir(trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        staging, complete = os.path.join(run_dir, INCOMPLETE), os.path.join(run_dir, name)
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
        self.accelerator.wait_for_everyone()
        self._is_saving = True
        try:
            super()._save_checkpoint(model, trial)
            if self.state.best_global_step:
                best = os.path.join(run_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}")
                if best == complete or os.path.isdir(best):
                    self.state.best_model_checkpoint = best  # not its name until now, which `Trainer` has noted
            if self.args.should_save:
                self.state.save_to_json(os.path.join(staging, name, _TRAINER_STATE_NAME))
        except BaseException:
            logger.error(f"{complete} could not be written. The checkpoints before it are as they were.")
            if self.args.should_save:
                shutil.rmtree(staging, ignore_errors=True)
            raise
        finally:
            self._is_saving = False
        self.accelerator.wait_for_everyone()
        # Nodes without a common file system have a part each; with one, the first leaves nothing to do.
        with self.args.main_process_first(local=False):
            if self.is_local_process_zero():
                _complete(staging, name, complete)
        if self.args.push_to_hub:
            self._push_from_checkpoint(complete)
        if self.args.should_save:
            rotate_checkpoints(run_dir, self.args.save_total_limit, self.state.best_model_checkpoint, use_mtime=True)

    def _get_output_dir(self, trial: Any) -> str:
        run_dir = super()._get_output_dir(trial)
        return os.path.join(run_dir, INCOMPLETE) if self._is_saving else run_dir

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self._is_saving:
            super()._push_from_checkpoint(checkpoint_folder)


def _complete(staging: str, name: str, complete: str) -> None:
    """Renames `staging/name` to `complete`, and removes what was there."""
    written, earlier = os.path.join(staging, name), os.path.join(staging, "earlier")
    if os.path.isdir(written):
        flush_folder(written)
        if os.path.isdir(complete):  # of a run that went on from before this step
            os.rename(complete, earlier)
        with contextlib.suppress(FileNotFoundError):  # a network file system may show what another node has renamed
            os.rename(written, complete)
    shutil.rmtree(staging, ignore_errors=True)
