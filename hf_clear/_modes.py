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
def random_state_preserved() -> Iterator[None]:
    """Leaves the generators of Python, numpy and torch as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """No dropout; afterwards the model is in the mode that it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def low_precision(args: TrainingArguments) -> contextlib.AbstractContextManager:
    """Autocast for predictions without gradient, if `bf16_full_eval` or `fp16_full_eval` asks for it. The weights
    stay as they are, since training goes on with them."""
    if not (args.bf16_full_eval or args.fp16_full_eval):
        return contextlib.nullcontext()
    return torch.autocast(args.device.type, torch.bfloat16 if args.bf16_full_eval else torch.float16)
