"""Corrupts the labels of a data set, keeps the truth, and reports what was done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import datasets
import numpy as np

from .._argument_checks import check_count, check_seed
from .._names import TRUE_LABEL
from ..sample_index import check_labels
from ..transition_matrices import check_transition_matrix
from ._matrix import check_rate, corrupt_labels
from ._registry import NOISE_TYPES


@dataclass(frozen=True)
class NoiseReport:
    """What a noise injection did.

    Attributes:
        rate (`float`): realized share of samples whose label changed, in [0, 1].
        transition_matrix (`np.ndarray` of shape `[num_labels, num_labels]`): realized: row i, column j is the share of
            the samples of true class i that got label j. Rows sum to 1; the row of a class without samples is NaN.
    """

    rate: float
    transition_matrix: np.ndarray


def inject_label_noise(
    dataset: datasets.Dataset,
    noise_type: str | None = None,
    noise_rate: float | None = None,
    seed: int = 42,
    label_column: str = "label",
    num_labels: int | None = None,
    transition_matrix: np.ndarray | None = None,
    features: np.ndarray | None = None,
) -> tuple[datasets.Dataset, NoiseReport]:
    """Corrupts labels at random: by a noise type and a rate, or by a transition matrix.

    Args:
        dataset (`datasets.Dataset`): labels are class numbers (integers or `ClassLabel`).
        noise_type (`str`, *optional*): `"symmetric"` (to any other class), `"symmetric_including_true_class"` (to any
            class, so that fewer labels change), `"asymmetric"` (class c to c + 1), `"asymmetric_previous"` (c to c -
            1), `"instance_dependent"` ([`instance_dependent_noise`]), or another of [`register_noise_type`].
        noise_rate (`float`, *optional*): probability in [0, 1] that a label is replaced; needed with `noise_type`.
        seed (`int`, *optional*, defaults to 42): seed of the noise alone: it neither uses nor changes global state.
        label_column (`str`, *optional*, defaults to `"label"`): the column to corrupt.
        num_labels (`int`, *optional*): number of classes; by default that of the `ClassLabel` feature, or that of
            `transition_matrix`, or the largest label + 1.
        transition_matrix (`np.ndarray` of shape `[num_labels, num_labels]`, *optional*): row i, column j: probability
            that true class i becomes j. In place of `noise_type` and `noise_rate`. See [`load_transition_matrix`].
        features (`np.ndarray` of shape `[num_samples, dim]`, *optional*): of the samples, in the data set's order, for
            noise that depends on them.

    Returns:
        `tuple[datasets.Dataset, NoiseReport]`: the data set with noisy labels in `label_column` and the original ones
        in a new column `"true_label"`, and the realized rate and transition matrix.

    Raises:
        ValueError: if an argument is out of range, missing, or one too many, a column is missing or in the way, or a
            label is no class number.

    Example:

    ```python
    >>> noisy, report = inject_label_noise(train, "symmetric", 0.4, seed=1)
    >>> report.rate
    0.397
    >>> noisy, report = inject_label_noise(train, transition_matrix=load_transition_matrix("confusion.csv"))
    ```
    """
    if transition_matrix is not None:
        if noise_type is not None or noise_rate is not None:
            raise ValueError("Give a `transition_matrix`, or `noise_type` and `noise_rate`: not both.")
        transition_matrix = check_transition_matrix(transition_matrix)
    elif noise_type is None or noise_rate is None:
        raise ValueError("Give `noise_type` and `noise_rate`, or a `transition_matrix`.")
    else:
        noise = NOISE_TYPES.find(noise_type, "noise_type")
    check_seed(seed)
    if num_labels is not None:
        check_count("num_labels", num_labels)
    if not isinstance(dataset, datasets.Dataset):
        raise ValueError(f"`dataset` has to be a datasets.Dataset, such as one split; got a {type(dataset).__name__}.")
    if label_column not in dataset.column_names:
        raise ValueError(
            f"There is no column {label_column!r} to corrupt; there are {', '.join(dataset.column_names)}."
        )
    if TRUE_LABEL in dataset.column_names:
        raise ValueError(
            f"The data set has a column {TRUE_LABEL!r} already, so it seems to carry injected noise. Rename or remove "
            "that column first."
        )
    if len(dataset) == 0:
        raise ValueError("The data set has no sample to corrupt.")
    feature = dataset.features[label_column]
    labels = list(dataset.with_format(None)[label_column])
    num_classes = getattr(feature, "num_classes", None)
    if num_classes is not None and num_labels not in (None, num_classes):
        raise ValueError(f"`num_labels` is {num_labels} while {label_column!r} has {num_classes} named classes.")
    num_labels = num_classes if num_labels is None else num_labels
    if transition_matrix is not None:
        if num_labels not in (None, len(transition_matrix)):
            raise ValueError(f"`transition_matrix` is for {len(transition_matrix)} classes; there are {num_labels}.")
        num_labels = len(transition_matrix)
    listed = next((row for row, label in enumerate(labels) if isinstance(label, (list, tuple, dict))), None)
    if listed is not None:
        raise ValueError(
            f"The label of sample {listed} is {labels[listed]!r}. Noise is for one class a sample, such as 3: not for "
            "lists of labels, nor for a label for each token."
        )
    check_labels(labels, num_labels)
    true = np.array(labels, dtype=np.int64)
    if num_labels is None:
        num_labels = int(true.max()) + 1

    rng = np.random.default_rng(seed)
    if transition_matrix is not None:
        noisy = corrupt_labels(true, transition_matrix, rng)
    else:
        rate = cast(float, noise_rate)  # there is one if there is no matrix
        check_rate(num_labels, rate)
        noisy = noise(true.copy(), num_labels, rate, rng, features)
    dataset = _with_noise(dataset, label_column, noisy, true)

    counts = np.zeros((num_labels, num_labels))
    np.add.at(counts, (true, noisy), 1)
    with np.errstate(invalid="ignore"):
        realized = counts / counts.sum(axis=1, keepdims=True)
    return dataset, NoiseReport(rate=float((noisy != true).mean()), transition_matrix=realized)


def _with_noise(dataset: datasets.Dataset, column: str, noisy: np.ndarray, true: np.ndarray) -> datasets.Dataset:
    """With the same columns in the same order and format, and the true labels as one more."""
    order, form, feature = dataset.column_names, dataset.format, dataset.features[column]
    if not isinstance(feature, datasets.ClassLabel) and max(noisy.max(), true.max()) > np.iinfo(feature.dtype).max:
        feature = datasets.Value("int64")  # such as int8, and 300 classes
    plain = dataset.with_format(None).add_column(TRUE_LABEL, true, feature=feature)
    plain = plain.remove_columns(column).add_column(column, noisy, feature=feature).select_columns([*order, TRUE_LABEL])
    shown = None if set(form["columns"]) == set(order) else [*form["columns"], TRUE_LABEL]
    settings = {"columns": shown, "output_all_columns": form["output_all_columns"], **form["format_kwargs"]}
    return plain.with_format(form["type"], **settings)
