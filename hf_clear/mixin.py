"""`ClearMixin`: CleaR for `transformers.Trainer`. Hooks of `Trainer`, which ask and tell the refit."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from ._modes import evaluation_mode
from ._processes import together
from ._scores import shifts_labels
from ._version import __version__
from .base_trainer import BaseTrainerMixin
from .beginning import NewBeginningMixin
from .callbacks import NO_CALLBACK, CleanProbabilityCallback, adopt_callback
from .checkpoints.mixin import holds_weights_alone
from .checks.before_training import check_outcome, check_setup, check_training_set
from .checks.first_batch import check_first_batch
from .checks.no_fit import why_no_fit
from .estimators import NamedEstimator, get_estimator
from .files import write_atomically
from .folds.mixin import CrossFitMixin
from .identity.shares import check_same_length
from .losses import LossEvidence
from .probing import start_fold_heads
from .refit import LOSS, Refit
from .routing import num_routed_layers, route
from .sample_index import SAMPLE_INDEX, indexed_dataloader, num_labels
from .sample_store import STATE_NAME, SampleStore
from .step_loss import INDEX_LOST, StepLossMixin
from .task_loss import not_reached
from .training_args import ClearArguments

logger = logging.getLogger(__name__)

CONFIG_NAME = "clear_config.json"


class ClearMixin(StepLossMixin, CrossFitMixin, NewBeginningMixin, BaseTrainerMixin):
    """CleaR for [`~transformers.Trainer`] and its subclasses, see [`ClearTrainer`]: `class MyTrainer(ClearMixin,
    Seq2SeqTrainer)`."""

    method = "CleaR"
    _is_training = False  # from when a training is prepared to its end
    _is_set_up = False

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._default_args = ClearArguments()
        self._refit = self._takes_part = None
        self._step: contextlib.ExitStack | None = None  # what is open in a training step
        self._num_routed = 0  # batches since the last optimizer step
        self._set_up()
        if not self.is_routed:
            logger.warning(
                f"{type(self.model).__name__} has no PEFT module that can be routed: ClearTrainer trains it exactly as "
                "Trainer would. Pass `peft_config=ClearLoraConfig(...)` or a model that carries LoRA layers."
            )

    # ---- What users ask ----

    @property
    def is_routed(self) -> bool:
        """Whether the model has PEFT modules to route. If not, this trainer is a strict pass-through to its base."""
        return self._num_layers > 0

    @property
    def clear_args(self) -> ClearArguments:
        """CleaR's arguments: `args` itself, or the defaults if `args` is a plain `TrainingArguments`. If the task or
        its labels can't have the posterior, those of `preset("clear")` in their place, as soon as that is known."""
        if self._refit is not None:
            return self._refit.settings
        return self.args if isinstance(self.args, ClearArguments) else self._default_args

    @property
    def ensemble_source(self) -> str:
        """Where the consistency targets come from: `clear_ensemble_source`, or what stands for None."""
        return self.clear_args.ensemble_source(self.labels_tokens)

    @property
    def sample_store(self) -> SampleStore | None:
        """What is known of each training sample; None before the first training. Not to be written to."""
        return None if self._refit is None else self._refit.store

    def method_settings(self) -> dict[str, Any]:
        settings = self.clear_args.in_force(self.labels_tokens)
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, CleanProbabilityCallback) and callback.estimator is not None:
                settings["clear_estimator"] = callback.estimator.name  # in place of the argument
        return settings

    # ---- When the callback says so ----

    def check_before_training(self, estimator: NamedEstimator | None = None) -> None:
        """Looks at the settings and at a first batch, and sends it through the bypassed model: what can't be routed, or
        can't be trained with this loss, is refused before the first step. `clear_estimator` is the default estimator.
        """
        check_outcome(self)
        refit = self._prepared_refit
        self._first_batch = check_first_batch(self, refit, estimator, ClearMixin)
        self._estimator = get_estimator(self.clear_args.clear_estimator)
        self.labels_tokens = refit.labels_tokens
        refit.cross_fitting = self._cross_fitting
        refit.resolve()

    def refit(self, epoch: int, estimator: NamedEstimator | None = None) -> None:
        """Fits the clean probabilities anew at the beginning of an epoch (counted from 0), and logs what was found. In
        the warm-up, and in an epoch that has its fit already, nothing happens."""
        if not self.is_routed:
            return
        refit, held_out = cast(Refit, self._refit), None
        if self._cross_fitting is not None and self.state.global_step == 0:
            start_fold_heads(self, self._cross_fitting, refit.settings, refit.bypassed)
        if self._cross_fitting is not None and epoch >= self.clear_args.clear_warmup_epochs:
            held_out, refit.cross_fitting = self.end_cross_fitting(refit.dataloader), None
        logs = refit.run(epoch, estimator or self._estimator, held_out)
        if logs:
            self.log(logs)

    def end_epoch(self) -> None:
        """Gives every process what the others recorded in this epoch."""
        if self.is_routed:
            self._prepared_refit.merge()

    def check_step(self) -> None:
        """Makes sure, before the optimizer acts, that the step was CleaR's.

        Raises:
            RuntimeError: if `training_step` of a subclass took its place.
        """
        if self.is_routed and self._num_routed == 0:
            raise RuntimeError(not_reached(self, ClearMixin, "training_step", "compute_loss"))
        self._num_routed = 0

    # ---- Training ----

    @together
    def train(self, *args: Any, **kwargs: Any):
        if self.model is not None:  # in a search for hyperparameters, it comes later
            self._set_up()
        if self.is_routed:
            check_training_set(self)
            check_same_length(self)
        try:
            return super().train(*args, **kwargs)
        finally:
            self._is_training = False

    def add_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """As in `Trainer`; a `CleanProbabilityCallback` takes the place of the one that is there."""
        super().add_callback(callback)
        adopt_callback(self)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        # Gates stay set until the backward pass is over: a checkpointed layer reads them again there.
        num_routed, self._added_loss = self._num_routed, 0.0
        try:
            with contextlib.ExitStack() as self._step:
                loss = super().training_step(*args, **kwargs)
        finally:
            self._step = None
        if self.is_routed and self._num_routed == num_routed:
            raise RuntimeError(not_reached(self, ClearMixin, "compute_loss"))
        return loss - self._added_loss  # for the log: the gradients are those of the whole

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """The training loss `clear_loss` of the routed prediction; of CleaR `L = CE(f, y) + λ · CE(f, f_ens)`.

        `CE(f, y)`, the task loss, is what `super().compute_loss` gives if a class between `ClearMixin` and `Trainer`, a
        `compute_loss_func` or the model has a loss of its own, scaled as `Trainer` scales it. Otherwise it is plain
        cross entropy. Its sum, as those of all other parts, is divided by the number of samples of the whole optimizer
        step, so that accumulation changes nothing, a smaller last batch included; if every token has a label, tokens
        take the samples' place. (Stock `Trainer` with a classification head takes the mean of each accumulated batch
        without dividing by their number: its gradients are `gradient_accumulation_steps` times, and under DDP
        `world_size` times, larger.)
        """
        if self._step is None or SAMPLE_INDEX not in inputs:  # evaluation, or nothing to route
            if SAMPLE_INDEX in inputs:
                if self._is_training:
                    raise RuntimeError(not_reached(self, ClearMixin, "training_step"))
                inputs = {name: value for name, value in inputs.items() if name != SAMPLE_INDEX}  # looked at by hand
            if self._step is not None and self.is_routed and model.training:
                raise RuntimeError(INDEX_LOST)
            if self.is_routed:
                self.__dict__.pop("loss_is_scaled_for_ga", None)
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

        self._num_routed += 1
        inputs, refit = dict(inputs), self._prepared_refit
        index, labels = inputs.pop(SAMPLE_INDEX), inputs[self.label_names[0]]
        if refit.store.is_fitted and not self.clear_args.clear_dropout_after_warmup:
            self._step.enter_context(evaluation_mode(model))
        target = refit.target(index, lambda gates: self._predict(model, inputs, gates))
        gates, folds = refit.gates(index, LOSS), refit.cross_fitting
        self._step.enter_context(route(model, gates) if folds is None else folds.route(index))

        task = self._task_loss(model, inputs, return_outputs, num_items_in_batch)
        logits = cast(torch.Tensor, task.logits)  # or nobody would look at them
        p, is_warmup = refit.clean_probability(index), not refit.store.is_fitted
        known = (p, target, self.state.epoch, is_warmup, refit.posterior(index))
        parts = refit.loss(LossEvidence(logits, task.labels, *known))
        refit.record(index, logits, labels)
        loss = self._reduce(task, parts if folds is None else folds.weighed(parts, index))
        if folds is not None:
            self._added_loss = loss.detach() * (1 - 1 / folds.num_folds)  # the log has the folds' mean
        return (loss, task.outputs) if return_outputs else loss

    # ---- Batches ----

    def get_train_dataloader(self) -> DataLoader:
        if not self.is_routed:
            return super().get_train_dataloader()
        num_samples = len(self.train_dataset)
        if self.clear_args.clear_min_clean_probability == 0:
            self._takes_part = None
        elif self._takes_part is None or len(self._takes_part) != num_samples:
            self._takes_part = torch.ones(num_samples, dtype=torch.bool).share_memory_()
        return indexed_dataloader(
            self,
            self.train_dataset,
            "Training",
            self._train_batch_size,
            self._get_train_sampler,
            is_training=True,
            takes_part=self._takes_part,
        )

    # ---- State ----

    def _prepare_for_training(self, max_steps: int, train_dataloader: DataLoader, resume_from_checkpoint: str | None):
        # Here and not in `train`, which tries again with a smaller batch under `auto_find_batch_size`.
        self._set_up()
        if self.is_routed:
            if not adopt_callback(self):
                raise ValueError(NO_CALLBACK)
            self._is_training = True
            self.labels_tokens, self._refit = False, None  # until the first batch tells
            self._refit = Refit(self, self.clear_args, self._num_layers, self._takes_part)
            self._fitted_on = self.train_dataset
            self._shifts_labels = shifts_labels(self)
            self._num_routed, self._loss_parts = 0, {}
        return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.is_routed:
            self._prepared_refit.merge()
        if self.is_routed and self.args.should_save:
            self._prepared_refit.store.save(os.path.join(output_dir, STATE_NAME))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.is_routed and checkpoint is not None:  # first: it says what has changed, and an optimizer does not
            self._prepared_refit.load(os.path.join(checkpoint, STATE_NAME), num_labels(self))
        super()._load_optimizer_and_scheduler(checkpoint)

    def _check_files(self, checkpoint: str) -> None:
        if self.is_routed and holds_weights_alone(checkpoint):
            path = os.path.join(checkpoint, STATE_NAME)
            self._on_each_node(lambda: SampleStore.load(path))  # which says that it is missing, and what to do
        super()._check_files(checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.is_routed and self.args.should_save:
            fields = [field.name for field in dataclasses.fields(ClearArguments)]
            config = {"hf_clear_version": __version__, **{name: getattr(self.clear_args, name) for name in fields}}
            path = os.path.join(self.args.output_dir if output_dir is None else output_dir, CONFIG_NAME)
            write_atomically(path, (json.dumps(config, indent=2) + "\n").encode())

    # ---- Checks and helpers ----

    def _set_up(self) -> None:
        """Looks at the model as it is now: since the trainer was made, it may have got an adapter, or lost it."""
        self._num_layers = num_routed_layers(self.model)
        if not self.is_routed:
            self._refit = None  # of an earlier training
        elif not self._is_set_up:
            check_setup(self, self.method, self.clear_args)
            self._use_one_gpu()
            if not adopt_callback(self):
                self.add_callback(CleanProbabilityCallback())
            self._is_set_up = True

    def _first_fit(self) -> str:
        return why_no_fit(self, self.clear_args, is_over=self._refit is not None and not self._is_training)
