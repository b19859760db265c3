"""Dataloaders whose batches say which samples they are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import datasets
import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES

from .._names import LABEL_COLUMNS
from .._typing import AnyTrainer, MapDataset
from .._unwrap import base_of
from ._collator import IndexCollator
from ._pairing import Pairing


class IndexedDataset(Dataset):
    """A map-style dataset whose items are `(index, item)`."""

    def __init__(self, dataset: MapDataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, Any]:
        return index, self.dataset[index]

    def __getitems__(self, indices: list[int]) -> list[tuple[int, Any]]:
        if hasattr(self.dataset, "__getitems__"):
            items = self.dataset.__getitems__(indices)
            if len(items) != len(indices):
                raise ValueError(
                    f"The data set returned {len(items)} items for {len(indices)} samples ({list(indices)[:8]}), so "
                    "that nobody knows which item is which sample. No transform may drop or repeat samples: "
                    "take broken samples out of the training set."
                )
            return list(zip(indices, items))
        return [self[index] for index in indices]

    def set_epoch(self, epoch: int) -> None:
        """accelerate calls this on datasets that change from epoch to epoch."""
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)


def indexed_dataloader(
    trainer: AnyTrainer,
    dataset: MapDataset,
    description: str,
    batch_size: int,
    sampler_fn: Callable[[Any], Sampler | list[int] | None],
    is_training: bool = False,
    needs_labels: bool = True,
    takes_part: torch.Tensor | None = None,
) -> DataLoader:
    """The dataloader that `trainer` would build for `dataset`, with the samples' indices (`LongTensor` of shape
    `[batch]`) added to its batches under the key `SAMPLE_INDEX`.

    The index survives `remove_unused_columns`, transforms, and collators that build batches of fixed keys. A collator
    may drop, repeat or sort samples if it lets the key `SAMPLE_INDEX` of its items through. If not, row i of a batch
    has to be its i-th item; what shows to be otherwise is refused ([`~hf_clear.sample_index._pairing.Pairing`]).

    Args:
        takes_part (`torch.BoolTensor` of shape `[num_samples]`, *optional*): see [`IndexCollator`].
    """
    columns_removed, prepare = dataset, None
    if isinstance(dataset, datasets.Dataset):
        columns_removed = trainer._remove_unused_columns(dataset, description=description)
    else:  # before the index joins the items
        prepare = trainer._get_collator_with_removed_columns(_as_they_are, description=description)
    collator = IndexCollator(
        _pairing_of(trainer, dataset),
        label_names(trainer) if needs_labels else (),
        num_labels(trainer),
        takes_part,
        prepare,
    )
    stock = trainer.data_collator
    trainer.data_collator = collator  # type: ignore[assignment]  # any mapping is good enough for `Trainer`
    try:
        return trainer._get_dataloader(
            dataset=IndexedDataset(columns_removed),
            description=description,
            batch_size=batch_size,
            # Length grouping looks at the dataset as it is. None is fine, and so is a list.
            sampler_fn=lambda _: cast(Sampler, sampler_fn(dataset)),
            is_training=is_training,
        )
    finally:
        trainer.data_collator = stock


def _as_they_are(items: list[Any]) -> list[Any]:
    return items


def _pairing_of(trainer: AnyTrainer, dataset: MapDataset) -> Pairing:
    """One for all dataloaders over the training set, so that their workers need not try the collator out again."""
    collator, names = trainer.data_collator, label_names(trainer)
    if dataset is not trainer.train_dataset:
        return Pairing(collator, names)
    known = vars(trainer).get("_pairing")
    if known is None or known[0] is not dataset or known[1].collator is not collator:
        known = vars(trainer)["_pairing"] = (dataset, Pairing(collator, names))
    return known[1]


def label_names(trainer: AnyTrainer) -> tuple[str, ...]:
    """The names that a label may have in a data set: the model's, and those that collators turn into it."""
    return tuple(dict.fromkeys((*trainer.label_names, *LABEL_COLUMNS)))


def num_labels(trainer: AnyTrainer) -> int | None:
    """The number of the model's classes, which are the vocabulary of a language model; None if it doesn't tell: a
    multiple choice has as many classes as a question has choices."""
    if trainer.model is None:  # between the trials of a hyperparameter search
        return None
    model = trainer.accelerator.unwrap_model(trainer.model)
    model = base_of(model)
    if type(model).__name__ in MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES.values():
        return None
    config = getattr(trainer.model, "config", None)
    return getattr(config, "vocab_size" if predicts_tokens(trainer) else "num_labels", None)


def predicts_tokens(trainer: AnyTrainer) -> bool:
    """Whether the model's classes are its vocabulary. The labels of such a model may be its inputs: a collator makes
    them."""
    return getattr(trainer.model, "get_output_embeddings", lambda: None)() is not None


def predicts_one_class(trainer: AnyTrainer) -> bool:
    """Whether the model's name says that it predicts one class a sample."""
    if trainer.model is None:  # between the trials of a hyperparameter search
        return False
    name = type(base_of(trainer.accelerator.unwrap_model(trainer.model))).__name__
    return "Classification" in name and not any(part in name for part in ("Token", "Frame"))
