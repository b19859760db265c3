"""What each phase of TURN leaves behind, and how a run goes on from it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import nn
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint

from ..base_trainer import BaseTrainerMixin
from ..files.states import damaged
from ..identity.training import FINE_TUNING_SETTINGS, SELECTION_SETTINGS, Identity, settings_of
from ..probing import Probe, find_head, set_head
from ..sample_store import SampleStore
from .probe_phase import ProbePhase
from .state import STATE_NAME, TurnState
from .training_args import TurnArguments


class ResumablePhasesMixin(BaseTrainerMixin):
    """What the phases of [`TurnMixin`] find: kept, logged, and saved after each, and after each epoch of the first.

    Attributes:
        fine_tuning_samples (`np.ndarray`, *optional*): the rows of the training set to fine-tune on; after cleansing.
        phase_metrics (`dict[str, float]`): of the phases so far, with the phase as prefix.
    """

    sample_store: SampleStore | None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._default_args = TurnArguments()
        self._reset()

    def method_settings(self) -> dict[str, Any]:
        return {setting.name: getattr(self.turn_args, setting.name) for setting in fields(TurnArguments)}

    @property
    def turn_args(self) -> TurnArguments:
        """TURN's arguments: `args` itself, or the defaults if `args` is a plain `TrainingArguments`."""
        return self.args if isinstance(self.args, TurnArguments) else self._default_args

    @property
    def probe(self) -> Probe | None:
        """The linear probe, once its training has begun."""
        return self._probing.probe

    def _reset(self) -> None:
        self._probing = ProbePhase()
        self.sample_store = None
        self.fine_tuning_samples: np.ndarray | None = None
        self.phase_metrics: dict[str, float] = {}
        self._logs: list[dict[str, float]] = []
        self._is_restored = False  # as a file has it, and nothing was done since
        self._identified: Any = None  # the training set of `_identity`
        self._identity: Identity | None = None  # of the data and the model that the first phase began with

    def _finish_phase(self, phase: str, metrics: dict[str, float]) -> None:
        earlier = {name: value for name, value in self.phase_metrics.items() if not name.startswith(f"{phase}_")}
        self.phase_metrics = earlier | metrics
        self._log_phase(metrics)
        self._save_state()

    def _log_phase(self, metrics: dict[str, float]) -> None:
        self._logs.append({**metrics, "step": 0})
        self.log(dict(metrics))

    def _prepare_for_training(self, *args: Any, **kwargs: Any):
        if self.state.global_step == 0:  # a new state, without what was logged before fine-tuning
            self.state.log_history = [*self._logs, *self.state.log_history]
        return super()._prepare_for_training(*args, **kwargs)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        self._save_state(output_dir)

    def _folder_to_resume(self, resume_from_checkpoint: str | bool | None) -> Path | None:
        if resume_from_checkpoint:
            self._recover_checkpoints()
        folder = folder_to_resume(self.args.output_dir, resume_from_checkpoint)
        if folder is not None:
            self._check_files(str(folder))
        return folder

    def _save_state(self, folder: str | None = None) -> None:
        if not self.args.should_save:
            return
        identity = cast(Identity, self._identity)  # every phase begins with one
        identity.settings = settings_of(self, self.method_settings())  # that were in force in the last phase
        state = TurnState(
            identity=identity.as_json(),
            probe_epochs=self._probing.epochs,
            probe={} if self.probe is None else self.probe.state_dict(),
            head_shape=() if self.probe is None else self.probe.head_shape,
            optimizer=self._probing.optimizer,
            sample_store=self.sample_store,
            fine_tuning_samples=self.fine_tuning_samples,
            metrics=self.phase_metrics,
            logs=self._logs,
        )
        state.save(Path(self.args.output_dir if folder is None else folder) / STATE_NAME)

    def _restore(self, folder: Path) -> None:
        """Reads what [`_save_state`] wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is damaged, no state of TURN, or of a run with other data, settings or weights.
        """
        path = state_file(folder)
        state = TurnState.load(path)
        identity, labels = self._new_identity(), None if state.sample_store is None else state.sample_store.labels
        if is_checkpoint(folder):  # with all weights that were trained
            changed = identity.check(folder, state.identity, labels)
        else:
            can_change = (*SELECTION_SETTINGS, *FINE_TUNING_SETTINGS)
            changed = identity.check(folder, state.identity, labels, can_change, weights=("frozen", "trained"))
        identity.weights["trained"] = state.identity["weights"]["trained"]
        self._reset()
        self._is_restored, self._identity = True, identity
        self.phase_metrics, self._logs = state.metrics, state.logs
        mean_size = state.probe["mean.weight"].shape[1] if "mean.weight" in state.probe else None
        try:
            probe = Probe(self._head(), state.head_shape, mean_size)
            probe.load_state_dict(state.probe)
        except RuntimeError as error:
            raise damaged(path, f"its probe doesn't fit the model's head: {error}") from error
        self._probing = ProbePhase(probe, state.probe_epochs, state.optimizer)
        self.sample_store = state.sample_store
        if self.sample_store is not None:
            set_head(self, self.turn_args.probe_head, probe)
        if not set(changed) & set(SELECTION_SETTINGS):
            self.fine_tuning_samples = state.fine_tuning_samples

    def _new_identity(self) -> Identity:
        self._identified = self.train_dataset
        return Identity.of(self, self.method_settings(), but=self._head())

    def _head(self) -> nn.Module:
        return find_head(self.accelerator.unwrap_model(self.model), self.turn_args.probe_head)


def folder_to_resume(output_dir: str, resume_from_checkpoint: str | bool | None) -> Path | None:
    """The folder that a run goes on from: the one that is named or, for `True`, the last checkpoint in `output_dir` or,
    if fine-tuning has saved none yet, `output_dir` itself. None for a run that begins.

    Raises:
        FileNotFoundError: if the named one is no folder.
        ValueError: if there is nothing in `output_dir` to go on from.
    """
    if not resume_from_checkpoint:
        return None
    if resume_from_checkpoint is not True:
        folder = Path(resume_from_checkpoint)
        if not folder.is_dir():
            what = "is a file: name the folder that it is in" if folder.exists() else "does not exist"
            raise FileNotFoundError(f"There is nothing to resume from: {folder} {what}.")
        return folder
    folder = Path(output_dir)
    last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if last is None and not (folder / STATE_NAME).is_file():
        raise ValueError(f"No checkpoint and no {STATE_NAME} in the output directory ({folder}) to resume from.")
    return folder if last is None else Path(last)


def state_file(folder: Path) -> Path:
    """The state that a run goes on with from `folder`. For a checkpoint without one, as `save_only_model` leaves it,
    that beside it."""
    path, beside = folder / STATE_NAME, folder.parent / STATE_NAME
    return beside if is_checkpoint(folder) and not path.is_file() and beside.is_file() else path


def is_checkpoint(folder: Path) -> bool:
    """Whether fine-tuning saved it. `output_dir` may hold the state of a trainer (`save_state`), but no optimizer."""
    is_named_so = folder.name.startswith(f"{PREFIX_CHECKPOINT_DIR}-")
    return (folder / TRAINER_STATE_NAME).is_file() and (is_named_so or any(folder.glob("optimizer*")))
