"""The look at a first batch before CleaR trains: whether it can be routed, and what the task loss is."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import nn

from .._modes import evaluation_mode, random_state_preserved
from .._names import IGNORED_LABEL, TRUE_LABEL
from .._scores import add_decoder_inputs, scores_and_labels, shifts_labels
from .._typing import AnyTrainer
from ..class_tables import say_table_size, table_type
from ..estimators import NamedEstimator, get_estimator
from ..estimators.noise_model import check_num_labels
from ..labels.known import labels_without_items
from ..labels.truth import true_labels_of
from ..losses import LossEvidence, TrainingLoss
from ..probing import find_head
from ..refit import Refit
from ..routing import ROUTING_STRATEGIES, gate_probability
from ..sample_index import SAMPLE_INDEX, IndexedDataset, label_names
from ..task_loss import FirstBatch, base_loss_of, is_foreign, model_loss_of, takes
from ..training_args import BEFORE_TRAINING, BY_EVIDENCE, ClearArguments
from .before_training import warn_of_idle_settings
from .fallback import settings_for_task

_SAMPLES = 4  # some: one would not show that rows are no samples


def check_first_batch(trainer: AnyTrainer, refit: Refit, estimator: NamedEstimator | None, mixin: type) -> FirstBatch:
    """Sends a few training samples through the bypassed model, so that what can't be routed shows before the first
    step. They are not more than a training batch has, for collators and memory that want few. Changes no random state.

    Args:
        estimator (`NamedEstimator`, *optional*): in place of `clear_estimator`.
        mixin (`type`): the class whose loss the classes below it in the trainer's MRO give.

    Raises:
        ValueError: if a module can't be routed, or settings don't fit the task or the model's loss.
    """
    model, label_name, shift = trainer.model, trainer.label_names[0], shifts_labels(trainer)
    base_loss = base_loss_of(trainer, mixin)
    with random_state_preserved(model), torch.no_grad(), evaluation_mode(model):
        dataset, collate = cast(IndexedDataset, refit.dataloader.dataset), refit.dataloader.collate_fn
        size = min(_SAMPLES, trainer._train_batch_size, len(dataset))
        batch = trainer._prepare_inputs(collate(dataset.__getitems__(_rows(trainer, size))))
        if label_name not in batch:
            raise ValueError(
                f"The collator gives no {label_name!r}, which `label_names` says the labels are called; it gives "
                f"{', '.join(map(repr, sorted(batch.keys() - {SAMPLE_INDEX})))}. Leave `label_names` out, or give the "
                "name after collation: `DataCollatorWithPadding` renames 'label' to 'labels'."
            )
        labels, index = batch.pop(label_name), batch.pop(SAMPLE_INDEX)
        add_decoder_inputs(model, batch, labels)
        unwrapped = trainer.accelerator.unwrap_model(model)
        made_up = torch.arange(labels.numel(), device=labels.device).view_as(labels) % 2  # so that each label counts
        asks_model = base_loss is None and takes(unwrapped, label_name)

        def outputs_now() -> Any:
            if asks_model and not is_foreign(unwrapped):
                return model(**batch, **{label_name: made_up})
            return _predict_without_labels(model, batch, label_name)  # which may know no predictions without labels

        with refit.bypassed(index):
            outputs = outputs_now()
            logits, _ = scores_and_labels(outputs, labels)
            _check_finite(unwrapped, logits)

            def predict(labels: torch.Tensor) -> Any:
                is_known = labels is made_up and not is_foreign(unwrapped)
                return outputs if is_known else model(**batch, **{label_name: labels})

            if asks_model:
                base_loss = model_loss_of(unwrapped, made_up, shift, predict)
            labels_tokens = labels.ndim == 2
            refit.settings = settings_for_task(trainer, refit.settings, batch, labels_tokens, base_loss)
        acts = False
        if refit.settings.clear_warmup != "epochs":  # the head may be fitted anew
            acts = not torch.equal(scores_and_labels(outputs_now(), labels)[0], logits)
    refit.labels_tokens = labels_tokens
    refit.resolve()
    estimator = estimator or get_estimator(refit.settings.clear_estimator)
    refit.true_labels = None if refit.labels_tokens else true_labels_of(trainer.train_dataset)
    if refit.labels_tokens:
        _check_tokens(refit.settings, estimator)
    elif "noise_model" in estimator.name.split("+"):
        check_num_labels(logits.shape[-1])
    estimator.check_held_out(refit.settings.clear_warmup in BY_EVIDENCE)
    if refit.settings.clear_warmup in BEFORE_TRAINING:
        find_head(trainer.accelerator.unwrap_model(model), refit.settings.probe_head)
    if refit.loss.uses_posterior and estimator.gives_posterior is False:
        raise ValueError(
            f"`clear_loss={refit.loss.name!r}` trains on the posterior over the true class, and the estimator "
            f"{estimator.name!r} gives none. Use 'noise_model', or another loss, or all settings of a `preset`."
        )
    strategy = ROUTING_STRATEGIES.find(refit.settings.clear_routing, "clear_routing")
    if strategy.needs_truth and refit.true_labels is None:
        raise ValueError(
            f"`clear_routing={strategy.name!r}` needs to know the truth: one true label a sample in a column "
            f"{TRUE_LABEL!r} of the training set (a datasets.Dataset), -100 if unknown."
        )
    if strategy.needs_labels and refit.labels_tokens:
        raise ValueError(
            f"`clear_routing={strategy.name!r}` needs one label for each sample, and here every token has one: 'clean' "
            "does without."
        )
    if not refit.labels_tokens:
        _say_memory(refit, logits.shape[-1])
    _check_loss(trainer, refit, base_loss)
    _try_loss(refit.loss, logits, made_up)
    _try_strategy(refit)
    warn_of_idle_settings(refit.settings)
    return FirstBatch(refit.labels_tokens, base_loss, adapter_acts=acts)


def _rows(trainer: AnyTrainer, size: int) -> list[int]:
    """A few samples from all over the training set, of several labels if these are known: the more they differ, the
    more they show about a collator."""
    num_samples = len(trainer.train_dataset)
    rows = sorted({place * (num_samples - 1) // max(size - 1, 1) for place in range(size)})
    labels = labels_without_items(trainer.train_dataset, label_names(trainer))
    if labels is not None and size > 1 and np.ndim(labels[0]) == 0 and len({labels[row] for row in rows}) == 1:
        rows[-1] = next((row for row, label in enumerate(labels) if label != labels[rows[0]]), rows[-1])
    return rows


def _check_finite(model: nn.Module, logits: torch.Tensor) -> None:
    """Makes sure that the model predicts numbers.

    Raises:
        ValueError: if no prediction is a number: nothing would be learned, and `Trainer` logs such losses as 0.
    """
    if logits.isfinite().any():
        return
    broken = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    found = "All weights are numbers: is it in the inputs, or float16 that overflows? Train in float32 or bf16"
    if broken:
        others = f" and {len(broken) - 1} more" * (len(broken) > 1)
        found = f"The weights {broken[0]!r}{others} hold NaN or infinity: load the model anew"
    raise ValueError(f"The model predicts NaN or infinity for each of the {len(logits)} samples tried. {found}.")


def _say_memory(refit: Refit, num_labels: int) -> None:
    """What the predictions take that are kept from step to step, or from refit to refit."""
    of_refit, num_samples = refit.loss.uses_target and refit.ensemble_source == "epoch", len(refit.store.losses)
    if refit.keeps_predictions or of_refit:
        say_table_size(num_samples, num_labels, table_type(num_samples, num_labels), is_doubled=of_refit)


def _check_tokens(settings: ClearArguments, estimator: NamedEstimator) -> None:
    source = settings.ensemble_source(labels_tokens=True)
    if source != "step":
        raise ValueError(
            f"`clear_ensemble_source={source!r}` keeps a prediction for every sample, which is too "
            "much if every token has a label. Use 'step', or leave it out."
        )
    if settings.clear_loss_source == "online":
        raise ValueError(
            "`clear_loss_source='online'` keeps a prediction for every sample, which is too much if every token "
            "has a label. Use 'epoch'."
        )
    if settings.clear_warmup in BEFORE_TRAINING:
        raise ValueError(
            f"`clear_warmup={settings.clear_warmup!r}` needs one class a sample, and here every token has a label. Use "
            "'epochs'."
        )
    if estimator.uses_labels:
        raise ValueError(
            f"The estimator {estimator.name!r} compares samples by their class label, and here every token has a "
            "label of its own. Use 'gaussian_mixture' or 'ema_gaussian_mixture'."
        )


def _check_loss(trainer: AnyTrainer, refit: Refit, base_loss: str | None) -> None:
    """A loss that takes the place of the task loss must not drop another one without a word."""
    smoothing = trainer.args.label_smoothing_factor
    if refit.loss.adds_to_task_loss or (base_loss is None and not smoothing):
        return
    lost = base_loss or f"label_smoothing_factor={smoothing}"
    raise ValueError(
        f"`clear_loss={refit.loss.name!r}` takes the place of the task loss, so that {lost} would have no effect. Take "
        "that out; or choose a loss that adds to the task loss, such as 'clear' or 'elr'; or write one that has it in "
        "it (`register_training_loss`)."
    )


def _predict_without_labels(model: nn.Module, batch: dict[str, Any], label_name: str) -> Any:
    try:
        return model(**batch)
    except TypeError as error:
        if label_name not in str(error):
            raise
        raise ValueError(
            f"The model can't predict without `{label_name}` ({error}), as a refit does. Give the argument a default "
            f"in its `forward`: `{label_name}=None`."
        ) from error


def _try_loss(loss: TrainingLoss, logits: torch.Tensor, labels: torch.Tensor) -> None:
    """On made-up evidence of the warm-up, and of what comes after it. Labels are neither all trusted nor all not: the
    logarithm of a 0 would look like a fault of the loss."""
    logits = 1 * logits.detach().requires_grad_()  # no leaf: a loss may change it in place, as it may in training
    trusted = torch.full((len(labels), *[1] * (labels.ndim - 1)), 0.75, device=labels.device)
    evidence = {
        "in the warm-up": LossEvidence(logits, labels, is_warmup=True),
        "after the warm-up": LossEvidence(
            logits,
            labels,
            trusted if loss.uses_clean_probability else None,
            logits.detach().softmax(dim=-1) if loss.uses_target else None,
            posterior=logits.detach().softmax(dim=-1) if loss.uses_posterior else None,
        ),
    }
    for when, given in evidence.items():
        try:
            parts = loss(given)
        except Exception as error:
            raise ValueError(
                f"The training loss {loss.name!r} fails {when}: {type(error).__name__}: {error}"
            ) from error
        wrong = [name for name, part in parts.items() if not part.values.isfinite().any()]
        if wrong and logits.isfinite().all():
            raise ValueError(
                f"The part {wrong[0]!r} of the training loss {loss.name!r} is not finite {when}, for any of a few "
                "samples whose predictions are: nothing would be learned from it, and `Trainer` logs no loss that is "
                "not finite."
            )
        if not parts and not loss.adds_to_task_loss:
            raise ValueError(
                f"The training loss {loss.name!r} gives no part {when}, and takes the place of the task loss: nothing "
                "would be trained. Return a part, or register it with `adds_to_task_loss=True`."
            )
        if not loss.adds_to_task_loss and not any(part.values.requires_grad for part in parts.values()):
            raise ValueError(
                f"No part of the training loss {loss.name!r} has a gradient {when}: nothing would be trained. Compute "
                "at least one from `evidence.logits`, without `detach()` and outside of `torch.no_grad()`."
            )


def _try_strategy(refit: Refit) -> None:
    num_samples = len(refit.store.losses)
    is_clean = None if refit.true_labels is None else torch.ones(num_samples)
    p, losses = torch.ones(num_samples), torch.linspace(0, 1, num_samples)
    labels = torch.tensor([0, 1, IGNORED_LABEL]).repeat(num_samples)[:num_samples]
    gate_probability(refit.settings.clear_routing, p, refit.settings.clear_gamma, is_clean, labels, losses)
