"""Checkpoints that are either complete or not there, and are as they were saved when a run goes on from one."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

from accelerate.utils import gather_object
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from torch import nn
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint

from .._typing import AnyTrainer
from ..files.checksums import seal_file
from .folders import (
    INCOMPLETE,
    complete_checkpoint,
    delete_checkpoint,
    own_checkpoints,
    recover_checkpoints,
    remove_staging,
)
from .manifest import check_files, check_resumed, holds_weights, read_on_resume
from .run_lock import alone_in

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


def holds_weights_alone(checkpoint: str | os.PathLike) -> bool:
    """Whether a checkpoint was saved with `save_only_model=True`."""
    names = os.listdir(checkpoint) if os.path.isdir(checkpoint) else []
    return TRAINER_STATE_NAME in names and not any(name.startswith(("optimizer", "global_step")) for name in names)


def alone(phase: Callable[..., Result]) -> Callable[..., Result]:
    """For a method of a trainer that writes to its `output_dir`: [`alone_in`] around it. `trial` of a search for
    hyperparameters, with a folder of its own, is the method's second argument."""

    @functools.wraps(phase)
    def phase_alone(self: CompleteCheckpointsMixin, *args: Any, **kwargs: Any) -> Result:
        with self._alone(kwargs.get("trial", args[1] if len(args) > 1 else None)):
            return phase(self, *args, **kwargs)

    return phase_alone


class CompleteCheckpointsMixin(AnyTrainer):
    """For a [`~transformers.Trainer`] whose runs can be killed at any moment.

    `Trainer` writes the files of `checkpoint-N` one by one, and takes a folder that holds a part of them for the last
    checkpoint. Here they are written under `_incomplete/`, flushed to disk and renamed together, and only then are
    older ones deleted and a push to the Hub begins. A failure (a full disk) leaves the earlier checkpoints alone.

    A checkpoint notes the checksums of its files ([`~hf_clear.checkpoints.manifest.write_manifest`]). They are looked
    at before a run goes on from it: `Trainer` begins with a new optimizer, and says nothing, if `optimizer.pt` is gone.
    """

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
                remove_staging(os.path.join(self.args.output_dir, INCOMPLETE))  # of a run that was killed

    # ---- What is read ----

    def _check_files(self, checkpoint: str) -> None:
        """Looks at all files that this run reads from a checkpoint; also at the best one, if that is to be loaded in
        the end: before training, not after it.

        Raises:
            FileNotFoundError, ValueError: see [`~hf_clear.checkpoints.manifest.check_files`].
        """
        if checkpoint != self._checked:
            self._on_each_node(
                lambda: check_resumed(checkpoint, self.args.world_size, self.args.load_best_model_at_end)
            )
            self._checked = checkpoint

    def _load_best_model(self) -> None:
        best = cast(str, self.state.best_model_checkpoint)  # `Trainer` has looked whether there is one
        if not self._is_stock:
            is_needed = read_on_resume(self.args.world_size) if self.is_deepspeed_enabled else holds_weights
            self._on_each_node(lambda: check_files(best, is_needed))
        super()._load_best_model()

    def _on_each_node(self, check: Callable[[], object]) -> None:
        """Runs it on one process a node; all processes raise what one of them does."""
        error = None
        if self.is_local_process_zero():
            try:
                check()
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
            remove_staging(staging)
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
                    complete_checkpoint(staging, name, complete)
        except BaseException:
            logger.error(f"{complete} could not be written. The checkpoints before it are as they were.")
            if self.args.should_save:
                recover_checkpoints(run_dir)
                remove_staging(staging)
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
        checkpoints = own_checkpoints(run_dir, use_mtime=True)
        kept = {*checkpoints[-1:], *(() if best is None else (os.path.normpath(best),))}
        surplus = max(len(checkpoints) - max(limit, len(kept)), 0)
        for checkpoint in [path for path in checkpoints if os.path.normpath(path) not in kept][:surplus]:
            delete_checkpoint(checkpoint)

    def _finalize_training(self, trial: Any, *args: Any, **kwargs: Any):
        if self._is_stock:
            return super()._finalize_training(trial, *args, **kwargs)
        best, is_one = self.state.best_model_checkpoint, self.args.save_total_limit == 1
        if self.args.should_save and best is not None and is_one:
            for checkpoint in own_checkpoints(self._get_output_dir(trial)):
                if not os.path.samefile(checkpoint, best):
                    delete_checkpoint(checkpoint)
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
