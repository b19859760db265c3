"""A cross-fitting warm-up: one pass over the data trains an adapter for each fold, and each sample is scored by those
that have not seen its label."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from .._names import IGNORED_LABEL
from .._scores import scores_and_labels
from .._typing import AnyTrainer
from ..fold_assignment import assign_folds
from ..labels.known import labels_without_items
from ..losses import LossEvidence, LossPart, TrainingLoss, generalized_cross_entropy
from ..passes import tables_by_index
from ..routing import AdapterChoice, choose_adapters
from ..sample_index import SAMPLE_INDEX, label_names
from .adapters import FoldAdapters

GCE_Q = 0.7  # of the generalized cross entropy (arXiv 1805.07836) at the end of the warm-up


@dataclass
class HeldOutScores:
    """What adapters say of samples whose label they have not seen; row i belongs to sample i. On CPU, the same on every
    process.

    Attributes:
        scores (`torch.FloatTensor` of shape `[num_samples, num_labels]`): logits, the mean of those of several
            adapters if there are; NaN for samples that the collator never returned.
        labels (`torch.LongTensor` of shape `[num_samples]`): the given labels; -100 for those samples.
        features (`FrozenFeatures`, *optional*): of the frozen model, if they are still there.
    """

    scores: torch.Tensor
    labels: torch.Tensor
    features: Any = None

    def logs(self) -> dict[str, float]:
        """`cross_fit_agreement`: how often the class with the largest score is the given label."""
        known = (self.labels != IGNORED_LABEL) & self.scores.isfinite().all(dim=1)
        agrees = (self.scores.argmax(dim=1) == self.labels)[known]
        return {"cross_fit_agreement": agrees.float().mean().item()} if known.any() else {}


class CrossFitting:
    """One cross-fitting warm-up (the cross-fitting of Chernozhukov et al., 2018, arXiv 1608.00060, for adapters).

    Sample i, of fold k, passes adapter k in training, and k's gradient is the one that a training on the samples of its
    fold alone would have. In the end, the choice is turned over: a sample is scored by the mean of the adapters that
    have not seen its label.

    Args:
        trainer (`Trainer`): its model, training set and devices are used. Its model gets the adapters.
        num_folds (`int`): 2 or more.
        num_steps (`int`): optimizer steps of the warm-up.

    Attributes:
        folds (`torch.LongTensor` of shape `[num_samples]`): which fold a sample is in.
        loss (`TrainingLoss`): cross entropy that grows into generalized cross entropy: q from 0 to 0.7. The first
            learns from any start, the second doesn't follow labels that the model finds unlikely.
        features (`FrozenFeatures`, *optional*): of the frozen model, kept since the folds' heads were begun with.

    Raises:
        ValueError: what [`FoldAdapters`] raises.
    """

    def __init__(self, trainer: AnyTrainer, num_folds: int, num_steps: int):
        self._trainer = trainer
        self.num_steps = num_steps
        self.features: Any = None
        self.adapters = FoldAdapters(trainer.accelerator.unwrap_model(trainer.model), num_folds)
        labels = _class_labels(trainer)
        folds = assign_folds(len(trainer.train_dataset), num_folds, trainer.args.seed, labels)
        self.folds = torch.from_numpy(folds).to(trainer.args.device)
        self.loss = TrainingLoss("cross_fit", self._loss)
        self._weights = torch.ones(num_folds, device=trainer.args.device)

    @property
    def num_folds(self) -> int:
        return len(self.adapters.names)

    # ---- What a training step asks ----

    def route(self, index: torch.Tensor, turned_by: int = 0) -> AbstractContextManager:
        """A context in which each sample of a batch passes the adapter of its fold, or with `turned_by` that of a fold
        so many further on."""
        which = (self.folds[index] + turned_by) % self.num_folds
        return choose_adapters(self._trainer.model, AdapterChoice(self.adapters.names, which))

    def begin_step(self, batches: Iterable[Mapping[str, Any]], labels_in_step: torch.Tensor | int) -> None:
        """Counts the labels of each fold in the batches of an optimizer step.

        Args:
            labels_in_step: their number in all folds, by which the trainer divides.
        """
        device = self.folds.device
        counts, numbers = torch.zeros(self.num_folds, device=device), torch.arange(self.num_folds, device=device)
        for batch in batches:
            labels = batch[self._trainer.label_names[0]].to(device)
            folds = self.folds[batch[SAMPLE_INDEX].to(device)].where(labels != IGNORED_LABEL, -1)
            counts += (folds.unsqueeze(1) == numbers).sum(dim=0)
        if self._trainer.accelerator.num_processes > 1:
            counts = self._trainer.accelerator.reduce(counts, "mean")
        self._weights = labels_in_step / (self.num_folds * counts.clamp_min(1e-6))

    def weighed(self, parts: Mapping[str, LossPart], index: torch.Tensor) -> dict[str, LossPart]:
        """The parts of the loss so that their sum, divided by the number of labels in the step, is the sum of the
        folds' means. What is logged is the mean of these."""
        weights = self._weights[self.folds[index]]
        return {
            name: replace(part, values=part.values * weights, weight=part.weight * self.num_folds)
            for name, part in parts.items()
        }

    def clip_gradients(self, most: float) -> torch.Tensor:
        """Clips the gradient of each fold's adapter by itself: a common norm would tell each of the others' labels.
        Returns the mean of the norms before."""
        norms = [nn.utils.clip_grad_norm_(self.adapters.parameters(fold), most) for fold in range(self.num_folds)]
        return torch.stack(norms).mean()

    def _loss(self, evidence: LossEvidence) -> dict[str, torch.Tensor]:
        progress = min((self._trainer.state.global_step + 1) / self.num_steps, 1.0)
        return {"cross_fit": generalized_cross_entropy(evidence.logits, evidence.labels, GCE_Q * progress)}

    # ---- The end ----

    def score(self, dataloader: DataLoader) -> HeldOutScores:
        """Passes over the training set, one fewer than there are folds: what the adapters of the other folds say of
        each sample.

        Args:
            dataloader (`DataLoader`): of [`~hf_clear.passes.sample_dataloader`].
        """
        trainer = self._trainer
        tables: list[torch.Tensor] = []  # scores and labels
        for turned_by in range(1, self.num_folds):

            def rows_of(model: nn.Module, batch: dict[str, Any], index: torch.Tensor, turned_by: int = turned_by):
                inputs = trainer._prepare_inputs(batch)
                labels = inputs.pop(trainer.label_names[0])
                with torch.no_grad(), trainer.compute_loss_context_manager(), self.route(index, turned_by):
                    logits, labels = scores_and_labels(model(**inputs), labels)
                return [logits.float(), labels.long()]

            found, labels = tables_by_index(trainer, dataloader, rows_of, description="Scores from other folds")
            tables = [tables[0].add_(found) if tables else found, labels]
        scores, labels = tables
        return HeldOutScores(scores.div_(self.num_folds - 1), labels, self.features)


def _class_labels(trainer: AnyTrainer) -> np.ndarray | None:
    """The given classes, as far as they are known without making items; None if they are not."""
    labels = labels_without_items(trainer.train_dataset, label_names(trainer))
    if labels is None or len(labels) == 0 or np.ndim(labels[0]) > 0 or any(label is None for label in labels):
        return None
    return np.asarray(labels)
