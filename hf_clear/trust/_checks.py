"""Checks that the functions of this package share."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._argument_checks import as_array
from .._names import IGNORED_LABEL
from ..estimators import NoiseModel

_ROUNDING, _SUM_ROUNDING = 1e-3, 0.01  # by so much, probabilities may be beside [0, 1], and their sum beside 1


def as_classes(name: str, values: Any, size: int | None = None) -> np.ndarray:
    """Of an argument that holds one class number for each sample, `[num_samples]`.

    Args:
        size (`int`, *optional*): how many there have to be.

    Raises:
        ValueError: if these are no whole numbers, or of another shape.
    """
    array = as_array(name, values)
    if array.ndim != 1 or size not in (None, len(array)):
        raise ValueError(
            f"`{name}` has to be of shape [{'num_samples' if size is None else size}], one class number for each "
            f"sample; got {list(array.shape)}."
        )
    if array.dtype.kind not in "iu" and len(array):
        hint = " Of scores, take `argmax(axis=1)`." if name == "predictions" else ""
        raise ValueError(f"`{name}` has to hold class numbers, which are integers; got {array.dtype}.{hint}")
    return array.astype(np.int64)


def check_range(name: str, labels: np.ndarray, num_labels: int, known: np.ndarray) -> None:
    """Raises a ValueError if a number in one of the rows that are `known` is none of a class."""
    wrong = np.flatnonzero(known & ((labels < 0) | (labels >= num_labels)))
    if len(wrong):
        none = f", or {IGNORED_LABEL} for none" if name == "labels" else ""
        raise ValueError(
            f"`{name}` has to hold classes from 0 to {num_labels - 1}{none}: `{name}[{wrong[0]}]` is "
            f"{labels[wrong[0]]}."
        )


def as_probabilities(name: str, values: Any, num_dims: int = 1, may_be_missing: bool = True) -> np.ndarray:
    """Of an argument that holds probabilities: as floats in [0, 1], or NaN.

    Args:
        num_dims (`int`, *optional*, defaults to 1): of the array; with 2, rows have to sum to 1, or be all 0.
        may_be_missing (`bool`, *optional*, defaults to `True`): whether NaN is allowed.

    Raises:
        ValueError: if they are no probabilities, or of another shape.
    """
    array = as_array(name, values)
    if array.ndim != num_dims or (num_dims == 2 and array.shape[1] == 0):
        shape = "[num_samples]" if num_dims == 1 else "[num_samples, num_labels]"
        raise ValueError(f"`{name}` has to be of shape {shape}; got {list(array.shape)}.")
    array = array if array.dtype == np.float32 else array.astype(np.float64)
    wrong = (array < -_ROUNDING) | (array > 1 + _ROUNDING) | (np.isnan(array) & (not may_be_missing))
    if wrong.any():
        row = tuple(int(index) for index in np.argwhere(wrong)[0])
        raise ValueError(
            f"`{name}` has to hold probabilities in [0, 1]{', or NaN' * may_be_missing}: "
            f"`{name}[{', '.join(map(str, row))}]` is {array[row]:g}."
            + " Of logits, take the softmax."
            * (num_dims == 2)
        )
    if num_dims == 2:
        total = array.sum(axis=1)
        rows = np.flatnonzero((np.abs(total - 1) > _SUM_ROUNDING) & (total != 0))
        if len(rows):
            raise ValueError(
                f"`{name}[{rows[0]}]` is no distribution: it has to hold probabilities that sum to 1, and they sum to "
                f"{total[rows[0]]:.6g}. Of logits, take the softmax."
            )
    return array.clip(0, 1)


def check_model(model: Any) -> None:
    """Raises a ValueError if this is no [`NoiseModel`]."""
    if not isinstance(model, NoiseModel):
        raise ValueError(f"`model` has to be what `fit_noise_model` returns; got {type(model).__name__}.")
