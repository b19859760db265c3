"""From a model's outputs to class scores beside their labels: heads, language models, encoder-decoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ._names import IGNORED_LABEL
from ._typing import AnyTrainer
from ._unwrap import base_of


def scores_and_labels(outputs: Any, labels: torch.Tensor, shift: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """The class scores among a model's outputs (a `ModelOutput`, a tuple), in float32, and the labels in
    the places that they are predicted in.

    Args:
        labels (`torch.LongTensor` of shape `[batch]` or `[batch, tokens]`): one class a sample, or one a token.
        shift (`bool`, *optional*, defaults to `False`): see [`shifts_labels`].

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: `[*labels.shape, num_labels]` and the shape of `labels`.

    Raises:
        ValueError: if there is no row of class scores for each label.
    """
    logits = scores_of(outputs)
    if labels.ndim not in (1, 2) or logits.shape[:-1] != labels.shape:
        raise ValueError(
            "hf_clear needs one class a sample or one a token: expected labels of shape [batch] and logits of shape "
            "[batch, num_labels], or [batch, tokens] and [batch, tokens, num_labels]; got "
            f"{list(labels.shape)} and {list(logits.shape)}."
        )
    return logits.float(), shifted(labels) if shift and labels.ndim == 2 else labels


def scores_in(outputs: Any) -> torch.Tensor | None:
    """The class scores among a model's outputs, with a loss or without: `logits`, or the first tensor that has rows; or
    themselves. None if there are none."""
    if isinstance(outputs, Mapping):
        return outputs.get("logits")
    outputs = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
    return next((part for part in outputs if isinstance(part, torch.Tensor) and part.ndim > 1), None)


def scores_of(outputs: Any) -> torch.Tensor:
    """[`scores_in`] outputs that hold some.

    Raises:
        ValueError: if there are none.
    """
    scores = scores_in(outputs)
    if scores is None:
        raise ValueError(
            "There are no class scores among the outputs of the model: `logits`, or in a tuple a tensor of two "
            "dimensions or more. They give the samples' losses, and consistency its prediction."
        )
    return scores


def shifts_labels(trainer: AnyTrainer) -> bool:
    """Whether the labels of the model are its inputs, to be predicted one token ahead: causal language models."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    model = base_of(model)
    # The trainer goes by the loss's name, and by the class's name in places: it takes GPT-2 for both.
    return trainer._loss_shifts_labels or type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()


def shifted(labels: torch.Tensor) -> torch.Tensor:
    """Labels `[batch, tokens]` moved to where they are predicted: one to the left, with -100 at the end."""
    return torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL)


def add_decoder_inputs(model: nn.Module, inputs: dict[str, Any], labels: torch.Tensor) -> None:
    """Adds what an encoder-decoder language model makes of its labels, if it isn't given these."""
    prepare = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if labels.ndim == 2 and prepare is not None and "decoder_input_ids" not in inputs:
        inputs["decoder_input_ids"] = prepare(labels=labels)
