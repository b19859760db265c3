"""Tables of samples by classes: what they take, and how to work on them without a copy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import torch
from accelerate import Accelerator

logger = logging.getLogger(__name__)

FULL_PRECISION = 2**28  # numbers in a table: up to 1 GiB of them are in float32, more in float16
_LARGE = 2  # GiB
_BLOCK = 2**20  # numbers of a table that are worked on at a time


def say_table_size(num_samples: int, num_labels: int, dtype: torch.dtype, is_doubled: bool) -> None:
    """Logs what probabilities of classes for all samples take, as a warning if that is much.

    Args:
        is_doubled (`bool`): whether they take twice that while they are made anew.
    """
    size = num_samples * num_labels * dtype.itemsize / 2**30
    told = (
        f"The predictions that are kept of {num_samples} samples, {num_labels} classes each, take {size:.3g} GiB of "
        f"memory ({str(dtype).removeprefix('torch.')}){', twice that at a refit' * is_doubled}."
    )
    if size > _LARGE:
        logger.warning(f"{told} `clear_ensemble_source='step'` with `clear_loss_source='epoch'` keeps none.")
    else:
        logger.info(told)


def table_type(num_samples: int, num_labels: int) -> torch.dtype:
    """Of probabilities of classes for all samples: half the memory if there are very many."""
    return torch.float32 if num_samples * num_labels <= FULL_PRECISION else torch.float16


def finite_rows(probabilities: torch.Tensor) -> torch.Tensor:
    """Zeros in place of a row (over the last dimension) with anything that is not finite: no target for
    [`~hf_clear.consistency_loss`]."""
    return probabilities.where(probabilities.isfinite().all(dim=-1, keepdim=True), torch.zeros_like(probabilities))


def row_blocks(table: torch.Tensor) -> Iterator[slice]:
    """Parts of a table that are small, all together all rows."""
    size = max(_BLOCK // max(table[:1].numel(), 1), 1)
    return (slice(start, start + size) for start in range(0, len(table), size))


def merge_rows(accelerator: Accelerator, is_new: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> None:
    """Puts into every process's labels and targets, in place, the rows that are new on any; one that is new on several
    gets the mean of these."""
    for rows in row_blocks(targets):
        new, own, kept = is_new[rows].unsqueeze(1), labels[rows], targets[rows]
        added = torch.cat([new, own.unsqueeze(1) * new, kept.float() * new], dim=1)
        total = accelerator.reduce(added.to(accelerator.device), "sum").to(added.device)
        count, new = total[:, :1].clamp_min(1), total[:, 0] > 0
        own.copy_(torch.where(new, (total[:, 1] / count[:, 0]).round().long(), own))
        kept.copy_(torch.where(new.unsqueeze(1), total[:, 2:] / count, kept))


def mean_of_members(predict: Callable[[int], torch.Tensor], size: int) -> torch.Tensor:
    """The mean of an ensemble's tables, in place; a row of zeros if one is not finite.

    Args:
        predict (`Callable[[int], torch.Tensor]`): from the number of a member to its table, which is used up.
        size (`int`): how many members there are.
    """
    mean = predict(0).div_(size)
    for number in range(1, size):
        mean.add_(predict(number).div_(size))
    for rows in row_blocks(mean):
        mean[rows] = finite_rows(mean[rows])
    return mean
