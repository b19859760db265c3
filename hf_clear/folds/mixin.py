"""The hooks of `Trainer` that a cross-fitting warm-up needs: two phases in one training."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer

from .._typing import RoutingTrainer
from .adapters import STATE_NAME
from .cross_fitting import CrossFitting, HeldOutScores

logger = logging.getLogger(__name__)


class FoldSettings(Protocol):
    """What the folds ask of the arguments of training, [`~hf_clear.ClearArguments`]."""

    clear_warmup: str
    clear_warmup_epochs: int
    clear_folds: int


class CrossFitMixin(RoutingTrainer):
    """For a [`~transformers.Trainer`] with `clear_args`: its training begins with the folds, if they are asked for, and
    goes on with the model's own adapter, which starts anew, as do optimizer and learning rate.

    Everything else is one training: steps, epochs, callbacks, and the progress bar go on. In the warm-up, evaluation,
    saved models and the Hub have the adapter of the first fold, which is a model like any other.
    """

    if TYPE_CHECKING:

        @property
        def clear_args(self) -> FoldSettings: ...

    _cross_fitting: CrossFitting | None = None  # while the folds are in the model

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._has_own_optimizer = self.optimizer is not None or self.lr_scheduler is not None
        self._num_warmup_steps = 0  # of the training that was prepared last; 0 without folds
        self._before: CrossFitting | None = None  # of an earlier try, with larger batches

    def train(self, *args: Any, **kwargs: Any):
        try:
            return super().train(*args, **kwargs)
        finally:
            if self._cross_fitting is not None:
                self._drop_folds()
                if self.state.global_step > 0:
                    logger.warning(
                        "Training has ended in the cross-fitting warm-up. The model has the adapter of the first fold, "
                        "which was trained on a part of the samples."
                    )
            self._before = None

    def end_cross_fitting(self, dataloader: DataLoader) -> HeldOutScores:
        """Ends the warm-up: scores all samples, takes the folds out of the model, and starts its own adapter, optimizer
        and learning rate anew."""
        cross_fitting = cast(CrossFitting, self._cross_fitting)
        found = cross_fitting.score(dataloader)
        self.log(found.logs())
        cross_fitting.adapters.restore()
        self._drop_folds()
        self._renew_optimizer()
        logger.info(
            f"The cross-fitting warm-up is over after {self._num_warmup_steps} steps: the adapter, the optimizer and "
            f"the learning rate start anew for the other {self.state.max_steps - self._num_warmup_steps}."
        )
        return found

    # ---- Hooks ----

    def _prepare_for_training(self, max_steps: int, train_dataloader: DataLoader, resume_from_checkpoint: str | None):
        self._num_warmup_steps = 0
        if self.is_routed and self.clear_args.clear_warmup == "cross_fit":
            self._begin_cross_fitting(max_steps, train_dataloader, resume_from_checkpoint)
        return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)

    def create_scheduler(self, num_training_steps: int, *args: Any, **kwargs: Any):
        """As in `Trainer`, for the phase that begins: a schedule for the warm-up, and one for what comes after it."""
        warmup = self._num_warmup_steps
        if warmup:
            num_training_steps = warmup if self._cross_fitting is not None else max(num_training_steps - warmup, 1)
        return super().create_scheduler(num_training_steps, *args, **kwargs)

    def _clip_grad_norm(self, model: nn.Module) -> torch.Tensor:
        if self._cross_fitting is None:
            return super()._clip_grad_norm(model)
        self.accelerator.unscale_gradients()
        return self._cross_fitting.clip_gradients(self.args.max_grad_norm)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self._cross_fitting is not None and self.args.should_save:
            self._cross_fitting.adapters.save(os.path.join(output_dir, STATE_NAME))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self._cross_fitting is not None and checkpoint is not None:
            self._cross_fitting.adapters.load(os.path.join(checkpoint, STATE_NAME))

    # ---- Helpers ----

    def _begin_cross_fitting(self, max_steps: int, dataloader: DataLoader, checkpoint: str | None) -> None:
        if self._before is not None:  # `auto_find_batch_size` begins again
            self._before.adapters.drop()
            self._before.adapters.restore()
        self._cross_fitting = None
        steps = -(-len(dataloader) // self.args.gradient_accumulation_steps)
        self._num_warmup_steps = max(self.clear_args.clear_warmup_epochs * steps, 1)
        if not self._has_own_optimizer:
            self.optimizer = None  # of an earlier training, for other parameters
        if checkpoint is not None and not os.path.isfile(os.path.join(checkpoint, STATE_NAME)):
            if self.state.global_step > self._num_warmup_steps:
                return  # the warm-up is over
        self._check_cross_fitting(max_steps)
        if self.accelerator.num_processes > 1 and self.accelerator.ddp_handler is not None:
            self.accelerator.ddp_handler.find_unused_parameters = True  # DDP goes on when the folds are gone
        self._cross_fitting = CrossFitting(self, self.clear_args.clear_folds, self._num_warmup_steps)
        self._before = self._cross_fitting if self.args.auto_find_batch_size else None
        logger.info(
            f"Cross-fitting warm-up: {self.clear_args.clear_folds} adapters in steps 1 to {self._num_warmup_steps}, "
            f"then one on all samples up to step {max_steps}. Each phase has a learning rate schedule of its own "
            f"({self.args.lr_scheduler_type})."
        )

    def _check_cross_fitting(self, max_steps: int) -> None:
        if self._num_warmup_steps >= max_steps:
            raise ValueError(
                f"The cross-fitting warm-up of {self.clear_args.clear_warmup_epochs} epochs "
                f"({self._num_warmup_steps} steps) leaves nothing of a training of {max_steps} steps, and its adapters "
                "are dropped at its end. Lower `clear_warmup_epochs`, or train longer."
            )
        if self.clear_args.clear_folds > len(self.train_dataset):
            raise ValueError(
                f"`clear_folds={self.clear_args.clear_folds}` is more than there are training samples "
                f"({len(self.train_dataset)}): a fold without samples learns nothing. Lower it; 2 is the default."
            )
        if self._has_own_optimizer:
            raise ValueError(
                "`clear_warmup='cross_fit'` needs an optimizer and a schedule for each of its two phases, and "
                "`optimizers` holds one. Choose them by the training arguments (`optim`, `lr_scheduler_type`), or by "
                "`optimizer_cls_and_kwargs`."
            )
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(
                "`clear_warmup='cross_fit'` adds adapters to the model and takes them out again, which FSDP and "
                "DeepSpeed don't allow for. Use another `clear_warmup`, or DDP."
            )
        if not hasattr(Trainer, "_clip_grad_norm"):
            raise ValueError(
                "`clear_warmup='cross_fit'` clips the gradient of each fold by itself, which this version of "
                "transformers has no place for. Use a newer one, or another `clear_warmup`."
            )

    def _drop_folds(self) -> None:
        cast(CrossFitting, self._cross_fitting).adapters.drop()
        self._cross_fitting = None

    def _renew_optimizer(self) -> None:
        before = self.optimizer
        self.accelerator._optimizers = [own for own in self.accelerator._optimizers if own is not before]
        self.optimizer = self.lr_scheduler = None
        self.create_optimizer()
        self.optimizer = self.accelerator.prepare(self.optimizer)
        self.create_scheduler(num_training_steps=self.state.max_steps)
        self.callback_handler.optimizer, self.callback_handler.lr_scheduler = self.optimizer, self.lr_scheduler
