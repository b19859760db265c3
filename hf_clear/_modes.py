"""The mode that a forward pass runs in: random generators, dropout, precision."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from transformers import TrainingArguments


@contextlib.contextmanager
def random_state_preserved(model: nn.Module | None = None) -> Iterator[None]:
    """Leaves the generators of Python, numpy and torch as they were. Of several CUDA devices, that in use, and those
    that `model` is on: to ask for the state of another would take memory of it."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(_cuda_devices(model) if torch.cuda.is_available() else None):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _cuda_devices(model: nn.Module | None) -> list[torch.device]:
    found = {parameter.device for parameter in model.parameters() if parameter.is_cuda} if model is not None else set()
    if torch.cuda.is_initialized():
        found.add(torch.device("cuda", torch.cuda.current_device()))
    return list(found)


@contextlib.contextmanager
def mode(model: nn.Module, training: bool) -> Iterator[None]:
    """All of the model in one mode; afterwards each module is in the mode that it was in. One of them may have been set
    by its owner to another than the model, such as a frozen BatchNorm."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was_training in before:
            module.training = was_training


def evaluation_mode(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """No dropout; afterwards each module is in the mode that it was in."""
    return mode(model, training=False)


def low_precision(args: TrainingArguments) -> contextlib.AbstractContextManager:
    """Autocast for predictions without gradient, if `bf16_full_eval` or `fp16_full_eval` asks for it. The weights
    stay as they are, since training goes on with them."""
    if not (args.bf16_full_eval or args.fp16_full_eval):
        return contextlib.nullcontext()
    return torch.autocast(args.device.type, torch.bfloat16 if args.bf16_full_eval else torch.float16)
