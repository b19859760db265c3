"""The callback that turns losses into clean probabilities at the beginning of each epoch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .clean_probability import CleanProbabilityEstimate, gaussian_mixture

if TYPE_CHECKING:
    from .trainer import ClearMixin

logger = logging.getLogger(__name__)


class CleanProbabilityCallback(TrainerCallback):
    """Refits the clean probabilities at the beginning of every epoch after the warm-up.

    [`ClearTrainer`] adds one by itself where routing is on. Pass your own, a new one for each trainer, to use another
    estimator.

    At each refit, one pass over the training set with every module active gives the losses, the estimator turns them
    into clean probabilities, and what it finds is logged: `clean_fraction` (share of samples with clean probability
    above 0.5) and mean, weight and separation of the mixture. With the ensemble source `"epoch"`, N routed passes then
    give the targets of the consistency term.

    Args:
        estimator (`Callable[[np.ndarray, np.ndarray], CleanProbabilityEstimate]`, *optional*, defaults to
            [`gaussian_mixture`]): from losses and given labels, both `[num_samples]`, to clean probabilities. It runs
            on the main process alone.

    Example:

    ```python
    >>> trainer = ClearTrainer(..., callbacks=[CleanProbabilityCallback(my_estimator)])
    ```
    """

    def __init__(self, estimator: Callable[[np.ndarray, np.ndarray], CleanProbabilityEstimate] = gaussian_mixture):
        self.estimator = estimator
        self.trainer: ClearMixin | None = None

    def set_trainer(self, trainer: ClearMixin) -> None:
        """Callbacks are not given their trainer; [`ClearTrainer`] calls this."""
        self.trainer = trainer

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if self.trainer is None:
            raise ValueError("CleanProbabilityCallback works with ClearTrainer alone: no other trainer routes samples.")
        if not self.trainer.is_routed:
            return
        self.trainer.check_routing()
        warmup = self.trainer.clear_args.clear_warmup_epochs
        if warmup >= state.num_train_epochs:
            logger.warning(
                f"The warm-up of {warmup} epochs is not shorter than the training of {state.num_train_epochs}: the "
                "mixture is never fitted, and this is plain PEFT training. Lower `clear_warmup_epochs` or train longer."
            )

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        trainer, epoch = self.trainer, int(state.epoch)
        if not trainer.is_routed:
            return
        store = trainer.sample_store
        # A run resumed in mid-epoch comes through here again, with this epoch's fit in its restored state.
        if epoch < trainer.clear_args.clear_warmup_epochs or epoch == store.fitted_epoch:
            return
        predictions = trainer.predict_training_samples()
        estimate = None
        if trainer.accelerator.is_main_process:
            estimate = self.estimator(predictions.losses.numpy(), predictions.labels.numpy())
            if len(estimate.clean_probability) != len(store.losses):
                raise ValueError(
                    f"The estimator returned {len(estimate.clean_probability)} clean probabilities for "
                    f"{len(store.losses)} samples."
                )
        estimate = broadcast_object_list([estimate])[0]

        store.losses.copy_(predictions.losses)
        store.labels.copy_(predictions.labels)
        store.clean_probability.copy_(torch.from_numpy(estimate.clean_probability))
        if trainer.clear_args.clear_consistency_weight > 0 and trainer.clear_args.clear_ensemble_source == "epoch":
            target = trainer.predict_ensemble()
            # No target for a sample whose prediction is not finite.
            finite = target.isfinite().all(dim=1, keepdim=True)
            store.targets = target.where(finite, torch.zeros(())).to(store.losses.device)
        store.fitted_epoch = epoch
        trainer.log(
            {
                "clean_fraction": float((estimate.clean_probability > 0.5).mean()),
                "mixture_mean_clean": float(estimate.means[0]),
                "mixture_mean_noisy": float(estimate.means[1]),
                "mixture_weight_noisy": float(estimate.weights[1]),
                "mixture_separation": estimate.separation,
            }
        )
