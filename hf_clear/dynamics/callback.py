"""A callback for any `Trainer` of transformers that keeps what the model says of every training sample."""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import datasets
import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .._scores import shifts_labels
from .._typing import AnyTrainer
from ..estimators.noise_model import log_probabilities
from ..passes import predict_samples, sample_dataloader
from ..report.issue_table import with_columns
from ..report.shown_columns import class_names, shown_columns
from ..sample_index import label_names
from .files import EpochDynamics, epoch_path, read_epoch, write_epoch
from .records import TrainingDynamics

FOLDER = "training_dynamics"


class TrainingDynamicsCallback(TrainerCallback):
    """Keeps loss and prediction of every training sample after every epoch, and finds suspect labels in them.

    For a stock [`~transformers.Trainer`]: any model with one class a sample, full fine-tuning or PEFT. Training is not
    changed: one pass over the training set an epoch, in evaluation mode, with the state of all random generators left
    as it was. A file an epoch is written, of `num_samples * num_labels` numbers in half precision; a resumed training
    goes on with those of the epochs before.

    Args:
        trainer (`Trainer`): the trainer whose training set and model are looked at.
        folder (`str`, *optional*): for the files; `training_dynamics` in `output_dir` by default.

    Raises:
        ValueError: at the end of the first epoch, if every token has a label; if the labels are others than those of
            the training that is resumed.
        FileExistsError: if a file is in the way.

    Example:

    ```python
    >>> trainer = Trainer(model, args, train_dataset=train)
    >>> dynamics = TrainingDynamicsCallback(trainer)
    >>> trainer.add_callback(dynamics)
    >>> trainer.train()
    >>> dynamics.label_issues().to_pandas().head()
    >>> dynamics.records.to_cartography("cartography/training_dynamics"), dynamics.records.to_aum("aum_values.csv")
    ```
    """

    def __init__(self, trainer: Trainer, folder: str | os.PathLike | None = None):
        self.trainer = cast(AnyTrainer, trainer)
        self.folder = Path(self.trainer.args.output_dir) / FOLDER if folder is None else Path(folder)
        self._run: str | None = None  # of the training that goes on
        self._labels: torch.Tensor | None = None  # of its epochs before

    @property
    def records(self) -> TrainingDynamics:
        """What was kept; anew from the files each time.

        Raises:
            FileNotFoundError: before the end of the first epoch.
        """
        return TrainingDynamics(self.folder)

    def label_issues(
        self,
        threshold: float | None = None,
        *,
        return_all: bool = False,
        columns: Sequence[str] | None = None,
        estimator: str = "gaussian_mixture",
    ) -> datasets.Dataset:
        """The samples whose label is more likely wrong than right, worst first, with texts and names of the training
        set; see [`TrainingDynamics.label_issues`].

        Args:
            columns (`Sequence[str]`, *optional*): what to show of the training set; its texts by default.
        """
        trainer = self.trainer
        config = getattr(trainer.accelerator.unwrap_model(trainer.model), "config", None)
        names = class_names(trainer.train_dataset, label_names(trainer), config)
        records = self.records
        table = records.label_issues(threshold, return_all=return_all, estimator=estimator, label_names=names)
        rows = table["sample_index"][:]
        return with_columns(table, shown_columns(trainer.train_dataset, rows, columns, trainer.processing_class, names))

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        self._run, self._labels = uuid.uuid4().hex, None
        done = _epochs_done(state)
        if state.global_step == 0 or not done:
            return
        path = epoch_path(self.folder, done)
        try:
            before, self._run = read_epoch(path)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"The training goes on after epoch {done}, and its dynamics can't be read from {path} ({error}) Keep "
                "the folder beside the checkpoints, or start again without `resume_from_checkpoint`."
            ) from error
        self._labels = before.labels
        if len(before.labels) != len(self.trainer.train_dataset):
            raise ValueError(
                f"{path} holds {len(before.labels)} samples, and the training set {len(self.trainer.train_dataset)}: "
                "it is not of this training."
            )

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        dataloader = sample_dataloader(self.trainer, self.trainer.train_dataset)
        found = predict_samples(self.trainer, dataloader)
        if found.probabilities is None or shifts_labels(self.trainer):
            raise ValueError("TrainingDynamicsCallback is for one class a sample, and here every token has a label.")
        if self._labels is not None:
            changed = np.flatnonzero((self._labels.long() != found.labels).numpy())
            if len(changed):
                raise ValueError(
                    f"Sample {changed[0]} has the label {int(found.labels[changed[0]])}, and had "
                    f"{int(self._labels[changed[0]])} in the epochs before: the training set is another."
                )
        self._labels = found.labels
        if self.trainer.is_world_process_zero():
            logits = torch.from_numpy(log_probabilities(found.probabilities.numpy()))
            dynamics = EpochDynamics(found.losses, found.labels, logits.clamp_min(torch.finfo(torch.float16).min))
            write_epoch(self.folder, max(_epochs_done(state, math.ceil), 1), cast(str, self._run), dynamics)


def _epochs_done(state: TrainerState, rounded=math.floor) -> int:
    """How many epochs have ended; the last one may be a part of one."""
    epoch = float(state.epoch or 0)
    return round(epoch) if abs(epoch - round(epoch)) < 1e-6 else int(rounded(epoch))
