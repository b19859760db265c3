"""The refit: what is known of the training samples, and how it is learned anew. Only this writes CleaR's store."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader

from ._names import IGNORED_LABEL, TRUE_LABEL
from ._trainer_types import OwnTrainer
from .class_tables import finite_rows, mean_of_members
from .estimators import NamedEstimator
from .estimators._unexplained import GATES_OPEN, mixture_if_unexplained, says_nothing
from .features import predict_features
from .fit import expected_skill, fit_clean_probability
from .folds.cross_fitting import CrossFitting, HeldOutScores
from .identity.training import Identity
from .labels.truth import truly_clean
from .losses import sharpen
from .participation import Participation
from .passes import SamplePredictions, predict_samples, running_predictions, sample_dataloader, say_never_returned
from .probing import FirstFit, fit_before_training
from .routing import ROUTING_STRATEGIES, gate_probability, route, sample_gates
from .sample_store import SampleStore
from .training_args import BEFORE_TRAINING, ClearArguments
from .without_posterior import leave_posterior, say_explained, with_gates

logger = logging.getLogger(__name__)
LOSS, TARGET = range(2)  # what a draw of gates is for: the part of its key after seed and step


class Refit:
    """One training's knowledge of its samples: the store, the dataloader over them, features of the frozen model, gate
    probabilities and ensemble targets. Made when a training is prepared.

    Args:
        trainer (`Trainer`): its model, data set, collator and devices are used.
        settings (`ClearArguments`): as they are when training begins.
        num_layers (`int`): rows of gates.
        takes_part (`torch.BoolTensor` of shape `[num_samples]` or None): see [`Participation`].

    Attributes:
        store (`SampleStore`): read it, and leave the writing to this class.
        loss (`TrainingLoss`): the training loss with its settings; in a cross-fitting warm-up, that one's.
        cross_fitting (`CrossFitting`, *optional*): the warm-up of that kind, while it goes on.
        ensemble_source (`str`): where its targets come from.
        keeps_predictions (`bool`): whether there is a running mean of each sample's predictions in training.
        labels_tokens (`bool`): whether every token has a label, instead of every sample.
        true_labels (`np.ndarray` of shape `[num_samples]`, *optional*): -100 if unknown.
    """

    def __init__(self, trainer: OwnTrainer, settings: ClearArguments, num_layers: int, takes_part: torch.Tensor | None):
        self.settings, self.num_layers, self.labels_tokens = settings, num_layers, False
        self.true_labels: np.ndarray | None = None
        self.cross_fitting: CrossFitting | None = None
        truth = [TRUE_LABEL] * ROUTING_STRATEGIES.find(settings.clear_routing, "clear_routing").needs_truth
        self._identity = Identity.of(trainer, trainer.method_settings(), truth)
        self.store = SampleStore.empty(len(trainer.train_dataset), trainer.args.device, self._identity.as_json())
        self._trainer, self.participation = trainer, Participation(takes_part)
        self._gate_probability: torch.Tensor | None = None
        self._frozen_features: torch.Tensor | None = None
        self._asked: ClearArguments | None = None  # see `_go_by_gates`
        self._all_act = self._told_of_missing = False
        self._never_returned = torch.zeros_like(self.store.labels, dtype=torch.bool)  # by the collator
        self.resolve()

    def resolve(self) -> None:
        """Takes what follows from the settings as they are now. At each refit, since callbacks may change them."""
        self.loss = self.settings.get_training_loss()
        self.ensemble_source = self.settings.ensemble_source(self.labels_tokens)
        needs_targets = self.loss.uses_target and self.ensemble_source == "online"
        self.keeps_predictions = needs_targets or self.settings.clear_loss_source == "online"
        if self.cross_fitting is not None:
            self.loss, self.keeps_predictions = self.cross_fitting.loss, False

    @functools.cached_property
    def dataloader(self) -> DataLoader:
        """Over all samples. Made once: `accelerator.prepare` keeps what it is given."""
        return sample_dataloader(self._trainer, self._trainer.train_dataset)

    def run(self, epoch: int, estimator: NamedEstimator, held_out: HeldOutScores | None = None) -> dict[str, float]:
        """Fits clean probabilities anew at the beginning of an epoch (counted from 0), and all that follows from them.
        `held_out` is what a cross-fitting warm-up has ended with. Returns what was found, for the log."""
        self.resolve()
        if self.loss.uses_posterior and self.store.posterior is None and self.store.is_fitted:
            self._go_by_gates()  # a run is resumed that did
        settings, store = self.settings, self.store
        logs = self._begin_anew_if_lost(epoch, estimator)
        anew = store.is_provisional and not store.is_fitted
        before_training = settings.clear_warmup in BEFORE_TRAINING and (store.is_fitted or epoch == 0 or anew)
        has_evidence = settings.clear_warmup == "evidence" and store.is_fitted
        is_warmup = epoch < settings.clear_warmup_epochs and not has_evidence
        if (is_warmup and not before_training) or epoch == store.fitted_epoch:
            return logs
        if held_out or (before_training and not store.is_fitted):
            of_store = (self._fit, self._begin, store.note_held_out, lambda: store.posterior, held_out, anew)
            logs, fits = fit_before_training(FirstFit(self._trainer, settings, self.bypassed, estimator, *of_store))
            if not fits:  # plain epochs come first
                return logs
        elif not is_warmup:
            predictions, features = self._predictions(estimator.uses_probabilities), self._features_for(estimator)
            if self._is_open and settings.clear_loss_source == "online":
                # By those of a pass, a mixture tells wrong labels better, if it comes to that.
                predictions = replace(predictions, losses=self._predict(keep_probabilities=False).losses)
            logs = self._fit(estimator, predictions, features)
        store.fitted_epoch, self._gate_probability = epoch, None
        left_out = self._leave_out()
        if self.loss.uses_target and self.ensemble_source == "epoch":
            store.targets = self._ensemble().to(store.losses.device)
        return logs | left_out if logs else {}

    def _begin_anew_if_lost(self, epoch: int, estimator: NamedEstimator) -> dict[str, float]:
        """Begins anew if plain epochs have left a model that says nothing, by training and by a pass. Returns what
        training says, for the log."""
        by_evidence = self.settings.clear_warmup == "evidence" and self.settings.clear_evidence != "none"
        if not (epoch > 0 and by_evidence and self.loss.uses_posterior and self._trainer.may_begin_anew(epoch)):
            return {}
        ask = functools.partial(expected_skill, self._trainer, self.store, estimator, self._features_for(estimator))
        told, is_pass = ask(self._predictions(True)), self.settings.clear_loss_source != "online"
        if says_nothing(told) and (is_pass or says_nothing(ask(self._predict()))):
            self._trainer.begin_anew()
            self.store.is_provisional = True
        return told

    def _fit(
        self, estimator: NamedEstimator, predictions: SamplePredictions, features: torch.Tensor | None
    ) -> dict[str, float]:
        follows = self.store.is_provisional and not self.store.is_fitted  # until the next refit, whatever it is worth
        least, in_force = self.settings.clear_min_explained, self.loss.uses_posterior and not self._is_open
        if least > 0 and not follows and (self._asked is not None or self.loss.uses_posterior):
            at_least = float("inf") if self.store.keeps_gates else least
            may_open = (self._asked or self.settings).clear_routing == "none"
            estimator = mixture_if_unexplained(estimator, at_least, in_force, may_open)
        logs = fit_clean_probability(self._trainer, self.store, estimator, predictions, features, self.true_labels)
        self.store.is_provisional, self.store.gates_open = follows, logs.get(GATES_OPEN) == 1
        if self.loss.uses_posterior and self.store.posterior is None:
            leave_posterior(self._trainer, self.loss.name, estimator, logs, least)
            self.store.keeps_gates = in_force
            self._go_by_gates()
            self._begin(predictions)
        elif self._asked is not None and self.store.posterior is not None:
            say_explained(self._trainer, logs)
            self.settings, self._asked, self.store.targets = self._asked, None, None
            self.resolve()
            self._begin(predictions)
        return logs

    @property
    def _is_open(self) -> bool:
        """Whether it is open if training follows a posterior: gates do, one is followed for an epoch alone, or nothing
        speaks against any label so far."""
        if self._asked is not None or not self.loss.uses_posterior:
            return self._asked is not None
        p = self.store.clean_probability[self.store.losses.isfinite()]
        is_open = self.store.is_provisional or self.store.posterior is None or not (p < 1).any()
        return self.settings.clear_min_explained > 0 and is_open

    def _go_by_gates(self) -> None:
        """Trains as CleaR with gates until there is a posterior, if that may be."""
        if self.loss.uses_posterior and self.settings.clear_min_explained > 0:
            self.settings, self._asked = with_gates(self.settings, of_labels=True), self.settings
            self.resolve()

    def _predictions(self, keep_probabilities: bool) -> SamplePredictions:
        """What the fit looks at: one pass over the training set in evaluation mode with every module active. With
        `clear_loss_source="online"` no pass, but the running mean of the predictions of training (routed, with
        dropout); samples that it has not seen are predicted."""
        store, is_online = self.store, self.settings.clear_loss_source == "online"
        unseen: torch.Tensor | None = None
        if self.keeps_predictions:
            unseen = torch.ones_like(store.labels).bool() if store.targets is None else store.targets.sum(dim=1) == 0
            unseen = unseen.nonzero().squeeze(1) if (unseen & ~self._never_returned).any() else None
        if not is_online or unseen is not None:
            predictions = self._predict(keep_probabilities=keep_probabilities or unseen is not None)
            if unseen is not None:
                self._begin(predictions, unseen)
            if not is_online:
                return predictions
        return running_predictions(cast(torch.Tensor, store.targets), store.labels, keep_probabilities)

    def _ensemble(self) -> torch.Tensor:
        """`f_ens` for every training sample: the mean of N routed predictions, `[num_samples, num_labels]`, before any
        temperature; a row of zeros if they are not finite."""

        def probabilities(member: int) -> torch.Tensor:
            def gated(index: torch.Tensor) -> contextlib.AbstractContextManager:
                return route(self._trainer.model, self.gates(index, TARGET, member))

            return cast(torch.Tensor, self._predict(gated).probabilities)

        return mean_of_members(probabilities, self.settings.clear_ensemble_size)

    def _features_for(self, estimator: NamedEstimator) -> torch.Tensor | None:
        """The frozen model's features of every training sample, `[num_samples, hidden_size]`, if it uses them."""
        if estimator.uses_features and self._frozen_features is None:  # once
            self._frozen_features = predict_features(self._trainer, self.dataloader, self.bypassed).mean
        return self._frozen_features if estimator.uses_features else None

    def _predict(self, context: Callable | None = None, keep_probabilities: bool = True) -> SamplePredictions:
        predictions = predict_samples(
            self._trainer, self.dataloader, context, keep_probabilities=keep_probabilities, description="Refit"
        )
        self._never_returned = predictions.never_returned.to(self.store.losses.device)
        if self._never_returned.any() and not self._told_of_missing:
            self._told_of_missing = True
            logger.warning(say_never_returned(self._never_returned))
        return predictions

    def _leave_out(self) -> dict[str, float]:
        if self.participation.takes_part is None or not self.store.is_fitted:
            return {}
        least = 0.0 if self.store.gates_open else self.settings.clear_min_clean_probability
        return self.participation.leave_out(self.store.clean_probability, least)

    def bypassed(self, index: torch.Tensor) -> contextlib.AbstractContextManager:
        """A context in which every module is bypassed for a batch: the frozen base model."""
        return route(self._trainer.model, torch.zeros(self.num_layers, len(index), dtype=torch.bool))

    def gates(self, index: torch.Tensor, *purpose: int) -> torch.Tensor | None:
        """Gates for a batch in this step, a bool tensor `[num_layers, batch]`; None while nothing is routed."""
        if self.store.is_fitted:
            probability = self._gate_probabilities()
            if self._all_act:
                return None
            probability = probability[index]
        elif self.settings.clear_warmup_random_routing:
            probability = torch.full(index.shape, self.settings.clear_gamma, device=index.device)
        else:
            return None
        key = (self._trainer.args.seed, self._trainer.state.global_step, *purpose)
        return sample_gates(probability, self.num_layers, index, key)

    def clean_probability(self, index: torch.Tensor) -> torch.Tensor | None:
        """Of a batch, `[batch]` or for tokens `[batch, 1]`; None before the first fit, or if the loss doesn't ask."""
        if not (self.store.is_fitted and self.loss.uses_clean_probability):
            return None
        probability = self.store.clean_probability[index]
        return probability.unsqueeze(1) if self.labels_tokens else probability

    def posterior(self, index: torch.Tensor) -> torch.Tensor | None:
        """Of a batch, `[batch, num_labels]`; None before the first fit, or if the loss doesn't ask."""
        table = self.store.posterior
        return None if table is None or not self.loss.uses_posterior else table[index].float()

    def target(self, index: torch.Tensor, predict: Callable[..., torch.Tensor]) -> torch.Tensor | None:
        """`f_ens` of a batch, the mean of N routed predictions without gradient and without dropout: `[batch,
        num_labels]` or `[batch, tokens, num_labels]`. None until there are any, or if the loss doesn't use it.

        Args:
            predict (`Callable`): from gates to probabilities of this batch, for the source `"step"`.
        """
        temperature, size = self.settings.clear_ensemble_temperature, self.settings.clear_ensemble_size
        targets, by_step = self.store.targets, self.ensemble_source == "step"
        if not self.loss.uses_target or (by_step and not self.store.is_fitted):
            return None
        if not by_step:
            return None if targets is None else sharpen(targets[index].float(), temperature)
        target: Any = sum(predict(self.gates(index, TARGET, member)) / size for member in range(size))
        return finite_rows(sharpen(target, temperature))

    def record(self, index: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Takes a batch's predictions into the running mean, if one is kept."""
        if self.keeps_predictions:
            given = torch.where(labels == IGNORED_LABEL, self.store.labels[index], labels)
            size = self.settings.clear_ensemble_size
            self.store.add_predictions(index, logits.detach().softmax(dim=-1), given, size)

    def merge(self) -> None:
        """Gives every process what the others recorded."""
        self.store.merge(self._trainer.accelerator)

    def load(self, path: str | os.PathLike, num_labels: int | None) -> None:
        """Goes on from what [`SampleStore.save`] wrote; raises what [`Identity.load_store`] does."""
        self.store = self._identity.load_store(path, self._trainer.args.device, num_labels)
        self._gate_probability = None
        self._leave_out()

    def _gate_probabilities(self) -> torch.Tensor:
        """For every training sample, the probability that a module acts on it: `[num_samples]`. Once a refit."""
        if self._gate_probability is None:
            settings, store = self.settings, self.store
            known = store.clean_probability, settings.clear_gamma, truly_clean(self.true_labels, store.labels)
            own = gate_probability(settings.clear_routing, *known, store.labels, store.losses)
            self._gate_probability, self._all_act = own, store.gates_open or bool((own == 1).all())
        return self._gate_probability

    def _begin(self, predictions: SamplePredictions, index: torch.Tensor | None = None) -> None:
        """Lets the running mean of all samples, or of some, begin with predictions that every process has."""
        if self.keeps_predictions:
            index = torch.arange(len(predictions.labels), device=self._trainer.args.device) if index is None else index
            index = index[~predictions.never_returned.to(index.device)[index]]
            self.store.begin_predictions(index, cast(torch.Tensor, predictions.probabilities), predictions.labels)
