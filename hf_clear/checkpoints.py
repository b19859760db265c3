"""Checkpoints that are either complete or not there, and are as they were saved when a run goes on from one."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from torch import nn
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint, sort_checkpoints

from .checksums import seal_file
from .files import flush_folder
from .manifest import (
    TRAINER_STATE_NAME,
    check_files,
    holds_weights,
    is_checkpoint,
    is_checkpoint_name,
    read_on_resume,
    write_manifest,
)
from .run_lock import alone_in

logger = logging.getLogger(__name__)

# Where a checkpoint is written to before it gets its name. `Trainer` uploads nothing that begins with "_".
INCOMPLETE = "_incomplete"
_EARLIER = "earlier"  # in that folder, what a checkpoint takes the place of


def alone(phase: Callable) -> Callable:
    """For a method of a trainer that writes to its `output_dir`: [`~hf_clear.run_lock.alone_in`] around it. `trial` of
    a search for hyperparameters, with a folder of its own, is the method's second argument."""

    @functools.wraps(phase)
    def phase_alone(self: CompleteCheckpointsMixin, *args: Any, **kwargs: Any) -> Any:
        with self._alone(kwargs.get("trial", args[1] if len(args) > 1 else None)):
            return phase(self, *args, **kwargs)

    return phase_alone


class CompleteCheckpointsMixin:
    """For a [`~transformers.Trainer`] whose runs can be killed at any moment.

    `Trainer` writes the files of `checkpoint-N` one by one, and takes a folder that holds a part of them for the last
    checkpoint. Here they are written under `_incomplete/`, flushed to disk and renamed together, and only then are
    older ones deleted and a push to the Hub begins. A failure (a full disk) leaves the earlier checkpoints alone.

    A checkpoint notes the checksums of its files ([`~hf_clear.manifest.write_manifest`]). They are looked at before a
    run goes on from it: `Trainer` begins with a new optimizer, and says nothing, if `optimizer.pt` is gone.
    """

    state: TrainerState
    _is_saving = False
    _is_finalizing = False
    _is_alone = False
    _always_writes = False  # whether or not it saves checkpoints
    _checked: str | None = None  # the checkpoint that was looked at, in this training

    @alone
    def train(self, *args: Any, **kwargs: Any):
        if not self._is_stock:
            self._recover_checkpoints()
            resume = kwargs.get("resume_from_checkpoint", args[0] if args else None)
            if resume is True and os.path.isdir(self.args.output_dir):
                resume = get_last_checkpoint(self.args.output_dir)
            if isinstance(resume, (str, os.PathLike)):
                self._check_files(os.fspath(resume))
        return super().train(*args, **kwargs)

    @contextlib.contextmanager
    def _alone(self, trial: Any) -> Iterator[None]:
        if self._is_stock or self._is_alone:
            yield
            return
        writes = self._always_writes or self.args.save_strategy != "no"
        with alone_in(self._get_output_dir(trial), self.args, writes):
            self._is_alone = True
            try:
                yield
            finally:
                self._is_alone, self._checked = False, None

    def _recover_checkpoints(self) -> None:
        with self.args.main_process_first(local=False):
            if self.args.should_save and not self._is_stock:
                recover_checkpoints(self.args.output_dir)
                _remove(os.path.join(self.args.output_dir, INCOMPLETE))  # of a run that was killed

    # ---- What is read ----

    def _check_files(self, checkpoint: str) -> None:
        """Looks at all files that this run reads from a checkpoint: one process a node, and all hear of what is wrong.

        Raises:
            FileNotFoundError, ValueError: see [`~hf_clear.manifest.check_files`].
        """
        if checkpoint == self._checked or not is_checkpoint(Path(checkpoint)):
            return
        self._look(checkpoint, read_on_resume(self.args.world_size))
        if not any(path.name.startswith(("optimizer", "global_step")) for path in Path(checkpoint).iterdir()):
            logger.warning(
                f"{checkpoint} was saved without optimizer, scheduler and random states (`save_only_model=True`): "
                "training goes on with new ones, and won't end as the run that was stopped would have."
            )
        state = os.path.join(checkpoint, TRAINER_STATE_NAME)
        if self.args.load_best_model_at_end and os.path.isfile(state):  # before training, not after it
            best = TrainerState.load_from_json(state).best_model_checkpoint
            if best is not None and os.path.isdir(best) and not os.path.samefile(best, checkpoint):
                self._look(best, holds_weights)
        self._checked = checkpoint

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        if not self._is_stock and is_checkpoint(Path(best)):
            self._look(best, read_on_resume(self.args.world_size) if self.is_deepspeed_enabled else holds_weights)
        super()._load_best_model()

    def _look(self, checkpoint: str, is_needed: Callable[[str], bool]) -> None:
        error = None
        if self.is_local_process_zero():
            try:
                check_files(checkpoint, is_needed)
            except (OSError, ValueError) as caught:
                error = caught
        errors = gather_object([error]) if self.args.world_size > 1 else [error]
        for error in filter(None, errors):
            raise error

    # ---- What is written ----

    def _save(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        super()._save(output_dir, *args, **kwargs)
        model = self.accelerator.unwrap_model(self.model)
        if self._is_stock or not self.args.should_save or not hasattr(model, "peft_config"):
            return
        folder = Path(self.args.output_dir if output_dir is None else output_dir)
        for name in model.peft_config:
            path = folder / ("" if name == "default" else name) / SAFETENSORS_WEIGHTS_NAME
            if path.is_file():
                seal_file(path)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if self._is_stock:
            return super()._save_checkpoint(model, trial)
        run_dir, name = self._get_output_dir(trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        staging, complete = os.path.join(run_dir, INCOMPLETE), os.path.join(run_dir, name)
        if self.args.should_save:
            recover_checkpoints(run_dir)
            _remove(staging)
        self.accelerator.wait_for_everyone()
        self._is_saving = True
        try:
            super()._save_checkpoint(model, trial)
            if self.state.best_global_step:
                best = os.path.join(run_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}")
                if best == complete or os.path.isdir(best):
                    self.state.best_model_checkpoint = best  # not its name until now, which `Trainer` has noted
            if self.args.should_save:
                self.state.save_to_json(os.path.join(staging, name, TRAINER_STATE_NAME))
            self.accelerator.wait_for_everyone()
            # Nodes without a common file system have a part each. With one, the checkpoint is there by now as the first
            # node wrote it, whatever a slow network file system still shows under the old name: hands off.
            with self.args.main_process_first(local=False):
                is_there = os.path.isfile(os.path.join(complete, TRAINER_STATE_NAME))
                if self.args.should_save or (self.is_local_process_zero() and not is_there):
                    _complete(staging, name, complete)
        except BaseException:
            logger.error(f"{complete} could not be written. The checkpoints before it are as they were.")
            if self.args.should_save:
                recover_checkpoints(run_dir)
                _remove(staging)
            raise
        finally:
            self._is_saving = False
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
        checkpoints = _own_checkpoints(run_dir, use_mtime=True)
        kept = {*checkpoints[-1:], *(() if best is None else (os.path.normpath(best),))}
        surplus = max(len(checkpoints) - max(limit, len(kept)), 0)
        for checkpoint in [path for path in checkpoints if os.path.normpath(path) not in kept][:surplus]:
            _delete(checkpoint)

    def _finalize_training(self, trial: Any, *args: Any, **kwargs: Any):
        if self._is_stock:
            return super()._finalize_training(trial, *args, **kwargs)
        best, is_one = self.state.best_model_checkpoint, self.args.save_total_limit == 1
        if self.args.should_save and best is not None and is_one:
            for checkpoint in _own_checkpoints(self._get_output_dir(trial)):
                if not os.path.samefile(checkpoint, best):
                    _delete(checkpoint)
        self._is_finalizing = best is not None and is_one
        try:
            return super()._finalize_training(trial, *args, **kwargs)
        finally:
            self._is_finalizing = False

    @property
    def _is_stock(self) -> bool:
        """A trainer that routes nothing is a strict pass-through to its base."""
        return not getattr(self, "is_routed", True)

    def _get_output_dir(self, trial: Any) -> str:
        run_dir = super()._get_output_dir(trial)
        # `Trainer` asks where to write; at the end of training, where to delete what we have not: nothing there.
        return os.path.join(run_dir, INCOMPLETE) if self._is_saving or self._is_finalizing else run_dir

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self._is_saving:
            super()._push_from_checkpoint(checkpoint_folder)


def recover_checkpoints(run_dir: str) -> None:
    """Gives a checkpoint its name back that a run was about to replace when it was killed."""
    earlier = os.path.join(run_dir, INCOMPLETE, _EARLIER)
    for name in os.listdir(earlier) if os.path.isdir(earlier) else ():
        if is_checkpoint_name(name) and not os.path.exists(os.path.join(run_dir, name)):
            os.rename(os.path.join(earlier, name), os.path.join(run_dir, name))


def _own_checkpoints(run_dir: str, use_mtime: bool = False) -> list[str]:
    """Oldest first, and no others: for `Trainer`, a copy that a user called `checkpoint-7-backup` is one too."""

    def is_own(path: str) -> bool:
        return is_checkpoint_name(os.path.basename(path)) and os.path.isfile(os.path.join(path, TRAINER_STATE_NAME))

    return [path for path in sort_checkpoints(run_dir, use_mtime=use_mtime) if is_own(path)]


def _complete(staging: str, name: str, complete: str) -> None:
    """Renames `staging/name` to `complete`, and removes what was there."""
    written = os.path.join(staging, name)
    if os.path.isdir(written):
        write_manifest(written)
        flush_folder(written)
        if os.path.isdir(complete) and not os.path.isfile(os.path.join(complete, TRAINER_STATE_NAME)):
            names = (f"{complete}.earlier{'' if number == 1 else number}" for number in count(1))
            aside = next(path for path in names if not os.path.exists(path))
            os.rename(complete, aside)
            logger.warning(f"{complete} was there before, and is no checkpoint of a trainer: it is {aside} now.")
        elif os.path.isdir(complete):  # saved twice in a step, or by an earlier run
            os.makedirs(os.path.join(staging, _EARLIER), exist_ok=True)
            os.rename(complete, os.path.join(staging, _EARLIER, name))
        with contextlib.suppress(FileNotFoundError):  # a network file system may show what another node has renamed
            os.rename(written, complete)
    _remove(staging)


def _delete(checkpoint: str) -> None:
    """Not in place: a part of it would be taken for a checkpoint."""
    staging = os.path.join(os.path.dirname(checkpoint), INCOMPLETE)
    os.makedirs(staging, exist_ok=True)
    os.rename(checkpoint, os.path.join(staging, os.path.basename(checkpoint)))
    _remove(staging)


def _remove(staging: str) -> None:
    """Deletes the checkpoints in it, and itself if it holds nothing else: what is not ours stays."""
    for name in os.listdir(staging) if os.path.isdir(staging) else ():
        if name == _EARLIER or is_checkpoint_name(name):
            shutil.rmtree(os.path.join(staging, name), ignore_errors=True)
    with contextlib.suppress(OSError):
        os.rmdir(staging)
