"""Whether labels are classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from .._names import IGNORED_LABEL


def check_labels(labels: Iterable, num_labels: int | None, indices: Iterable[int] | None = None) -> None:
    """Makes sure that labels are classes, one a sample or one a token (then -100 marks tokens without one).

    Args:
        labels (`Iterable` of shape `[num_samples]`): one label a sample, or a sequence of labels.
        num_labels (`int`, *optional*): the number of classes; None if it is unknown.
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
            hint = " If it stands for no label, drop such samples: `dataset.filter(...)`." * (label < 0)
            raise ValueError(f"The label of sample {index} is {label}. It has to be {allowed}.{hint}")


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
