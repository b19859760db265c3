"""Forward passes over a data set without gradient, with results by sample index."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import pyarrow.compute
import pyarrow.types as arrow
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.utils.logging import tqdm

from ._modes import evaluation_mode, low_precision, random_state_preserved
from ._names import IGNORED_LABEL
from ._processes import failing_together, run_on_main
from ._scores import add_decoder_inputs, scores_and_labels, shifts_labels
from ._typing import AnyTrainer, MapDataset
from .class_tables import row_blocks, table_type
from .files import reserve
from .losses import cross_entropy, per_sample
from .sample_index import SAMPLE_INDEX, IndexedDataset, indexed_dataloader


@dataclass
class SamplePredictions:
    """Predictions for a data set; row i belongs to sample i. On CPU, the same on every process.

    Attributes:
        losses (`torch.Tensor` of shape `[num_samples]`): cross entropy with the given label, in nats; the mean over a
            sample's tokens if each has its own; NaN for a sample that the collator never returned.
        labels (`torch.LongTensor` of shape `[num_samples]`): the given labels; -100 if each token has its own, and
            for a sample that the collator never returned.
        probabilities (`torch.Tensor` of shape `[num_samples, num_labels]`, *optional*): softmax of the logits, in
            float16 if there are more than [`~hf_clear.class_tables.FULL_PRECISION`]; None if each token has its own,
            or nobody asked for them.
        predicted (`torch.LongTensor` of shape `[num_samples]`, *optional*): the most probable classes; None if each
            token has its own.
        confidence (`torch.FloatTensor` of shape `[num_samples]`, *optional*): their probability.
        never_returned (`torch.BoolTensor` of shape `[num_samples]`): of samples with one label each, those that the
            collator dropped.
    """

    losses: torch.Tensor
    labels: torch.Tensor
    probabilities: torch.Tensor | None = None
    predicted: torch.Tensor | None = None
    confidence: torch.Tensor | None = None
    never_returned: torch.Tensor = field(init=False)

    def __post_init__(self):
        if self.predicted is None and self.probabilities is not None:
            confidence, self.predicted = self.probabilities.max(dim=1)
            self.confidence = confidence.float()
        has_no_label = self.labels == IGNORED_LABEL
        self.never_returned = self.losses.isnan() & has_no_label & (self.predicted is not None)


@failing_together()
def per_sample_losses(trainer: Trainer, dataset: MapDataset | None = None) -> np.ndarray:
    """The cross entropy of every sample with its given label, in evaluation mode (no dropout, nothing routed); if
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
    ready = cast(AnyTrainer, trainer)
    dataset = ready.train_dataset if dataset is None else dataset
    return predict_samples(ready, sample_dataloader(ready, dataset)).losses.numpy()


def sample_dataloader(trainer: AnyTrainer, dataset: MapDataset, needs_labels: bool = True) -> DataLoader:
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
    trainer: AnyTrainer,
    dataloader: DataLoader,
    batch_context: Callable[[torch.Tensor], AbstractContextManager] | None = None,
    keep_probabilities: bool = True,
    description: str | None = None,
) -> SamplePredictions:
    """One pass over `dataloader` (from [`sample_dataloader`]) in evaluation mode.

    Each process runs its share, and one all-reduce at the end puts the rows together: no collective in the loop. The
    state of all random generators and the model's training mode are left as they were.

    Args:
        batch_context (`Callable`, *optional*): `batch_context(sample_index)` is entered around each forward pass, to
            route it.
        keep_probabilities (`bool`, *optional*, defaults to `True`): whether to keep all classes' probabilities, which
            take `num_samples * num_labels` numbers.
        description (`str`, *optional*): of a progress bar; without, there is none.

    Raises:
        ValueError: if the model's logits don't fit the labels.
    """

    def rows_of(model: nn.Module, batch: dict[str, Any], index: torch.Tensor) -> list[torch.Tensor]:
        inputs = trainer._prepare_inputs(batch)
        labels = inputs.pop(trainer.label_names[0])
        add_decoder_inputs(trainer.model, inputs, labels)
        # Not `prediction_step`, which generates text in a Seq2SeqTrainer.
        context = batch_context(index) if batch_context is not None else contextlib.nullcontext()
        with torch.no_grad(), trainer.compute_loss_context_manager(), context:
            logits, labels = scores_and_labels(model(**inputs), labels, shifts_labels(trainer))
        losses = per_sample(cross_entropy(logits, labels), labels).float()
        labels = labels.long()
        if labels.ndim > 1:
            return [losses]
        probabilities = logits.softmax(dim=-1).float()
        kept = [probabilities.to(table_type(num_samples, logits.shape[-1]))] if keep_probabilities else []
        confidence, predicted = probabilities.max(dim=-1)
        return [losses, labels, predicted, confidence, *kept]

    num_samples = len(cast(IndexedDataset, dataloader.dataset))
    losses, *others = tables_by_index(trainer, dataloader, rows_of, description=description)
    if not others:
        return SamplePredictions(losses, torch.full((num_samples,), IGNORED_LABEL))
    labels, predicted, confidence, *kept = others
    return SamplePredictions(losses, labels, kept[0] if kept else None, predicted, confidence)


def say_never_returned(never_returned: torch.Tensor) -> str:
    """A warning of samples that the collator drops."""
    missing = never_returned.nonzero().squeeze(1).tolist()
    return (
        f"The data collator never returned {len(missing)} of {len(never_returned)} training samples (sample "
        f"{missing[0]} first): they have no loss, and nothing is said about their labels."
    )


def running_predictions(table: torch.Tensor, labels: torch.Tensor, keep_probabilities: bool) -> SamplePredictions:
    """The running mean of the predictions of training, as a pass would give them; without a copy of the table.

    Args:
        table (`torch.Tensor` of shape `[num_samples, num_labels]`): `SampleStore.targets`.
        labels (`torch.LongTensor` of shape `[num_samples]`): the given labels.
    """
    label_probability = table.gather(1, labels.clamp_min(0).unsqueeze(1)).squeeze(1).float().cpu()
    labels = labels.to("cpu", copy=True)
    least = torch.finfo(torch.float32).tiny if table.dtype == torch.float32 else 2.0**-25  # what 0 stands for
    losses = -label_probability.clamp_min(least).log()
    has_none = torch.cat([table[rows].sum(dim=1) == 0 for rows in row_blocks(table)]).cpu()
    losses[has_none] = torch.inf  # no finite prediction
    losses[labels == IGNORED_LABEL] = torch.nan  # the collator never returned it
    confidence, predicted = (part.cpu() for part in table.max(dim=1))
    return SamplePredictions(losses, labels, table.cpu() if keep_probabilities else None, predicted, confidence.float())


def tables_by_index(
    trainer: AnyTrainer,
    dataloader: DataLoader,
    rows_of: Callable[[nn.Module, dict[str, Any], torch.Tensor], list[torch.Tensor]],
    storage: Path | None = None,
    description: str | None = None,
) -> list[torch.Tensor]:
    """What `rows_of(model, batch, sample_index)` returns for each batch, tensors `[batch, ...]`, as rows by sample
    index: tables `[num_samples, ...]`, the same on every process. On CPU; if `storage` is given, the one there is, in
    float32, is in that file. The rows of samples that never came are NaN, or -100 in whole numbers."""
    accelerator = trainer.accelerator
    model = trainer._wrap_model(trainer.model, training=False)
    # In training, the model is prepared (autocast, FSDP) and used as it is. Before, we don't prepare it, as `evaluate`
    # would: accelerate then takes it for prepared when training begins, and leaves out DDP.
    is_prepared = len(accelerator._models) > 0
    if not is_prepared and trainer.place_model_on_device:
        trainer._move_model_to_device(model, trainer.args.device)
    autocast = contextlib.nullcontext() if is_prepared else accelerator.autocast()
    num_samples = len(cast(IndexedDataset, dataloader.dataset))
    if num_samples == 0:
        raise ValueError("The data set has no sample.")
    seen = torch.zeros(num_samples)  # how often
    tables: list[torch.Tensor] = []
    with random_state_preserved(model), evaluation_mode(model), autocast, low_precision(trainer.args):
        quiet = description is None or trainer.args.disable_tqdm or not trainer.is_local_process_zero()
        for batch in tqdm(_some_batches(trainer, dataloader), total=len(dataloader), desc=description, disable=quiet):
            index = batch.pop(SAMPLE_INDEX)
            parts = rows_of(model, batch, index)
            if not tables:
                tables = [_empty_table(trainer, (num_samples, *part.shape[1:]), part.dtype, storage) for part in parts]
            index = index.cpu()
            seen[index] = 1
            for table, part in zip(tables, parts):
                table[index] = part.cpu()
    if accelerator.num_processes > 1:
        seen = accelerator.reduce(seen.to(accelerator.device), "sum").cpu()
    if storage is not None:
        accelerator.wait_for_everyone()  # all have written their rows
    for table in tables:
        for rows in row_blocks(table):
            if accelerator.num_processes > 1 and storage is None:
                _share(accelerator, table[rows], seen[rows])
            if storage is None or accelerator.is_main_process:
                table[rows][seen[rows] == 0] = torch.nan if table.is_floating_point() else IGNORED_LABEL
    if storage is not None:
        accelerator.wait_for_everyone()
    return tables


def _share(accelerator: Accelerator, rows: torch.Tensor, seen: torch.Tensor) -> None:
    """Puts together, in place, the rows that the processes have. One that several have seen, to fill their batches, is
    their mean."""
    total = accelerator.reduce(rows.to(accelerator.device), "sum").cpu()
    count = seen.clamp_min(1).reshape(-1, *[1] * (rows.ndim - 1))
    rows.copy_(total / count if rows.is_floating_point() else (total / count).round().long())


def _some_batches(trainer: AnyTrainer, dataloader: DataLoader) -> Iterator[dict[str, Any]]:
    """The batches of this process, or one with the first sample if it has none, so that it learns what a row is:
    with `even_batches=False`, a small data set may not have one for every process."""
    batch = None
    for batch in dataloader:
        yield batch
    if batch is None:
        dataset = cast(IndexedDataset, dataloader.dataset)
        yield trainer._prepare_inputs(dataloader.collate_fn(dataset.__getitems__([0])))


def _longest_first(dataset: Any) -> list[int] | None:
    if not isinstance(dataset, datasets.Dataset) or "input_ids" not in dataset.column_names:
        return None
    lengths = []  # by arrow and in parts: Python lists of a million sequences would take gigabytes
    for rows in dataset.with_format("arrow", columns=["input_ids"]).iter(10_000):
        column = rows["input_ids"]
        if not any(is_list(column.type) for is_list in (arrow.is_list, arrow.is_large_list, arrow.is_fixed_size_list)):
            return None  # a collator makes token ids of them
        lengths.append(pyarrow.compute.list_value_length(column).to_numpy())
    return np.argsort(-np.concatenate(lengths), kind="stable").tolist() if lengths else None


def _empty_table(trainer: AnyTrainer, shape: tuple[int, ...], dtype: torch.dtype, storage: Path | None) -> torch.Tensor:
    if storage is None:
        return torch.zeros(shape, dtype=dtype)
    # All of it, or a full disk would kill the process that writes a row.
    run_on_main(trainer.accelerator, "Making the file of the features", reserve, storage, 4 * math.prod(shape))
    return torch.from_numpy(np.memmap(storage, dtype=np.float32, mode="r+", shape=shape))
