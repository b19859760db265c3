"""What is learned before the model's own adapter is trained: a first fit, and the head. By features of the frozen model
and, after a cross-fitting warm-up, by the scores that it ended with."""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import cast

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset, Subset

from .._processes import run_on_main
from .._trainer_types import OwnTrainer
from .._typing import MapDataset
from ..estimators import NamedEstimator, NoiseModel, fit_noise_model
from ..estimators._matrix_fit import LEAST_SKILL
from ..evidence import EvidenceSource, evidence_sources
from ..features import FrozenFeatures, on_device
from ..fit_checks import no_better_than_chance
from ..folds.cross_fitting import HeldOutScores
from ..passes import SamplePredictions, predict_samples, sample_dataloader
from ..training_args import ClearArguments
from .probe import Probe, features_for_probe, find_head, probe_predictions, set_head, train_probe

logger = logging.getLogger(__name__)

_LEAST_PROBABILITY = torch.finfo(torch.float32).tiny
# For targets, four times the batch at twice the learning rate fits as well in a quarter of the steps; it takes so many.
_BATCH_FACTOR, _LEAST_BATCHES = 4, 20
_SOME = 512  # samples by which a model is told from one that guesses


@dataclass(frozen=True)
class FirstFit:
    """What a fit before training works with.

    Attributes:
        trainer (`Trainer`), settings (`ClearArguments`), estimator (`NamedEstimator`): of the training.
        bypassed (`Callable`): `bypassed(sample_index)` is a context in which the model is the frozen base model.
        fit (`Callable`): `fit(estimator, predictions, mean_features)` puts predictions, and what the estimator makes of
            them, into the store; returns what is logged.
        begin (`Callable`): `begin(predictions)` lets the running mean of the predictions of training begin with these.
        note (`Callable`): `note(clean_probability)` puts what the evidence alone says into the store.
        posterior (`Callable`): returns what the last fit put into the store, `[num_samples, num_labels]` or None.
        held_out (`HeldOutScores`, *optional*): of a cross-fitting warm-up.
        begins_anew (`bool`): whether plain epochs after weak evidence have taught the model nothing. Then the evidence
            is followed as it is.
    """

    trainer: OwnTrainer
    settings: ClearArguments
    bypassed: Callable[[torch.Tensor], AbstractContextManager]
    estimator: NamedEstimator
    fit: Callable[[NamedEstimator, SamplePredictions, torch.Tensor | None], dict[str, float]]
    begin: Callable[[SamplePredictions], None]
    note: Callable[[torch.Tensor], None]
    posterior: Callable[[], torch.Tensor | None]
    held_out: HeldOutScores | None = None
    begins_anew: bool = False

    def features(self, mean: bool, needs_all: bool = True) -> AbstractContextManager[FrozenFeatures]:
        trainer = self.trainer
        needs_mean = mean or self.estimator.uses_features
        known = None if self.held_out is None else self.held_out.features
        if known is not None and (known.mean is not None or not needs_mean):
            return contextlib.nullcontext(known)
        return features_for_probe(
            trainer, trainer.train_dataset, self.settings, needs_mean, self.bypassed, needs_all=needs_all
        )

    def probe(self, features: FrozenFeatures, with_mean: bool = False) -> Probe:
        head = find_head(self.trainer.accelerator.unwrap_model(self.trainer.model), self.settings.probe_head)
        return Probe(head, features.head_shape, cast(torch.Tensor, features.mean).shape[1] if with_mean else None)

    @functools.cached_property
    def keeps_head(self) -> bool:
        """Whether the model's head belongs to its adapter, as after an earlier training: the adapter acts, and with it,
        the model predicts given labels better than by chance. One that is fitted to features without it would not."""
        trainer, data = self.trainer, self.trainer.train_dataset
        if self.begins_anew or not trainer._first_batch.adapter_acts:  # only what has no such head begins anew
            return False
        rows = np.unique(np.linspace(0, len(data) - 1, min(len(data), _SOME)).round().astype(int)).tolist()
        some = data.select(rows) if isinstance(data, datasets.Dataset) else Subset(cast(Dataset, data), rows)
        found = predict_samples(trainer, sample_dataloader(trainer, cast(MapDataset, some)), keep_probabilities=False)
        known = (found.losses.isfinite() & (found.labels >= 0)).numpy()
        predicted = cast(torch.Tensor, found.predicted).numpy()[known]
        keeps = len(predicted) > 0 and no_better_than_chance(predicted, found.labels.numpy()[known]) is None
        if keeps and trainer.is_world_process_zero():
            logger.info("The model has been trained before: its head stays as it is, and is not fitted anew.")
        return keeps

    def train(self, probe: Probe, features: FrozenFeatures, targets: torch.Tensor | None = None) -> None:
        """Trains the probe and gives the model its head, unless it has one that belongs to its adapter."""
        trainer = self.trainer
        shows_progress = not trainer.args.disable_tqdm and trainer.is_local_process_zero()
        settings = copy.copy(self.settings)
        if targets is not None:
            factor = min(_BATCH_FACTOR, max(1, len(targets) // (_LEAST_BATCHES * settings.probe_batch_size)))
            settings.probe_batch_size *= factor
            settings.probe_learning_rate *= math.sqrt(factor)
        train_probe(probe, features, settings, trainer.args.seed, targets=targets, show_progress=shows_progress)
        if not self.keeps_head:
            set_head(trainer, self.settings.probe_head, probe)


def fit_before_training(first: FirstFit) -> tuple[dict[str, float], bool]:
    """The first fit of the warm-ups that take no epoch (`clear_warmup`), and of a cross-fitting one; and the head that
    training goes on with. The model's adapter has seen no label.

    Returns:
        `tuple[dict[str, float], bool]`: what was found, for the log; and whether it is a fit. Without folds, evidence
        may be too weak for one.
    """
    return (_by_probe(first), True) if first.settings.clear_warmup == "linear_probe" else _by_evidence(first)


def _by_probe(first: FirstFit) -> dict[str, float]:
    """`"linear_probe"`: trains the head on features of the frozen base model with generalized cross entropy, as TURN
    does (arXiv 2310.17668), and fits the clean probabilities to the probe's losses."""
    mean = first.settings.probe_features == "mean"
    with first.features(mean) as features:
        probe = first.probe(features, with_mean=mean)
        first.train(probe, features)
        predictions = probe_predictions(probe, features)
        first.begin(predictions)
        return first.fit(first.estimator, predictions, features.mean)


def _by_evidence(first: FirstFit) -> tuple[dict[str, float], bool]:
    """`"evidence"`: scores of every sample from models that have not seen its label (`clear_evidence`), and what the
    noise model makes of them, are the first fit. The head begins as fitted to what is found. `"cross_fit"`: the scores
    of the folds' adapters are one source more, or with `clear_evidence="none"` the only one.

    A target that begins with the errors of weak models is learned with them: if the noise model expects too little of
    its predictions, the evidence is dropped, and the warm-up is one of plain epochs. If one of these ends with a model
    that says nothing, it begins anew by the evidence after all."""
    sources, held_out, features = evidence_sources(first.settings.clear_evidence), first.held_out, None
    with contextlib.ExitStack() as stack:
        if sources or first.estimator.uses_features:
            mean = any(source.features == "mean" for source in sources)
            features = stack.enter_context(first.features(mean, needs_all=False))
        noise = run_on_main(
            first.trainer.accelerator,
            f"The evidence {first.settings.clear_evidence}",
            _noise_model,
            first,
            sources,
            features,
        )
        names = ["cross_fit"] * (held_out is not None) + [source.name for source in sources]
        logs = {f"evidence_scale_{name}": float(scale) for name, scale in zip(names, noise.scales)}
        logs |= {"evidence_gain": noise.gain, "evidence_skill": noise.expected_skill}
        missing = np.flatnonzero((noise.labels >= 0) & ~noise.has_scores)
        if len(missing) and first.trainer.is_world_process_zero():
            logger.warning(
                f"{len(missing)} of {len(noise.labels)} training samples (sample {missing[0]} first) have no score by "
                "the frozen model's features: nothing is known of their labels. Either their features are not finite "
                "(look at these samples, or train in float32 or bf16 instead of fp16), or there are too few samples to "
                "learn from."
            )
        if noise.is_supported:
            first.note(_clean_probability(noise))
        is_weak = noise.expected_skill < LEAST_SKILL or not noise.is_certain
        if held_out is None and not first.begins_anew and is_weak:
            may_leave = first.settings.get_training_loss().uses_posterior and first.settings.clear_min_explained > 0
            can_begin_anew = noise.is_certain and may_leave and not first.keeps_head
            if first.trainer.is_world_process_zero():
                logger.warning(_too_weak(noise, first, can_begin_anew and first.trainer.state.num_train_epochs > 1))
            if can_begin_anew:
                first.trainer.keep_beginning()
            return logs, False
        predictions = _predictions(noise)
        if held_out is not None or first.begins_anew:
            first.begin(predictions)
        logs = {**first.fit(first.estimator, predictions, None if features is None else features.mean), **logs}
        targets = first.posterior()
        targets = torch.from_numpy(noise.target) if targets is None else targets
        tells = targets is not None and bool((targets.max(dim=1).values < 1).any())  # more than the labels as they are
        if features and tells and not first.keeps_head:
            first.train(first.probe(features), features, targets)
    return logs, True


def _too_weak(noise: NoiseModel, first: FirstFit, may_begin_anew: bool) -> str:
    settings, found = first.settings, "nothing about the labels"
    if noise.is_supported and not noise.is_certain:
        found = "something about the labels, but there are too few to be sure of it"
    elif noise.is_supported:
        found = (
            f"little about the labels: predictions from them are expected to go {max(noise.expected_skill, 0):.0%} of "
            f"the way from a constant one to perfect ones, and it takes {LEAST_SKILL:.0%}"
        )
    epochs = max(settings.clear_warmup_epochs, 1)
    plain = f"{epochs} plain epoch" + "s" * (epochs > 1)
    then = f"training begins with {plain} (`clear_warmup_epochs`), and the first fit is to what they predict."
    if epochs >= first.trainer.state.num_train_epochs:
        then = (
            f"this is plain training to its end: the {epochs} plain epochs that come first (`clear_warmup_epochs`) are "
            "not fewer than all. Lower them, or train longer."
        )
    unless = " Unless an epoch ends with a model that says nothing: it begins anew, by what the features say after all."
    found_and_then = f"The frozen features say {found} (`clear_evidence={settings.clear_evidence!r}`). So {then}"
    return found_and_then + unless * may_begin_anew


def _noise_model(first: FirstFit, sources: list[EvidenceSource], features: FrozenFeatures | None) -> NoiseModel:
    """Of the scores of all sources, that of the folds first."""
    scores = [] if first.held_out is None else [first.held_out.scores.numpy()]
    known = cast(FrozenFeatures, features)  # with sources or without folds, there are some
    labels = known.labels if first.held_out is None else first.held_out.labels
    num_labels = scores[0].shape[1] if scores else first.probe(known)(known, slice(0, 1))[0].shape[1]
    for source in sources:
        table = on_device(getattr(known, source.features), first.trainer.args.device)
        scores.append(source(table, known.labels, num_labels, first.trainer.args.seed).cpu().numpy())
    return fit_noise_model(scores, labels.numpy())


def _clean_probability(noise: NoiseModel) -> torch.Tensor:
    """NaN if nothing is known of a sample. In half precision, what is rounded to 1 is not apart from its neighbors."""
    is_known, least = noise.has_scores & (noise.labels >= 0), 2.0**-12 if noise.target.dtype == np.float16 else 0
    return torch.from_numpy(np.where(is_known, noise.clean_probability.clip(least, 1 - least), np.nan)).float()


def _predictions(noise: NoiseModel) -> SamplePredictions:
    """What the sources say before the given label is looked at."""
    labels, f = torch.from_numpy(noise.labels), torch.from_numpy(noise.prediction)
    of_label = f.gather(1, labels.clamp_min(0).unsqueeze(1)).squeeze(1).float()
    losses = -of_label.clamp_min(_LEAST_PROBABILITY).log()
    losses[(labels < 0) | ~torch.from_numpy(noise.has_scores)] = torch.nan  # nothing is known of them
    return SamplePredictions(losses, labels, f)
