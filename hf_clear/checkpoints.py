"""Checkpoints that are either complete or not there."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from typing import Any

from torch import nn
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints

from .files import flush_folder

logger = logging.getLogger(__name__)

# Where a checkpoint is written to before it gets its name. `Trainer` uploads nothing that begins with "_".
INCOMPLETE = "_incomplete"
_EARLIER = "earlier"  # in that folder, what a checkpoint takes the place of
_TRAINER_STATE_NAME = "trainer_state.json"


class CompleteCheckpointsMixin:
    """For a [`~transformers.Trainer`] whose runs can be killed at any moment.

    `Trainer` writes the files of `checkpoint-N` one by one, and takes a folder that holds a part of them for the last
    checkpoint. Here they are written under `_incomplete/`, flushed to disk and renamed together, and only then are
    older ones deleted and a push to the Hub begins. A failure (a full disk) leaves the earlier checkpoints alone.
    """

    state: TrainerState
    _is_saving = False

    def train(self, *args: Any, **kwargs: Any):
        self._recover_checkpoints()
        return super().train(*args, **kwargs)

    def _recover_checkpoints(self) -> None:
        with self.args.main_process_first(local=False):
            if self.args.should_save and not self._is_stock:
                recover_checkpoints(self.args.output_dir)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if self._is_stock:
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
        # Nodes without a common file system have a part each. With one, the checkpoint is there by now as the first
        # node wrote it, whatever a slow network file system still shows under the old name: hands off.
        with self.args.main_process_first(local=False):
            is_there = os.path.isfile(os.path.join(complete, _TRAINER_STATE_NAME))
            if self.args.should_save or (self.is_local_process_zero() and not is_there):
                _complete(staging, name, complete)
        self.accelerator.wait_for_everyone()  # or one would clear the folder that another deletes through
        if self.args.push_to_hub:
            self._push_from_checkpoint(complete)
        if self.args.should_save:
            self._rotate(run_dir)

    def _rotate(self, run_dir: str) -> None:
        """Deletes as many of the oldest checkpoints as `Trainer` would."""
        limit, best = self.args.save_total_limit, self.state.best_model_checkpoint
        if limit is None or limit <= 0:
            return
        checkpoints = sort_checkpoints(run_dir, use_mtime=True)
        kept = {*checkpoints[-1:], *(() if best is None else (os.path.normpath(best),))}
        surplus = max(len(checkpoints) - max(limit, len(kept)), 0)
        for checkpoint in [path for path in checkpoints if os.path.normpath(path) not in kept][:surplus]:
            _delete(checkpoint)

    def _finalize_training(self, trial: Any, *args: Any, **kwargs: Any):
        best, is_one = self.state.best_model_checkpoint, self.args.save_total_limit == 1
        if not self._is_stock and self.args.should_save and best is not None and is_one:
            for checkpoint in sort_checkpoints(self._get_output_dir(trial)):
                if not os.path.samefile(checkpoint, best):  # which `Trainer` would delete file by file
                    _delete(checkpoint)
        return super()._finalize_training(trial, *args, **kwargs)

    @property
    def _is_stock(self) -> bool:
        """A trainer that routes nothing is a strict pass-through to its base."""
        return not getattr(self, "is_routed", True)

    def _get_output_dir(self, trial: Any) -> str:
        run_dir = super()._get_output_dir(trial)
        return os.path.join(run_dir, INCOMPLETE) if self._is_saving else run_dir

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self._is_saving:
            super()._push_from_checkpoint(checkpoint_folder)


def recover_checkpoints(run_dir: str) -> None:
    """Gives a checkpoint its name back that a run was about to replace when it was killed."""
    earlier = os.path.join(run_dir, INCOMPLETE, _EARLIER)
    for name in os.listdir(earlier) if os.path.isdir(earlier) else ():
        if not os.path.exists(os.path.join(run_dir, name)):
            os.rename(os.path.join(earlier, name), os.path.join(run_dir, name))


def _complete(staging: str, name: str, complete: str) -> None:
    """Renames `staging/name` to `complete`, and removes what was there."""
    written = os.path.join(staging, name)
    if os.path.isdir(written):
        flush_folder(written)
        if os.path.isdir(complete):  # saved twice in a step, or by an earlier run
            os.makedirs(os.path.join(staging, _EARLIER), exist_ok=True)
            os.rename(complete, os.path.join(staging, _EARLIER, name))
        with contextlib.suppress(FileNotFoundError):  # a network file system may show what another node has renamed
            os.rename(written, complete)
    shutil.rmtree(staging, ignore_errors=True)


def _delete(checkpoint: str) -> None:
    """Not in place: a part of it would be taken for a checkpoint."""
    staging = os.path.join(os.path.dirname(checkpoint), INCOMPLETE)
    os.makedirs(staging, exist_ok=True)
    os.rename(checkpoint, os.path.join(staging, os.path.basename(checkpoint)))
    shutil.rmtree(staging, ignore_errors=True)
