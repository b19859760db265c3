"""Whether labels are classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from .._names import IGNORED_LABEL

_ROUNDING = 1e-3  # of scores that add up to 1
_FEW = 8  # values of a label that a message shows


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


def check_one_class(label: Any, index: int, model: str) -> None:
    """Makes sure that a label is no list, for a model that predicts one class a sample.

    Args:
        index (`int`): the sample's, for the message.
        model (`str`): its class, for the message.

    Raises:
        ValueError: if it is one; the message says how its class is had.
    """
    if not (isinstance(label, (list, tuple)) or getattr(label, "ndim", 0) > 0):
        return
    values = np.asarray(label)
    advice = "Several labels a sample are not supported: give each sample one class, or drop it."
    if values.size == 1:
        advice = "Take the number out of it: `label[0]`."
    elif values.dtype.kind in "biuf" and bool((values >= 0).all()) and abs(float(values.sum()) - 1) < _ROUNDING:
        advice = "Of one-hot labels or scores, give the class: `int(numpy.argmax(label))`."
    shown = values.tolist() if values.size <= _FEW else f"an array of shape {list(values.shape)}"
    raise ValueError(f"The label of sample {index} is {shown}, and {model} takes one class number a sample. {advice}")


def _check_token_labels(labels: Sequence, num_labels: int | None, index: int) -> None:
    values = np.asarray(labels)
    if values.ndim != 1 or not (np.issubdtype(values.dtype, np.integer) or len(values) == 0):
        raise ValueError(
            f"The labels of sample {index} have to be one class number for each token, or one for the whole sample; "
            f"got an array of {values.dtype} of shape {list(values.shape)}. Of scores or one-hot labels, give "
            "the class: `numpy.argmax`."
        )
    wrong = (values != IGNORED_LABEL) & ((values < 0) | (values >= (np.inf if num_labels is None else num_labels)))
    if wrong.any():
        token = int(np.flatnonzero(wrong)[0])
        allowed = f"0 to {num_labels - 1} (num_labels - 1)" if num_labels else "0 or above"
        raise ValueError(
            f"The label of token {token} of sample {index} is {values[token]}. It has to be {allowed}, or "
            f"{IGNORED_LABEL} for none."
        )
