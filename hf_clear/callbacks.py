"""Callbacks: refitting the clean probabilities, and watching memorization."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ._callables import check_call, name_of
from ._modes import random_state_preserved
from ._names import IGNORED_LABEL
from ._scores import shifts_labels
from ._typing import AnyTrainer
from .estimators import Estimator, NamedEstimator, get_estimator
from .labels.known import labels_without_items
from .metrics import memorization
from .passes import predict_samples, sample_dataloader
from .sample_index import label_names
from .sample_store import SampleStore
from .training_args import ClearArguments

logger = logging.getLogger(__name__)

NO_CALLBACK = (
    "The CleanProbabilityCallback of this trainer was removed, and without it nothing is fitted. Add it again: "
    "`trainer.add_callback(hf_clear.CleanProbabilityCallback())`."
)


class RefittingTrainer(Protocol):
    """What [`CleanProbabilityCallback`] asks of its trainer: [`~hf_clear.ClearMixin`] has it."""

    @property
    def is_routed(self) -> bool: ...

    @property
    def clear_args(self) -> ClearArguments: ...

    @property
    def sample_store(self) -> SampleStore | None: ...

    def check_before_training(self, estimator: NamedEstimator | None) -> None: ...

    def refit(self, epoch: int, estimator: NamedEstimator | None) -> None: ...

    def check_step(self) -> None: ...

    def end_epoch(self) -> None: ...


class CleanProbabilityCallback(TrainerCallback):
    """Refits the clean probabilities at the beginning of every epoch after the warm-up.

    [`ClearTrainer`] adds one by itself if routing is on. Pass your own, a new one for each trainer, to use an
    estimator that has no name.

    At each refit, one pass over the training set with every module active gives the losses (with
    `clear_loss_source="online"`, the running mean of the predictions of training does), the estimator turns them into
    clean probabilities, and what it finds is logged: `clean_fraction` (share of samples with clean probability
    above 0.5), what speaks against them ([`~hf_clear.fit_checks.check_fit`]) and the estimator's diagnostics (of a
    mixture: means, weight, separation). If true labels are known, it is also logged how well it finds the wrong ones
    ([`~hf_clear.metrics.detection_metrics`]), and the memorization of clean and noisy samples
    ([`~hf_clear.metrics.Memorization`]). With the ensemble source `"epoch"`, N routed passes then give the targets of
    the training loss.

    Args:
        estimator (`str` or `Callable[[SampleEvidence], CleanProbabilityEstimate]`, *optional*): a registered name or an
            estimator itself; `clear_estimator` of the training arguments by default. It runs on the main process alone.

    Example:

    ```python
    >>> trainer = ClearTrainer(..., callbacks=[CleanProbabilityCallback("gaussian_mixture+knn")])
    ```
    """

    def __init__(self, estimator: str | Estimator | None = None):
        if estimator is not None and not isinstance(estimator, NamedEstimator):
            if isinstance(estimator, str):
                estimator = get_estimator(estimator)
            else:
                name = name_of(estimator)
                check_call(f"The estimator {name!r}", estimator, "evidence")
                estimator = NamedEstimator(name, estimator, gives_posterior=None)
        self.estimator: NamedEstimator | None = estimator
        self.trainer: RefittingTrainer | None = None  # there is one as soon as training begins

    def set_trainer(self, trainer: RefittingTrainer) -> None:
        """Callbacks are not given their trainer; [`ClearTrainer`] calls this."""
        self.trainer = trainer

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if self.trainer is None:
            raise ValueError("CleanProbabilityCallback works with ClearTrainer alone: no other trainer routes samples.")
        if not self.trainer.is_routed:
            return
        self.trainer.check_before_training(self.estimator)
        warmup = self.trainer.clear_args.clear_warmup_epochs
        is_fitted = cast(SampleStore, self.trainer.sample_store).is_fitted  # in a resumed run
        if warmup >= state.num_train_epochs and self.trainer.clear_args.clear_warmup == "epochs" and not is_fitted:
            logger.warning(
                f"The warm-up of {warmup} epochs is not shorter than the training of {state.num_train_epochs}: no "
                "clean probability is ever fitted, and this is plain PEFT training. Lower `clear_warmup_epochs` or "
                "train longer."
            )

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        cast(RefittingTrainer, self.trainer).refit(int(state.epoch), self.estimator)

    def on_pre_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        cast(RefittingTrainer, self.trainer).check_step()

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        cast(RefittingTrainer, self.trainer).end_epoch()


def adopt_callback(trainer: Any) -> bool:
    """Keeps the last `CleanProbabilityCallback` of a trainer and makes it that callback's; whether there is one."""
    own = [one for one in trainer.callback_handler.callbacks if isinstance(one, CleanProbabilityCallback)]
    for callback in own[:-1]:
        trainer.remove_callback(callback)
    if own:
        own[-1].set_trainer(trainer)
    return bool(own)


class MemorizationCallback(TrainerCallback):
    """Logs, after every epoch, how much of the training set the model has memorized, apart for clean and noisy samples
    (CleaR, arXiv 2411.00873, Figures 1 and 4; [`~hf_clear.metrics.Memorization`]).

    Costs one pass over the training set an epoch, in evaluation mode; the state of all random generators is left as it
    was. Works with any trainer of transformers, for tasks with one class a sample.

    Args:
        trainer (`Trainer`): the trainer whose training set and model are looked at.
        true_labels (`Sequence[int]` of shape `[num_samples]`): -100 if unknown.

    Raises:
        ValueError: if there is not one true label for each training sample; at the beginning of training, if
            every token has a label.

    Example:

    ```python
    >>> trainer.add_callback(MemorizationCallback(trainer, train["true_label"]))
    ```
    """

    def __init__(self, trainer: Trainer, true_labels: Sequence[int]):
        self.trainer = cast(AnyTrainer, trainer)
        self.true_labels = np.array([IGNORED_LABEL if label is None else label for label in true_labels])
        if self.true_labels.shape != (len(self.trainer.train_dataset),):
            raise ValueError(
                f"`true_labels` of shape {list(self.true_labels.shape)} for {len(self.trainer.train_dataset)} training "
                "samples: there has to be one for each."
            )

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        names, dataset = label_names(self.trainer), self.trainer.train_dataset
        labels = labels_without_items(dataset, names)
        if labels is None:
            with random_state_preserved():  # a transform may be random
                item = dataset[0]
            labels = [item.get(name) for name in names if isinstance(item, Mapping) and name in item]
        label: Any = labels[0] if len(labels) else None
        if shifts_labels(self.trainer) or np.ndim(label) > 0:
            raise ValueError("MemorizationCallback is for one class a sample, and here every token has a label.")

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        dataloader = sample_dataloader(self.trainer, self.trainer.train_dataset)
        predictions = predict_samples(self.trainer, dataloader, keep_probabilities=False)
        predicted = cast(torch.Tensor, predictions.predicted).numpy()
        self.trainer.log(memorization(predicted, predictions.labels.numpy(), self.true_labels))
