"""Forward passes over a data set without gradient, with results by sample index."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.compute
import pyarrow.types as arrow
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import Trainer

from ._modes import evaluation_mode, low_precision, random_state_preserved
from ._names import IGNORED_LABEL
from ._processes import failing_together, run_on_main
from ._scores import add_decoder_inputs, scores_and_labels, shifts_labels
from .files import reserve
from .losses import cross_entropy, per_sample
from .sample_index import SAMPLE_INDEX, indexed_dataloader


@dataclass
class SamplePredictions:
    """Predictions for a data set; row i belongs to sample i. On CPU, the same on every process.

    Attributes:
        losses (`torch.Tensor` of shape `[num_samples]`): cross entropy with the given label, in nats; the mean over a
            sample's tokens where each has its own.
        labels (`torch.LongTensor` of shape `[num_samples]`): the given labels; -100 where each token has its own.
        probabilities (`torch.Tensor` of shape `[num_samples, num_labels]`, *optional*): softmax of the logits; None
            where each token has its own.
    """

    losses: torch.Tensor
    labels: torch.Tensor
    probabilities: torch.Tensor | None = None


@failing_together()
def per_sample_losses(trainer: Trainer, dataset: Dataset | None = None) -> np.ndarray:
    """The cross entropy of every sample with its given label, in evaluation mode (no dropout, nothing routed); where
    every token has a label, the mean over a sample's tokens.

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


def sample_dataloader(trainer: Trainer, dataset: Dataset, needs_labels: bool = True) -> DataLoader:
    """A dataloader for [`predict_samples`]: every sample, batches with the indices, from the longest sequence to the
    shortest, which needs the least padding. Data without `input_ids` stay in the order of evaluation.

    Batches are as large as those of evaluation or, if these are larger, of training, which takes more memory. Once
    `auto_find_batch_size` has shrunk the batches of training, these shrink in proportion.

    Args:
        needs_labels (`bool`, *optional*, defaults to `True`): whether a sample without label is an error.
    """
    args = trainer.args
    batch_size = max(args.eval_batch_size, args.train_batch_size)
    batch_size = max(batch_size * trainer._train_batch_size // args.train_batch_size, 1)
    stock, args.dataloader_drop_last = args.dataloader_drop_last, False
    try:
        return indexed_dataloader(
            trainer,
            dataset,
            "clean probability",
            batch_size,
            lambda dataset: _longest_first(dataset) or trainer._get_eval_sampler(dataset),
            needs_labels=needs_labels,
        )
    finally:
        args.dataloader_drop_last = stock


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
        ValueError: where the model's logits don't fit the labels.
    """

    def rows_of(model: nn.Module, batch: dict[str, Any], index: torch.Tensor) -> torch.Tensor:
        inputs = trainer._prepare_inputs(batch)
        labels = inputs.pop(trainer.label_names[0])
        add_decoder_inputs(trainer.model, inputs, labels)
        # Not `prediction_step`, which generates text in a Seq2SeqTrainer.
        context = batch_context(index) if batch_context is not None else contextlib.nullcontext()
        with torch.no_grad(), trainer.compute_loss_context_manager(), context:
            logits, labels = scores_and_labels(model(**inputs), labels, shifts_labels(trainer))
        loss = per_sample(cross_entropy(logits, labels), labels).unsqueeze(1)
        if labels.ndim == 1:
            return torch.cat([loss, labels.unsqueeze(1).to(loss), logits.softmax(dim=-1)], dim=1)
        return torch.cat([loss, torch.full_like(loss, IGNORED_LABEL)], dim=1)

    table = table_by_index(trainer, dataloader, rows_of)
    return SamplePredictions(
        losses=table[:, 0], labels=table[:, 1].long(), probabilities=table[:, 2:] if table.shape[1] > 2 else None
    )


def table_by_index(
    trainer: Trainer,
    dataloader: DataLoader,
    rows_of: Callable[[nn.Module, dict[str, Any], torch.Tensor], torch.Tensor],
    storage: Path | None = None,
    description: str | None = None,
) -> torch.Tensor:
    """What `rows_of(model, batch, sample_index)` returns for each batch, `[batch, width]`, as rows by sample index:
    `[num_samples, width]`. On CPU or, where `storage` is given, in that file; the same on every process."""
    accelerator = trainer.accelerator
    model = trainer._wrap_model(trainer.model, training=False)
    # In training, the model is prepared (autocast, FSDP) and used as it is. Before, we don't prepare it, as `evaluate`
    # would: accelerate then takes it for prepared when training begins, and leaves out DDP.
    is_prepared = len(accelerator._models) > 0
    if not is_prepared and trainer.place_model_on_device:
        trainer._move_model_to_device(model, trainer.args.device)
    autocast = contextlib.nullcontext() if is_prepared else accelerator.autocast()
    if len(dataloader.dataset) == 0:
        raise ValueError("The data set has no sample.")
    table: torch.Tensor | None = None
    with random_state_preserved(), evaluation_mode(model), autocast, low_precision(trainer.args):
        quiet = description is None or trainer.args.disable_tqdm or not trainer.is_local_process_zero()
        for batch in tqdm(_some_batches(trainer, dataloader), total=len(dataloader), desc=description, disable=quiet):
            index = batch.pop(SAMPLE_INDEX)
            rows = rows_of(model, batch, index)
            rows = torch.cat([torch.ones_like(rows[:, :1]), rows], dim=1)  # how often a sample was seen
            if table is None:
                table = _empty_table(trainer, (len(dataloader.dataset), rows.shape[1]), storage)
            table[index.cpu()] = rows.float().cpu()
    if storage is not None:
        accelerator.wait_for_everyone()  # all have written their rows
    elif accelerator.num_processes > 1:  # a sample that several processes saw, to fill their batches, counts once
        table = accelerator.reduce(table.to(accelerator.device), "sum").cpu()
        table /= table[:, :1].clone()
    return table[:, 1:]


def _some_batches(trainer: Trainer, dataloader: DataLoader) -> Iterator[dict[str, Any]]:
    """The batches of this process, or one with the first sample where it has none, so that it learns what a row is:
    with `even_batches=False`, a small data set may not have one for every process."""
    batch = None
    for batch in dataloader:
        yield batch
    if batch is None:
        yield trainer._prepare_inputs(dataloader.collate_fn(dataloader.dataset.__getitems__([0])))


def _longest_first(dataset: Dataset) -> list[int] | None:
    if not isinstance(dataset, datasets.Dataset) or "input_ids" not in dataset.column_names:
        return None
    lengths = []  # by arrow and in parts: Python lists of a million sequences would take gigabytes
    for rows in dataset.with_format("arrow", columns=["input_ids"]).iter(10_000):
        column = rows["input_ids"]
        if not any(is_list(column.type) for is_list in (arrow.is_list, arrow.is_large_list, arrow.is_fixed_size_list)):
            return None  # a collator makes token ids of them
        lengths.append(pyarrow.compute.list_value_length(column).to_numpy())
    return np.argsort(-np.concatenate(lengths), kind="stable").tolist() if lengths else None


def _empty_table(trainer: Trainer, shape: tuple[int, int], storage: Path | None) -> torch.Tensor:
    if storage is None:
        return torch.zeros(shape)
    # All of it, or a full disk would kill the process that writes a row.
    run_on_main(trainer.accelerator, "Making the file of the features", reserve, storage, 4 * shape[0] * shape[1])
    return torch.from_numpy(np.memmap(storage, dtype=np.float32, mode="r+", shape=shape))
