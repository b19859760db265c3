"""The shares that processes have of one training: of the same data, and with as many steps for each. Otherwise one
waits forever for what another never does, or the rows of one index are different samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler, DataLoader
from transformers.trainer_utils import has_length

from .._processes import on_every_process
from .._typing import AnyTrainer
from .fingerprint import Fingerprint

_SAME_DATA = (
    "Every process has to load the same samples in the same order, and takes its share of the batches by itself: "
    "shuffle, split and add noise with one seed, and don't shard the data set by rank."
)


def check_same_length(trainer: AnyTrainer) -> None:
    """Makes sure that all processes have training sets of the same length.

    Raises:
        ValueError: on every process if their training sets differ in the number of samples.
    """
    lengths = on_every_process(trainer.accelerator, len(trainer.train_dataset))
    if len(set(lengths)) > 1:
        raise ValueError(f"The processes have training sets of different lengths ({_by_rank(lengths)}). {_SAME_DATA}")


def check_same_fingerprint(trainer: AnyTrainer, data: Fingerprint) -> None:
    """Makes sure that all processes have the same training set.

    Args:
        data (`Fingerprint`): of the training set.

    Raises:
        ValueError: on every process if their training sets differ in what is compared of them.
    """
    first, *others = on_every_process(trainer.accelerator, data)
    for rank, other in enumerate(others, 1):
        if differences := other.differences(first.as_json(), first.label_values):
            raise ValueError(
                f"The training set on process {rank} is not that on process 0, which differs in "
                f"{' and '.join(differences)}. {_SAME_DATA}"
            )


def check_same_steps(trainer: AnyTrainer, dataloader: DataLoader) -> None:
    """Makes sure that all processes have batches for the same number of steps.

    Args:
        dataloader (`DataLoader`): of the training that begins.

    Raises:
        ValueError: on every process if one would run out of batches before another, in training or in an evaluation
            during it.
    """
    args = trainer.args
    if trainer.accelerator.num_processes == 1:
        return
    own: tuple[int, int, bool] | None = None
    if has_length(dataloader):
        num_batches = _num_batches(dataloader)
        steps = math.ceil(num_batches / args.gradient_accumulation_steps)
        # A dataloader that promises more than it has would make the last step of an epoch a part of one.
        own = (num_batches, steps, num_batches == len(dataloader))
    seen = on_every_process(trainer.accelerator, own)
    if None not in seen:
        numbers, all_steps, are_true = zip(*seen)
        if max(numbers) == 0:
            raise ValueError(
                f"The training set is too small for one batch on each of the {len(numbers)} processes, and "
                "`dataloader_drop_last=True` drops what is less. Make batches smaller, or leave it out."
            )
        wanted = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * max(all_steps))
        if not all(are_true) or (min(all_steps) < max(all_steps) and min(all_steps) < wanted):
            raise _uneven(trainer, "training", numbers)
    if args.eval_strategy != "no" and not args.accelerator_config.even_batches:
        sets = trainer.eval_dataset if isinstance(trainer.eval_dataset, dict) else {"": trainer.eval_dataset}
        for dataset in sets.values():
            shares = [] if dataset is None or not has_length(dataset) else _evaluation_shares(trainer, len(dataset))
            if len(set(shares)) > 1:
                raise _uneven(trainer, "evaluation", shares)


def check_same_evaluation(trainer: AnyTrainer, dataloader: DataLoader) -> None:
    """Makes sure that all processes have the same number of batches of an evaluation.

    Raises:
        ValueError: on every process if one would run out of the batches of an evaluation before another.
    """
    if trainer.accelerator.num_processes == 1 or trainer.args.accelerator_config.even_batches:
        return
    numbers = on_every_process(trainer.accelerator, _num_batches(dataloader) if has_length(dataloader) else None)
    if None not in numbers and len(set(numbers)) > 1:
        raise _uneven(trainer, "evaluation", numbers)


def _num_batches(dataloader: DataLoader) -> int:
    """On this process."""
    share = dataloader.batch_sampler
    return _size(share) if isinstance(share, BatchSamplerShard) else len(dataloader)


def _size(share: BatchSamplerShard) -> int:
    """A share of split batches counts a last one that is too small for it, and then leaves it out."""
    is_too_small = False
    sampler = getattr(share.batch_sampler, "sampler", None)
    if share.split_batches and not share.even_batches and not share.drop_last and has_length(sampler):
        rest = len(sampler) % share.batch_size
        is_too_small = 0 < rest <= share.batch_size // share.num_processes * share.process_index
    return len(share) - is_too_small


def _evaluation_shares(trainer: AnyTrainer, num_samples: int) -> list[int]:
    """The number of batches on each process."""
    args, config = trainer.args, trainer.args.accelerator_config
    if config.dispatch_batches:
        return []
    batches = BatchSampler(range(num_samples), args.eval_batch_size, args.dataloader_drop_last)
    return [
        _size(BatchSamplerShard(batches, args.world_size, rank, config.split_batches, even_batches=False))
        for rank in range(args.world_size)
    ]


def _uneven(trainer: AnyTrainer, phase: str, numbers: Sequence[int]) -> ValueError:
    way_out = "Look at the dataloader, of which every process needs as many batches."
    if not trainer.args.accelerator_config.even_batches:
        way_out = (
            "Leave out `accelerator_config={'even_batches': False}`: the first samples then fill up the last batches."
        )
    return ValueError(
        f"The processes have different numbers of {phase} batches ({_by_rank(numbers)}), so that one would wait "
        f"forever for another. {way_out}"
    )


def _by_rank(numbers: Sequence[Any]) -> str:
    named = ", ".join(f"{number:,} on process {rank}" for rank, number in enumerate(numbers[:8]))
    return named + ", ..." * (len(numbers) > 8)
