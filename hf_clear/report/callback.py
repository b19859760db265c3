"""`ReportCallback`: what a report wants to know of each fit, and its pictures in TensorBoard and Weights & Biases."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol

import datasets
import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .._modes import random_state_preserved
from ..log_history import HISTOGRAM, is_fit
from .axes import loss_edges
from .figures import pictures_of
from .frame import issue_frame

logger = logging.getLogger(__name__)


class ReportedTrainer(Protocol):
    """What [`ReportCallback`] asks of its trainer."""

    callback_handler: Any
    labels_tokens: bool

    @property
    def sample_store(self) -> Any: ...

    def report_table(self, columns: Sequence[str] | None = None) -> datasets.Dataset: ...


class ReportCallback(TrainerCallback):
    """Notes a histogram of the losses at each fit in `trainer.state.log_history`, as `loss_histogram` (`counts` and
    `edges`, in nats) of the fit's entry; and if [`~transformers.integrations.TensorBoardCallback`] or
    [`~transformers.integrations.WandbCallback`] is on, draws the pictures of the report for it. Both happen at the end
    of an epoch that began with a fit.

    [`~hf_clear.ClearTrainer`] and [`~hf_clear.TurnTrainer`] add it by themselves;
    `trainer.remove_callback(ReportCallback)` takes it away. The state of all random generators is left as it was.

    Args:
        trainer (`Trainer`): with clean probabilities.
    """

    def __init__(self, trainer: ReportedTrainer):
        self.trainer = trainer
        self._has_failed = False

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        # The losses are still those of the fit at the beginning of the epoch, or before the first.
        logs, store = state.log_history, self.trainer.sample_store
        number = next((number for number in reversed(range(len(logs))) if is_fit(logs[number])), None)
        if number is None or HISTOGRAM in logs[number] or store is None or not store.is_fitted:
            return
        losses = store.losses.cpu().numpy().astype(np.float64)
        losses = losses[np.isfinite(losses)]
        if len(losses):
            counts, edges = np.histogram(losses, loss_edges(losses))
            entry: dict[str, Any] = {**logs[number], HISTOGRAM: {"counts": counts.tolist(), "edges": edges.tolist()}}
            logs[number] = entry
        if state.is_world_process_zero and not self.trainer.labels_tokens and not self._has_failed:
            self._draw(logs, state.global_step)

    def _draw(self, log_history: list[dict[str, Any]], step: int) -> None:
        writers = [writer for callback in self.trainer.callback_handler.callbacks if (writer := _writer_of(callback))]
        if not writers:
            return
        try:
            with random_state_preserved():
                pictures = pictures_of(issue_frame(self.trainer.report_table([])), log_history)
                figures = {f"report/{picture.name}": picture.figure() for picture in pictures}
                for write in writers:
                    write(figures, step)
        except Exception as error:  # a picture is no reason to stop a training
            self._has_failed = True
            logger.warning(f"No pictures for TensorBoard or Weights & Biases: {error}")


def _writer_of(callback: TrainerCallback) -> Any:
    """A function of figures by name, and a step; None if the callback is neither, or has nothing to write to."""
    from transformers.integrations import TensorBoardCallback, WandbCallback

    if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:

        def write(figures: dict[str, Any], step: int) -> None:
            for name, figure in figures.items():
                callback.tb_writer.add_figure(name, figure, step, close=False)

        return write
    if isinstance(callback, WandbCallback) and getattr(callback._wandb, "run", None) is not None:

        def write(figures: dict[str, Any], step: int) -> None:
            wandb = callback._wandb
            images = {name: wandb.Image(figure) for name, figure in figures.items()}
            wandb.log({**images, "train/global_step": step})

        return write
    return None
