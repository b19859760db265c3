"""Carries the index of every sample from the training set into the batch, and checks labels on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import Trainer
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES

from ._names import IGNORED_LABEL
from ._unwrap import base_of

SAMPLE_INDEX = "_clear_sample_index"  # in a batch; no column of a user's data is called so
LABEL_COLUMNS = ("labels", "label", "label_ids")  # the names that transformers' collators turn into "labels"


class IndexedDataset(Dataset):
    """A map-style dataset whose items are `(index, item)`."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, Any]:
        return index, self.dataset[index]

    def __getitems__(self, indices: list[int]) -> list[tuple[int, Any]]:
        if hasattr(self.dataset, "__getitems__"):
            return list(zip(indices, self.dataset.__getitems__(indices)))
        return [self[index] for index in indices]

    def set_epoch(self, epoch: int) -> None:
        """accelerate calls this on datasets that change from epoch to epoch."""
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)


class IndexCollator:
    """Collates the items of an [`IndexedDataset`] with any collator and adds their indices to the batch.

    Args:
        collator (`Callable`): from a list of items to a dict of tensors.
        label_names (`Sequence[str]`): keys under which an item may, and the batch has to, hold the labels; empty
            where no label is needed. They are checked in both: a collator may fail on a bad label without a word of
            which, or make the labels itself.
        num_labels (`int`, *optional*): the number of classes; None where it is unknown.
        takes_part (`torch.BoolTensor` of shape `[num_samples]`, *optional*): False for samples that are left out of
            batches. Of a batch that would be empty, the first sample stays, with -100 for a label.
    """

    def __init__(
        self,
        collator: Callable,
        label_names: Sequence[str],
        num_labels: int | None = None,
        takes_part: torch.Tensor | None = None,
    ):
        self.collator = collator
        self.label_names = label_names
        self.num_labels = num_labels
        self.takes_part = takes_part

    def __call__(self, indexed_items: list[tuple[int, Any]]) -> MutableMapping[str, Any]:
        is_empty = False
        if self.takes_part is not None:
            kept = [(index, item) for index, item in indexed_items if self.takes_part[index]]
            is_empty, indexed_items = not kept, kept or indexed_items[:1]
        indices, items = zip(*indexed_items)
        for name in self.label_names:
            if all(isinstance(item, Mapping) and name in item for item in items):
                check_labels((item[name] for item in items), self.num_labels, indices)
        batch = self.collator(list(items))
        if not isinstance(batch, MutableMapping):
            raise ValueError(
                f"hf_clear needs a data collator that returns a dict of tensors, got a {type(batch).__name__}."
            )
        name = next((name for name in self.label_names if name in batch), None)
        if name is None and self.label_names:
            raise ValueError(
                f"The batch of sample {indices[0]} has no labels: expected one of {', '.join(self.label_names)}, got "
                f"{', '.join(batch)}."
            )
        if isinstance(batch.get(name), torch.Tensor):
            check_labels(batch[name].tolist(), self.num_labels, indices)
        if is_empty:
            batch[name] = torch.full_like(batch[name], IGNORED_LABEL)
        batch[SAMPLE_INDEX] = torch.tensor(indices, dtype=torch.long)
        return batch


def indexed_dataloader(
    trainer: Trainer,
    dataset: Dataset,
    description: str,
    batch_size: int,
    sampler_fn: Callable[[Dataset], Sampler | None],
    is_training: bool = False,
    needs_labels: bool = True,
    takes_part: torch.Tensor | None = None,
) -> DataLoader:
    """The dataloader that `trainer` would build for `dataset`, with the samples' indices (`LongTensor` of shape
    `[batch]`) added to its batches under the key `SAMPLE_INDEX`.

    The index travels beside the items and joins the batch after the collator: it survives `remove_unused_columns`,
    transforms, and collators that build batches of fixed keys.

    Args:
        takes_part (`torch.BoolTensor` of shape `[num_samples]`, *optional*): see [`IndexCollator`].
    """
    collator = trainer.data_collator
    columns_removed = dataset
    if isinstance(dataset, datasets.Dataset):
        columns_removed = trainer._remove_unused_columns(dataset, description=description)
    else:
        collator = trainer._get_collator_with_removed_columns(collator, description=description)
    collator = IndexCollator(collator, label_names(trainer) if needs_labels else (), num_labels(trainer), takes_part)
    trainer.data_collator, stock = collator, trainer.data_collator
    try:
        return trainer._get_dataloader(
            dataset=IndexedDataset(columns_removed),
            description=description,
            batch_size=batch_size,
            sampler_fn=lambda _: sampler_fn(dataset),  # length grouping looks at the dataset as it is
            is_training=is_training,
        )
    finally:
        trainer.data_collator = stock


def label_names(trainer: Trainer) -> tuple[str, ...]:
    """The names that a label may have in a data set: the model's, and those that collators turn into it."""
    return tuple(dict.fromkeys((*trainer.label_names, *LABEL_COLUMNS)))


def num_labels(trainer: Trainer) -> int | None:
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


def predicts_tokens(trainer: Trainer) -> bool:
    """Whether the model's classes are its vocabulary. The labels of such a model may be its inputs: a collator makes
    them."""
    return getattr(trainer.model, "get_output_embeddings", lambda: None)() is not None


def check_labels(labels: Iterable, num_labels: int | None, indices: Iterable[int] | None = None) -> None:
    """Makes sure that labels are classes, one a sample or one a token (then -100 marks tokens without one).

    Args:
        labels (`Iterable` of shape `[num_samples]`): one label a sample, or a sequence of labels.
        num_labels (`int`, *optional*): the number of classes; None where it is unknown.
        indices (`Iterable[int]`, *optional*): the samples' indices, for the message; counted from 0 by default.

    Raises:
        ValueError: at the first label that is missing, no integer, negative, or not below `num_labels`.
    """
    labels = list(labels)
    if all(type(label) is int and 0 <= label and (num_labels is None or label < num_labels) for label in labels):
        return  # the loop below is ten times slower
    labels = [
        label.item()
        if isinstance(label, (torch.Tensor, np.ndarray, np.generic)) and getattr(label, "ndim", 0) == 0
        else label
        for label in labels
    ]
    indices = list(range(len(labels)) if indices is None else indices)
    for index, label in zip(indices, labels):  # first: NaN makes floats of all labels of a column
        if label is None or (isinstance(label, float) and label != label):
            raise ValueError(
                f"The label of sample {index} is missing. Give it one, or drop the sample (a wrong label does "
                "no harm here: finding those is what hf_clear is for)."
            )
    for index, label in zip(indices, labels):
        if isinstance(label, (list, tuple)) or getattr(label, "ndim", 0) == 1:
            _check_token_labels(label, num_labels, index)
            continue
        if isinstance(label, bool) or not isinstance(label, int):
            raise ValueError(
                f"The label of sample {index} is {label!r}, a {type(label).__name__}. hf_clear is for classification: "
                "labels have to be class numbers, 0 to num_labels - 1 (encode strings with "
                "`dataset.class_encode_column`, cast bools and whole floats with `dataset.cast_column`)."
            )
        if label < 0 or (num_labels is not None and label >= num_labels):
            allowed = f"0 to {num_labels - 1} (num_labels - 1)" if num_labels else "0 or above"
            raise ValueError(f"The label of sample {index} is {label}. It has to be {allowed}.")


def _check_token_labels(labels: Sequence, num_labels: int | None, index: int) -> None:
    values = np.asarray(labels)
    if values.ndim != 1 or not (np.issubdtype(values.dtype, np.integer) or len(values) == 0):
        raise ValueError(
            f"The labels of sample {index} have to be one class number for each token, or one for the whole sample; "
            f"got an array of {values.dtype} of shape {list(values.shape)}."
        )
    wrong = (values != IGNORED_LABEL) & ((values < 0) | (values >= (np.inf if num_labels is None else num_labels)))
    if wrong.any():
        token = int(np.flatnonzero(wrong)[0])
        allowed = f"0 to {num_labels - 1} (num_labels - 1)" if num_labels else "0 or above"
        raise ValueError(
            f"The label of token {token} of sample {index} is {values[token]}. It has to be {allowed}, or "
            f"{IGNORED_LABEL} for none."
        )
