"""Phase 1 of TURN: the probe, how far its training has come, and what it says about data sets."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import datasets
import numpy as np
import torch
from peft import PeftModel
from torch.utils.data import IterableDataset
from transformers.trainer_utils import EvalPrediction, PredictionOutput

from .._names import IGNORED_LABEL
from .._typing import AnyTrainer, MapDataset
from ..features import FrozenFeatures
from ..losses import cross_entropy
from ..passes import SamplePredictions
from ..probe_args import ProbeArguments
from ..probing import (
    Probe,
    base_model_context,
    features_for_probe,
    find_head,
    probe_optimizer,
    probe_predictions,
    set_head,
    train_probe,
)
from ..sample_index import label_names

logger = logging.getLogger(__name__)


@dataclass
class ProbePhase:
    """The probe of a trainer. Features are those of the trainer's model as it is when they are asked for, without its
    adapter if it has one.

    Attributes:
        probe (`Probe`, *optional*): None before its first step.
        epochs (`int`): of its training that are done.
        optimizer (`dict[str, torch.Tensor]`): the state of its optimizer, `"{number of the parameter}.{name}"`; empty
            before the first epoch and after the last.
        predictions (`SamplePredictions`, *optional*): what the trained probe makes of the training set.
        mean_features (`torch.Tensor` of shape `[num_samples, hidden_size]`, *optional*): of the training set, if they
            were asked for.
    """

    probe: Probe | None = None
    epochs: int = 0
    optimizer: dict[str, torch.Tensor] = field(default_factory=dict)
    predictions: SamplePredictions | None = None
    mean_features: torch.Tensor | None = None

    def run(
        self,
        trainer: AnyTrainer,
        settings: ProbeArguments,
        keep_mean: bool,
        on_epoch_end: Callable[[int, float], None],
    ) -> dict[str, float]:
        """Trains the probe from where it stands, and gives the model the trained head.

        Args:
            keep_mean (`bool`): whether to keep the mean features, for an estimator that uses them.
            on_epoch_end (`Callable`): called with the number of epochs that are done and the mean loss.

        Returns:
            `dict[str, float]`: `probe_features_runtime` and `probe_runtime`, in seconds.

        Raises:
            ValueError: if a sample has no label, or a feature is not finite.
        """
        start = time.time()
        with_mean = settings.probe_features == "mean" or keep_mean
        with features_for_probe(
            trainer, trainer.train_dataset, settings, with_mean, base_model_context(trainer)
        ) as features:
            if (features.labels == IGNORED_LABEL).any():
                raise ValueError(
                    "TURN needs one class a sample, and the batches hold no labels of shape [batch] under any of the "
                    f"names {', '.join(label_names(trainer))}. Look at the data collator, or set `label_names`."
                )
            metrics = {"probe_features_runtime": time.time() - start}
            start = time.time()
            probe = self._train(trainer, settings, features, on_epoch_end)
            set_head(trainer, settings.probe_head, probe)
            self._look(probe, features, keep_mean)
        return metrics | {"probe_runtime": time.time() - start}

    def evidence(
        self, trainer: AnyTrainer, settings: ProbeArguments, needs_mean: bool
    ) -> tuple[SamplePredictions, torch.Tensor | None]:
        """Predictions and mean features of the training set: as [`run`] left them, or computed again.

        Raises:
            RuntimeError: if fine-tuning has changed the features.
        """
        if self.predictions is None or (needs_mean and self.mean_features is None):
            model = trainer.accelerator.unwrap_model(trainer.model)
            if trainer.state.global_step > 0 and not isinstance(model, PeftModel):
                raise RuntimeError(
                    "Fine-tuning has changed the features that the probe was trained on, so it can't be asked again. "
                    "Cleanse before fine-tuning, or with another TurnTrainer for the pretrained model: "
                    "`train(resume_from_checkpoint=...)`."
                )
            probe = cast(Probe, self.probe)  # nobody asks before there is one
            with_mean = probe.uses_mean or needs_mean
            with features_for_probe(
                trainer, trainer.train_dataset, settings, with_mean, base_model_context(trainer)
            ) as features:
                return self._look(probe, features, needs_mean)
        return self.predictions, self.mean_features

    def predict(
        self, trainer: AnyTrainer, settings: ProbeArguments, dataset: MapDataset, metric_key_prefix: str
    ) -> PredictionOutput:
        """See [`TurnMixin.predict_probe`]."""
        probe = cast(Probe, self.probe)
        with features_for_probe(
            trainer, dataset, settings, probe.uses_mean, base_model_context(trainer), needs_labels=False
        ) as features:
            logits, labels = probe.predict(features), features.labels
        is_labelled = bool((labels != IGNORED_LABEL).all())
        metrics: dict[str, float] = {}
        if is_labelled:
            metrics["loss"] = cross_entropy(logits, labels).mean().item()
        if trainer.preprocess_logits_for_metrics is not None:
            logits = trainer.preprocess_logits_for_metrics(logits, labels)
        if is_labelled and trainer.compute_metrics is not None:
            if trainer.args.batch_eval_metrics or trainer.args.include_for_metrics:
                logger.warning("`compute_metrics` is not asked about the probe: it wants batches, inputs or losses.")
            else:
                metrics |= trainer.compute_metrics(EvalPrediction(logits.numpy(), labels.numpy()))
        return PredictionOutput(
            logits.numpy(),
            labels.numpy() if is_labelled else None,
            {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()},
        )

    def evaluate(self, trainer: AnyTrainer, settings: ProbeArguments) -> dict[str, float]:
        """Metrics of the trainer's evaluation sets, `probe_eval_…`."""
        sets = trainer.eval_dataset if isinstance(trainer.eval_dataset, dict) else {"": trainer.eval_dataset}
        metrics: dict[str, float] = {}
        dataset: Any
        for name, dataset in sets.items():
            if isinstance(dataset, (IterableDataset, datasets.IterableDataset)):
                logger.warning("The probe is not evaluated on an IterableDataset: its samples have no index.")
            elif dataset is not None:
                found = self.predict(trainer, settings, dataset, f"probe_eval_{name}".removesuffix("_"))
                metrics |= found.metrics or {}
        return metrics

    def _train(
        self,
        trainer: AnyTrainer,
        settings: ProbeArguments,
        features: FrozenFeatures,
        on_epoch_end: Callable[[int, float], None],
    ) -> Probe:
        if self.probe is None:
            head = find_head(trainer.accelerator.unwrap_model(trainer.model), settings.probe_head)
            mean_size = cast(torch.Tensor, features.mean).shape[1] if settings.probe_features == "mean" else None
            self.probe = Probe(head, features.head_shape, mean_size)
        optimizer = probe_optimizer(self.probe, features, settings)
        parameters = list(self.probe.parameters())
        for name, tensor in self.optimizer.items():  # restored
            number, key = name.split(".")
            optimizer.state[parameters[int(number)]][key] = tensor.to(tensor if key == "step" else parameters[0])

        def keep(epoch: int, loss: float) -> None:
            self.epochs = epoch
            self.optimizer = {
                f"{number}.{key}": value
                for number, parameter in enumerate(parameters)
                for key, value in optimizer.state[parameter].items()
            }
            on_epoch_end(epoch, loss)

        show_progress = trainer.is_local_process_zero() and not trainer.args.disable_tqdm
        train_probe(self.probe, features, settings, trainer.args.seed, optimizer, self.epochs, keep, show_progress)
        self.optimizer = {}
        return self.probe

    def _look(
        self, probe: Probe, features: FrozenFeatures, keep_mean: bool
    ) -> tuple[SamplePredictions, torch.Tensor | None]:
        self.predictions = probe_predictions(probe, features)
        self.mean_features = cast(torch.Tensor, features.mean).clone() if keep_mean else None
        return self.predictions, self.mean_features


def check_one_label_a_sample(label: Any) -> None:
    """Refuses a training set in which every token has a label.

    Args:
        label (`Any`): of the first training sample.

    Raises:
        ValueError: if it is a list of labels.
    """
    if np.ndim(label) > 0:
        raise ValueError(
            "TURN needs one class label a sample, and the label of sample 0 is a list: one for every token?"
        )
