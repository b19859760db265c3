"""The heads that the folds of a cross-fitting warm-up begin with: linear probes, each on the samples of its fold."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import cast

import torch
from peft.utils import ModulesToSaveWrapper

from .._typing import AnyTrainer
from ..evidence import evidence_sources
from ..features import FrozenFeatures
from ..folds.cross_fitting import CrossFitting
from ..training_args import ClearArguments
from .probe import Probe, features_for_probe, find_head, train_probe


def start_fold_heads(
    trainer: AnyTrainer,
    cross_fitting: CrossFitting,
    settings: ClearArguments,
    bypassed: Callable[[torch.Tensor], AbstractContextManager],
) -> None:
    """Trains each fold's head on the frozen base model's features of its samples, so that no adapter has to wait for a
    head that tells it something. Without other evidence than the folds (`clear_evidence="none"`) nothing happens: then
    there may be no such features.

    Args:
        bypassed (`Callable`): `bypassed(sample_index)` is a context in which the model is the frozen base model.
    """
    sources = evidence_sources(settings.clear_evidence)
    if not sources:
        return
    mean = any(source.features == "mean" for source in sources)
    with features_for_probe(trainer, trainer.train_dataset, settings, mean, bypassed, needs_all=False) as features:
        head = find_head(trainer.accelerator.unwrap_model(trainer.model), settings.probe_head)
        names, head_features = cross_fitting.adapters.names, cast(torch.Tensor, features.head)
        probes = [Probe(head, features.head_shape) for _ in names]  # all, before the model's own head becomes the first
        shows_progress = not trainer.args.disable_tqdm and trainer.is_local_process_zero()
        is_known = (features.labels >= 0) & head_features.isfinite().all(dim=1)
        for fold, (name, probe) in enumerate(zip(names, probes)):
            rows = ((cross_fitting.folds.cpu() == fold) & is_known).nonzero().squeeze(1)
            if len(rows) == 0 or not isinstance(head, ModulesToSaveWrapper):
                continue
            own = FrozenFeatures(features.labels[rows], head=head_features[rows], head_shape=features.head_shape)
            train_probe(probe, own, settings, trainer.args.seed, show_progress=shows_progress)
            with torch.no_grad():
                for parameter, probed in zip(head.modules_to_save[name].parameters(), probe.head.parameters()):
                    parameter.copy_(probed)
        size = sum(table.numel() * 4 for table in (features.head, features.mean) if table is not None)
        if size <= settings.probe_feature_memory * 2**30:  # else they are in a file that goes
            cross_fitting.features = features
