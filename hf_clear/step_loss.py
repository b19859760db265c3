"""The loss of a training step: the task loss under the gates that are set, the parts that are added to it, their scale,
and their place in the log."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from transformers.utils import ModelOutput

from ._modes import evaluation_mode, low_precision
from ._names import IGNORED_LABEL
from ._scores import add_decoder_inputs, scores_and_labels, scores_in, scores_of
from ._typing import RoutingTrainer
from .losses import LossPart, cross_entropy
from .refit import Refit
from .routing import route
from .sample_index import SAMPLE_INDEX
from .task_loss import FirstBatch, TaskLoss

_NO_INDEX = (
    "A training batch has no sample indices, so CleaR can't tell its samples. ClearTrainer adds them in "
    "`get_train_dataloader`: if you override that method, build the dataloader with "
    "`hf_clear.sample_index.indexed_dataloader`."
)
INDEX_LOST = (
    f"The batch that came to `compute_loss` has lost its sample index (`{SAMPLE_INDEX}`), so CleaR can't tell its "
    "samples. A subclass that changes the inputs has to leave it there: `inputs = {**inputs, ...}`."
)


class StepLossMixin(RoutingTrainer):
    """The part of [`~hf_clear.ClearMixin`] that knows how a loss is computed, scaled and logged. It knows no method:
    what is added to the task loss, or takes its place, is up to the training loss."""

    _refit: Refit | None  # of the training that was prepared last
    _takes_part: torch.Tensor | None  # in shared memory: workers read it
    _first_batch: FirstBatch  # what the look at it found
    _shifts_labels: bool
    _labels_in_step: torch.Tensor | int  # of all batches of the optimizer step
    _loss_parts: dict[str, tuple[torch.Tensor, int]]  # sums since the last log, with the step that they begin at
    _added_loss: torch.Tensor | float  # of the batch at hand, what is added to the task loss

    @property
    def _prepared_refit(self) -> Refit:
        """The refit, which is there as soon as a training is prepared."""
        return cast(Refit, self._refit)

    def _task_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        needs_outputs: bool,
        num_items_in_batch: torch.Tensor | int | None,
    ) -> TaskLoss:
        """What `L(f, y)` is for a batch, under the gates that are set."""
        refit, labels = self._prepared_refit, inputs[self.label_names[0]]
        loss: torch.Tensor | None
        logits: torch.Tensor | None
        if self._first_batch.base_loss is None:
            outputs = self._forward(model, inputs)
            logits, labels = scores_and_labels(outputs, labels, self._shifts_labels)
            if needs_outputs and isinstance(outputs, ModelOutput):  # as the model has it: a subclass may look at it
                outputs["loss"] = cross_entropy(logits, labels)[labels != IGNORED_LABEL].mean()
            loss = None
            if refit.loss.adds_to_task_loss:
                loss = cross_entropy(logits, labels, self.args.label_smoothing_factor, reduction="sum")
                loss = loss / self._labels_in_step
            self.loss_is_scaled_for_ga = True
            self.current_gradient_accumulation_steps = 1  # the same for transformers before 5.20, which divides by it
            return TaskLoss("cross_entropy", loss, outputs, logits, labels)

        self.__dict__.pop("loss_is_scaled_for_ga", None)
        needs_scores, loss, outputs = refit.loss.is_active or refit.keeps_predictions, None, None
        if not refit.participation.leaves_out(labels):
            needs_outputs = needs_outputs or (needs_scores and self._first_batch.base_predicts)
            found: Any = super().compute_loss(  # a pair, if the outputs are asked for
                model, dict(inputs), return_outputs=needs_outputs, num_items_in_batch=num_items_in_batch
            )
            loss, outputs = found if needs_outputs else (found, None)
        logits = scores_in(outputs) if needs_scores and outputs is not None else None
        if loss is None:  # a batch of samples that are left out: nothing to ask a loss about
            outputs = self._forward(model, inputs)
            logits = scores_of(outputs)
            loss = 0.0 * logits.float().sum()
        elif needs_scores and (logits is None or not logits.requires_grad):
            # The base class keeps them to itself, or predicts once more, without gradient, as TRL does.
            self._first_batch.base_predicts = False
            logits = scores_of(self._forward(model, inputs))
        if logits is not None:
            logits, labels = scores_and_labels(logits, labels, self._shifts_labels)
        is_scaled = self.loss_is_scaled_for_ga
        if is_scaled is None:  # as `Trainer.training_step` has it
            accepts = self.model_accepts_loss_kwargs and num_items_in_batch is not None
            is_scaled = accepts or self.compute_loss_func is not None
        scale = 1 if is_scaled else self.current_gradient_accumulation_steps
        name = "task_loss" if self.compute_loss_func is None else "compute_loss_func"
        return TaskLoss(name, loss, outputs, logits, labels, scale)

    def _reduce(self, task: TaskLoss, parts: dict[str, LossPart]) -> torch.Tensor:
        """The task loss plus the weighted parts, each of them summed over labels and divided by their number in the
        optimizer step; all are recorded for the log."""
        loss, self._added_loss = task.value, 0.0
        if loss is not None:
            self._record(task.name, loss / task.scale)
        is_labelled = task.labels != IGNORED_LABEL
        for name, part in parts.items():
            value = part.values.where(is_labelled, 0.0).sum() / self._labels_in_step
            self._record(name, value)
            if task.value is not None:
                self._added_loss = self._added_loss + part.weight * value.detach()
            value = part.weight * value * task.scale
            loss = value if loss is None else loss + value
        return cast(torch.Tensor, loss)  # without a task loss there is a part

    def _forward(self, model: nn.Module, inputs: dict[str, Any]) -> Any:
        """The model's outputs without its loss."""
        inputs = dict(inputs)
        add_decoder_inputs(self.model, inputs, inputs.pop(self.label_names[0]))
        return model(**inputs)

    def _predict(self, model: nn.Module, inputs: dict[str, Any], gates: torch.Tensor | None) -> torch.Tensor:
        """Class probabilities of a batch under gates, without gradient and without dropout."""
        with torch.no_grad(), evaluation_mode(model), low_precision(self.args), route(model, gates):
            logits, _ = scores_and_labels(self._forward(model, inputs), inputs[self.label_names[0]])
        return logits.softmax(dim=-1)

    def get_batch_samples(self, *args: Any, **kwargs: Any):
        batches, num_items_in_batch = super().get_batch_samples(*args, **kwargs)
        if self.is_routed:
            if any(SAMPLE_INDEX not in batch for batch in batches):
                raise RuntimeError(_NO_INDEX)
            count = sum(self._num_labels_of(batch) for batch in batches)
            if self.accelerator.num_processes > 1:  # DDP takes the mean of the processes' gradients
                count = self.accelerator.reduce(torch.as_tensor(count, device=self.args.device).float(), "mean")
            self._labels_in_step = count.clamp_min(1e-6) if isinstance(count, torch.Tensor) else count
            if (folds := self._prepared_refit.cross_fitting) is not None:
                folds.begin_step(batches, self._labels_in_step)
        return batches, num_items_in_batch

    def _num_labels_of(self, batch: dict[str, Any]) -> torch.Tensor | int:
        labels = batch[self.label_names[0]]
        if labels.ndim == 1 and self._takes_part is None:
            return len(labels)
        labels = labels[:, 1:] if self._shifts_labels and labels.ndim == 2 else labels
        return (labels != IGNORED_LABEL).sum()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds the parts of the loss on this process when the loss is logged: `cross_entropy` (or `task_loss`, or
        `compute_loss_func`), and those of the training loss by their names, such as `consistency`, before their weight.
        `loss` itself is what `Trainer` would log, without what is added to it: it stays comparable from the warm-up on.
        """
        if "loss" in logs and self.is_routed:
            for name, (total, first_step) in self._loss_parts.items():
                logs[name] = total.item() / max(self.state.global_step - first_step, 1)
            self._loss_parts = {}
        super().log(logs, *args, **kwargs)

    def _record(self, name: str, part: torch.Tensor) -> None:
        """Adds up a part of the loss until it is logged, on the device: no synchronization in between."""
        total, first_step = self._loss_parts.get(name, (0.0, self.state.global_step))
        self._loss_parts[name] = (total + part.detach(), first_step)
