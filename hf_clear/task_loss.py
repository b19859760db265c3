"""The task loss `L(f, y)`: plain cross entropy, unless something below CleaR has a loss of its own.

Class weights, router losses, a `compute_loss_func` or the metrics of another trainer then work under CleaR because
nobody takes their place: the loss is what `super().compute_loss` gives.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import accelerate
import peft
import torch
import transformers
from torch import nn
from transformers import PreTrainedModel, Trainer
from transformers.loss.loss_utils import LOSS_MAPPING

from ._modes import mode
from ._names import IGNORED_LABEL
from ._scores import scores_and_labels, scores_of
from ._typing import AnyTrainer
from ._unwrap import base_of
from .losses import cross_entropy

_LIBRARIES = tuple(
    os.path.dirname(str(library.__file__)) + os.sep for library in (transformers, peft, accelerate, torch)
)
_WAYS_OUT = (
    "Or put your class below CleaR, which takes its loss as the task loss: `class MyTrainer(ClearMixin, YourTrainer)`; "
    "or pass a `compute_loss_func`."
)
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
        adapter_acts (`bool`): whether predictions differ from those of the frozen model: of a new LoRA, they don't.
    """

    labels_tokens: bool
    base_loss: str | None
    base_predicts: bool = True
    adapter_acts: bool = False


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


def base_loss_of(trainer: AnyTrainer, mixin: type) -> str | None:
    """What computes the loss in the place of the model: a class between `mixin` and `Trainer` that has a
    `compute_loss`, or a `compute_loss_func`. None if nothing does."""
    mro = type(trainer).__mro__
    for cls in mro[mro.index(mixin) + 1 : mro.index(Trainer)]:
        if "compute_loss" in vars(cls):
            return f"{cls.__name__}.compute_loss"
    return None if trainer.compute_loss_func is None else "compute_loss_func"


def not_reached(trainer: AnyTrainer, mixin: type, *names: str) -> str:
    """Why a training step was not CleaR's, for a message: which method of which class above `mixin` takes its place.

    Args:
        names (`str`): the methods that may have.
    """
    mro = type(trainer).__mro__
    above = [(f"{cls.__name__}.{name}", name) for cls in mro[: mro.index(mixin)] for name in names if name in vars(cls)]
    what, name = above[0] if above else (names[0], names[0])
    if name in vars(trainer):  # assigned: it has no `super()`
        return f"`{name}` was set on the trainer itself, so that nothing is routed. {_WAYS_OUT}"
    return (
        f"`{what}` has not left this training step to `super().{name}(...)`: it would not be routed, as under plain "
        f"Trainer. Call `super().{name}(...)` in every step, once. {_WAYS_OUT}"
    )


def is_foreign(model: nn.Module) -> bool:
    """Whether code that is not of transformers computes the model's loss: its `forward`, a wrapper around it, or a loss
    function that was set or registered."""
    base = base_of(model)
    if not isinstance(base, PreTrainedModel) or type(base).loss_function is not PreTrainedModel.loss_function:
        return True
    functions = [vars(base).get("forward", type(base).forward), getattr(base, "_loss_function", None)]
    return _any_foreign(*functions, LOSS_MAPPING.get(cast(str, getattr(base, "loss_type", None))))


def model_loss_of(
    model: nn.Module, labels: torch.Tensor, shift: bool, predict: Callable[[torch.Tensor], Any]
) -> str | None:
    """The loss of the model, for a message, if it has another than plain cross entropy; None if it is that, or if the
    model computes no loss.

    Code that is not of transformers is taken at its word: a loss that it gives is its own, in evaluation mode or in
    training mode. A loss of transformers is compared with cross entropy; if hooks could change it, in both modes and
    for all classes.

    Args:
        labels (`torch.LongTensor` of shape `[batch]` or `[batch, tokens]`): of a batch.
        shift (`bool`): whether labels are predicted one token ahead.
        predict (`Callable`): gives the model's outputs for that batch and such labels, in the mode that it is in.
    """
    name = f"{type(base_of(model)).__name__}'s own loss"
    if is_foreign(model):
        outputs = predict(labels), _in_training(model, lambda: predict(labels))
        return name if any(_loss_in(part) is not None for part in outputs) else None
    if getattr(base_of(model).config, "output_router_logits", False):
        return name
    outputs = predict(labels)
    is_plain = _is_plain(model, outputs, labels, shift)
    hooks = [hook for module in (model, base_of(model)) for hook in module._forward_hooks.values()]
    if is_plain and _any_foreign(*hooks):
        num_labels, numbers = scores_of(outputs).shape[-1], torch.arange(labels.numel(), device=labels.device)
        for first in range(0, num_labels, len(numbers)):
            others = ((first + numbers) % num_labels).view_as(labels)
            is_plain &= _is_plain(model, predict(others), others, shift)
            is_plain &= _is_plain(model, _in_training(model, lambda: predict(others)), others, shift)  # noqa: B023
    return None if is_plain else name


def takes(model: nn.Module, name: str) -> bool:
    """Whether the model has an argument of this name, or takes any."""
    parameters = inspect.signature(base_of(model).forward).parameters.values()
    return any(parameter.name == name or parameter.kind == parameter.VAR_KEYWORD for parameter in parameters)


def _is_plain(model: nn.Module, outputs: Any, labels: torch.Tensor, shift: bool) -> bool:
    """Whether the loss among the outputs, if there is one, is the mean cross entropy of the labels: NaN if that is."""
    loss = _loss_in(outputs)
    if loss is None:
        return True
    logits, labels = scores_and_labels(outputs, labels, shift)
    plain = cross_entropy(logits, labels)[labels != IGNORED_LABEL].mean()
    rounding = _ROUNDING.get(_dtype(model), _HALF_ROUNDING)
    return bool(torch.isclose(loss.float(), plain, rtol=rounding, atol=rounding, equal_nan=True))


def _in_training(model: nn.Module, predict: Callable[[], Any]) -> Any:
    """What a model gives in training mode; its buffers (of BatchNorm) stay as they are."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with mode(model, training=True):
            return predict()
    finally:
        for buffer, before in buffers:
            buffer.copy_(before)


def _loss_in(outputs: Any) -> torch.Tensor | None:
    """The loss among a model's outputs: one number."""
    if isinstance(outputs, Mapping):
        loss = outputs.get("loss")
    else:
        loss = outputs[0] if isinstance(outputs, (tuple, list)) else None
    return loss if isinstance(loss, torch.Tensor) and loss.ndim == 0 else None


def _any_foreign(*functions: Any) -> bool:
    return any(not file.startswith(_LIBRARIES) for function in functions for file in _files_of(function))


def _files_of(function: Any) -> Iterator[str]:
    """Where the code of a function is, and of all that it wraps (`functools.wraps` hides it from `__module__`)."""
    while function is not None:
        inner = getattr(function, "__wrapped__", None)
        function = getattr(function, "func", function)  # of a partial
        function = getattr(function, "__func__", function)  # of a method
        if not inspect.isfunction(function):  # an object that can be called
            function = getattr(type(function).__call__, "__func__", type(function).__call__)
        if inspect.isfunction(function):
            yield function.__code__.co_filename
        function = inner


def _dtype(model: nn.Module) -> torch.dtype:
    return next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), torch.float32)
