"""The task loss `L(f, y)`: plain cross entropy, unless something below CleaR has a loss of its own.

Class weights, router losses, a `compute_loss_func` or the metrics of another trainer then work under CleaR because
nobody takes their place: the loss is what `super().compute_loss` gives.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import Trainer

from ._names import IGNORED_LABEL
from ._scores import scores_and_labels
from .losses import cross_entropy

_ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-4}  # relative, of a loss in this precision
_HALF_ROUNDING = 2e-2


@dataclass
class FirstBatch:
    """What a look at a first batch found.

    Attributes:
        labels_tokens (`bool`): whether every token has a label, instead of every sample.
        base_loss (`str`, *optional*): what has a loss of its own, which is the task loss then, for messages. None:
            plain cross entropy.
        base_predicts (`bool`): whether that loss comes with class scores that have a gradient.
    """

    labels_tokens: bool
    base_loss: str | None
    base_predicts: bool = True


@dataclass(frozen=True)
class TaskLoss:
    """The task loss of a batch, and the prediction that it is of.

    Attributes:
        name (`str`): in the logs.
        value (`torch.Tensor` of shape `[]`, *optional*): scaled as it is to be; None if another loss takes its place.
        outputs (`Any`): the model's.
        logits (`torch.Tensor` of shape `[*labels.shape, num_labels]`, *optional*): in float32, with gradient; None if
            nobody needs them.
        labels (`torch.LongTensor` of shape `[batch]` or `[batch, tokens]`): in the places that they are predicted in.
        scale (`int`, *optional*, defaults to 1): what `Trainer` divides the sum by before the backward pass.
    """

    name: str
    value: torch.Tensor | None
    outputs: Any
    logits: torch.Tensor | None
    labels: torch.Tensor
    scale: int = 1


def scores_of(outputs: Any) -> torch.Tensor:
    """The class scores among a model's outputs, with a loss or without: `logits`, or the first tensor that has rows.

    Raises:
        ValueError: where there are none.
    """
    if isinstance(outputs, Mapping):
        scores = outputs.get("logits")
    else:
        outputs = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
        scores = next((part for part in outputs if isinstance(part, torch.Tensor) and part.ndim > 1), None)
    if scores is None:
        raise ValueError(
            "There are no class scores (`logits`) among the outputs of the model. They give the samples' losses, and "
            "consistency its prediction."
        )
    return scores


def base_loss_of(trainer: Trainer, mixin: type) -> str | None:
    """What computes the loss in the place of the model: a class between `mixin` and `Trainer` that has a
    `compute_loss`, or a `compute_loss_func`. None if nothing does."""
    mro = type(trainer).__mro__
    for cls in mro[mro.index(mixin) + 1 : mro.index(Trainer)]:
        if "compute_loss" in vars(cls):
            return f"{cls.__name__}.compute_loss"
    return None if trainer.compute_loss_func is None else "compute_loss_func"


def not_reached(trainer: Trainer, mixin: type, *names: str) -> str:
    """Why a training step was not CleaR's, for a message: which method of which class above `mixin` takes its place.

    Args:
        names (`str`): the methods that may have.
    """
    mro = type(trainer).__mro__
    above = [(cls, name) for cls in mro[: mro.index(mixin)] for name in names if name in vars(cls)]
    name = above[0][1] if above else names[0]
    what = f"{above[0][0].__name__}.{name}" if above else name
    return (
        f"`{what}` does not call `super().{name}(...)`: nothing would be routed, and {type(trainer).__name__} would "
        "train as plain Trainer does. Call it; or put your class below CleaR, which takes its loss as the task loss: "
        "`class MyTrainer(ClearMixin, YourTrainer)`; or pass a `compute_loss_func`."
    )


def model_loss_of(model: nn.Module, outputs: Any, labels: torch.Tensor, shift: bool) -> str | None:
    """The loss of the model, for a message, if it has another than plain cross entropy; None if it is that, or if the
    model computes no loss.

    Code that is not of transformers is taken at its word: what its `forward` gives is its loss. Of a model of
    transformers, the loss is compared with cross entropy.

    Args:
        outputs (`Any`): what the model made of a batch with `labels`, with its loss.
        labels (`torch.LongTensor` of shape `[batch]` or `[batch, tokens]`).
        shift (`bool`): whether labels are predicted one token ahead.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    logits, labels = scores_and_labels(scores_of(outputs), labels, shift)
    loss = _loss_in(outputs)
    if loss is None:
        return None
    plain = cross_entropy(logits, labels)[labels != IGNORED_LABEL].mean()
    rounding = _ROUNDING.get(_dtype(base), _HALF_ROUNDING)
    is_plain = torch.isclose(loss.float(), plain, rtol=rounding, atol=rounding)
    has_router_loss = getattr(getattr(base, "config", None), "output_router_logits", False)
    return (
        None if is_plain and _is_of_transformers(base) and not has_router_loss else f"{type(base).__name__}'s own loss"
    )


def takes(model: nn.Module, name: str) -> bool:
    """Whether the model has an argument of this name, or takes any."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    parameters = inspect.signature(base.forward).parameters.values()
    return any(parameter.name == name or parameter.kind == parameter.VAR_KEYWORD for parameter in parameters)


def _loss_in(outputs: Any) -> torch.Tensor | None:
    """The loss among a model's outputs: one number."""
    if isinstance(outputs, Mapping):
        loss = outputs.get("loss")
    else:
        loss = outputs[0] if isinstance(outputs, (tuple, list)) else None
    return loss if isinstance(loss, torch.Tensor) and loss.ndim == 0 else None


def _is_of_transformers(model: nn.Module) -> bool:
    """Whether the loss is computed by code of transformers: its `forward`, with the loss function of its class."""
    if hasattr(model, "_loss_function"):  # set by hand
        return False
    forward = inspect.unwrap(vars(model).get("forward", type(model).forward))
    return getattr(forward, "__module__", "").startswith("transformers.")


def _dtype(model: nn.Module) -> torch.dtype:
    return next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), torch.float32)
