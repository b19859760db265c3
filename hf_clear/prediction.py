"""Forward passes over the training set without gradient, with results by sample index."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer

from .losses import cross_entropy
from .sample_index import SAMPLE_INDEX, indexed_dataloader


@dataclass
class SamplePredictions:
    """Predictions for a data set; row i belongs to sample i. On CPU, the same on every process.

    Attributes:
        probabilities (`torch.Tensor` of shape `[num_samples, num_labels]`): softmax of the logits.
        losses (`torch.Tensor` of shape `[num_samples]`): cross entropy with the given label, in nats.
        labels (`torch.LongTensor` of shape `[num_samples]`): the given labels.
    """

    probabilities: torch.Tensor
    losses: torch.Tensor
    labels: torch.Tensor


def per_sample_losses(trainer: Trainer, dataset: Dataset | None = None) -> np.ndarray:
    """The cross entropy of every sample with its given label, in evaluation mode (no dropout, nothing routed).

    Works with a stock [`~transformers.Trainer`] too: together with [`~hf_clear.gaussian_mixture`] it finds suspect
    labels after any training. The state of all random generators is left as it was.

    Args:
        trainer (`Trainer`): its model, collator, evaluation batch size and devices are used.
        dataset (`torch.utils.data.Dataset`, *optional*): a map-style data set; the training set by default.

    Returns:
        `np.ndarray` of shape `[num_samples]`, in nats, in the order of the data set; the same on every process.

    Example:

    ```python
    >>> losses = per_sample_losses(trainer)
    >>> suspects = np.argsort(gaussian_mixture(losses).clean_probability)
    ```
    """
    dataset = trainer.train_dataset if dataset is None else dataset
    return predict_samples(trainer, sample_dataloader(trainer, dataset)).losses.numpy()


def sample_dataloader(trainer: Trainer, dataset: Dataset) -> DataLoader:
    """A dataloader for [`predict_samples`]: evaluation order and batch size, every sample, batches with the indices."""
    stock, trainer.args.dataloader_drop_last = trainer.args.dataloader_drop_last, False
    try:
        return indexed_dataloader(
            trainer, dataset, "clean probability", trainer.args.eval_batch_size, trainer._get_eval_sampler
        )
    finally:
        trainer.args.dataloader_drop_last = stock


def predict_samples(
    trainer: Trainer,
    dataloader: DataLoader,
    batch_context: Callable[[torch.Tensor], AbstractContextManager] | None = None,
) -> SamplePredictions:
    """One pass over `dataloader` (from [`sample_dataloader`]) in evaluation mode.

    Each process runs its share, and one all-reduce at the end puts the rows together: no collective in the loop. The
    state of all random generators and the model's training mode are left as they were.

    Args:
        batch_context (`Callable`, *optional*): `batch_context(sample_index)` is entered around each forward pass, to
            route it.

    Raises:
        ValueError: where the model's logits are not one row of class scores a sample.
    """
    accelerator = trainer.accelerator
    # As `Trainer.evaluation_loop`: in training, the model is prepared (autocast, FSDP) and used as it is.
    model = trainer._wrap_model(trainer.model, training=False)
    if len(accelerator._models) == 0 and model is trainer.model:
        model = accelerator.prepare_model(model, evaluation_mode=True)
    num_samples = len(dataloader.dataset)
    table: torch.Tensor | None = None  # per sample: times seen, label, loss, probabilities
    with random_state_preserved(), evaluation_mode(model):
        for batch in dataloader:
            index = batch.pop(SAMPLE_INDEX)
            with batch_context(index) if batch_context is not None else contextlib.nullcontext():
                _, logits, labels = trainer.prediction_step(model, batch, prediction_loss_only=False)
            logits = class_scores(logits, labels)
            rows = torch.cat(
                [
                    torch.ones_like(logits[:, :1]),
                    labels.unsqueeze(1).to(logits),
                    cross_entropy(logits, labels).unsqueeze(1),
                    logits.softmax(dim=-1),
                ],
                dim=1,
            )
            if table is None:
                table = torch.zeros(num_samples, rows.shape[1])
            table[index.cpu()] = rows.cpu()
    if table is None:
        raise ValueError("The data set has no sample.")

    if accelerator.num_processes > 1:  # a sample that several processes saw, to fill their batches, counts once
        table = accelerator.reduce(table.to(accelerator.device), "sum").cpu()
        table /= table[:, :1].clone()
    return SamplePredictions(probabilities=table[:, 3:], losses=table[:, 2], labels=table[:, 1].long())


def class_scores(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """The logits `[batch, num_labels]` among a model's outputs without loss (a `ModelOutput`, a tuple), in float32.

    Raises:
        ValueError: where there is no row of class scores for each label.
    """
    if isinstance(outputs, Mapping):
        logits = outputs["logits"]
    else:
        logits = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
    if logits.ndim != 2 or labels.ndim != 1 or len(logits) != len(labels):
        raise ValueError(
            "CleaR is for classification with one label a sample: expected logits of shape [batch, num_labels] and "
            f"labels of shape [batch], got {list(logits.shape)} and {list(labels.shape)}."
        )
    return logits.float()


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
