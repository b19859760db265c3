"""What the posterior and the warm-up "evidence" ask of a task, and what is trained instead if it doesn't have it."""

from __future__ import annotations

import logging
from typing import Any

from .._typing import AnyTrainer
from ..estimators.noise_model import MOST_CLASSES
from ..evidence import evidence_sources
from ..features import check_features
from ..probing import find_head
from ..sample_index import num_labels
from ..training_args import BY_EVIDENCE, ClearArguments
from ..without_posterior import changed, with_gates

logger = logging.getLogger(__name__)


def settings_for_task(
    trainer: AnyTrainer, settings: ClearArguments, batch: dict[str, Any], labels_tokens: bool, base_loss: str | None
) -> ClearArguments:
    """The settings, or if the task can't have the posterior, those of CleaR with gates (`preset("clear")`); a
    warning says why.

    Args:
        batch (`dict[str, Any]`): the inputs of a few samples, without labels.
        labels_tokens (`bool`): whether every token has a label.
        base_loss (`str`, *optional*): what has a loss of its own, which has to stay.
    """
    loss = settings.get_training_loss()
    if not loss.uses_posterior and settings.clear_warmup not in BY_EVIDENCE:
        return settings
    reason = _reason(trainer, settings, batch, labels_tokens, base_loss)
    if reason is None:
        return settings
    if settings.clear_warmup == "cross_fit":  # has to be asked for, and its adapters are in the model by now
        raise ValueError(f"`clear_warmup='cross_fit'` can't be had here. {reason} Use 'epochs', or leave it out.")
    logger.warning(
        f"{reason} So `clear_loss={settings.clear_loss!r}` with `clear_warmup={settings.clear_warmup!r}` can't be had "
        "here, and this is trained as `preset('clear')`: gates by a mixture of losses, after a warm-up of "
        f"{settings.clear_warmup_epochs} epochs."
    )
    return with_gates(changed(settings, {"clear_warmup": "epochs", "clear_ensemble_source": None}))


def _reason(
    trainer: AnyTrainer, settings: ClearArguments, batch: dict[str, Any], labels_tokens: bool, base_loss: str | None
) -> str | None:
    if labels_tokens:
        return "Every token has a label, and the noise model is for one class a sample."
    num_classes = num_labels(trainer) or 0
    if num_classes > MOST_CLASSES:
        return f"The model has {num_classes} classes, and the noise model is for {MOST_CLASSES} at most."
    by_folds = settings.clear_warmup == "cross_fit"
    if by_folds or settings.get_training_loss().uses_posterior:
        instead = "the loss of the folds" if by_folds else "the posterior"
        if base_loss is not None:
            return f"The task loss is {base_loss}, and {instead} would take its place."
        if trainer.args.label_smoothing_factor:
            return f"`label_smoothing_factor` is a target of its own, and {instead} would take its place."
    if settings.clear_warmup in BY_EVIDENCE and settings.clear_evidence != "none":
        try:
            head = find_head(trainer.accelerator.unwrap_model(trainer.model), settings.probe_head)
            needs_mean = any(source.features == "mean" for source in evidence_sources(settings.clear_evidence))
            check_features(trainer, batch, head, needs_mean)
        except ValueError as error:
            if settings.probe_head is not None:
                raise
            return str(error) + " Or set `clear_evidence='none'`." * by_folds
    return None
