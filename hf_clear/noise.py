"""Label noise for experiments: corrupts the labels of a data set and keeps the truth."""

from __future__ import annotations

from dataclasses import dataclass

import datasets
import numpy as np

from .sample_index import check_labels

TRUE_LABEL = "true_label"


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


def symmetric_transition_matrix(num_labels: int, noise_rate: float) -> np.ndarray:
    """Each label is replaced with probability `noise_rate` by another class, drawn uniformly: `[num_labels,
    num_labels]`, `1 - noise_rate` on the diagonal."""
    _check_rate(num_labels, noise_rate)
    matrix = np.full((num_labels, num_labels), noise_rate / max(num_labels - 1, 1))
    np.fill_diagonal(matrix, 1 - noise_rate)
    return matrix


def asymmetric_transition_matrix(num_labels: int, noise_rate: float) -> np.ndarray:
    """Class c is replaced by class c + 1 (the last one by 0) with probability `noise_rate`: `[num_labels,
    num_labels]`."""
    _check_rate(num_labels, noise_rate)
    identity = np.eye(num_labels)
    return (1 - noise_rate) * identity + noise_rate * np.roll(identity, 1, axis=1)


NOISE_TYPES = {"symmetric": symmetric_transition_matrix, "asymmetric": asymmetric_transition_matrix}


def inject_label_noise(
    dataset: datasets.Dataset,
    noise_type: str,
    noise_rate: float,
    seed: int = 42,
    label_column: str = "label",
    num_labels: int | None = None,
) -> tuple[datasets.Dataset, NoiseReport]:
    """Corrupts labels at random, independently of the text.

    Args:
        dataset (`datasets.Dataset`): labels are class numbers (integers or `ClassLabel`).
        noise_type (`str`): `"symmetric"` ([`symmetric_transition_matrix`]) or `"asymmetric"`
            ([`asymmetric_transition_matrix`]).
        noise_rate (`float`): probability in [0, 1] that a label changes.
        seed (`int`, *optional*, defaults to 42): seed of the noise alone: it neither uses nor changes global state.
        label_column (`str`, *optional*, defaults to `"label"`): the column to corrupt.
        num_labels (`int`, *optional*): number of classes; by default that of the `ClassLabel` feature, or the largest
            label + 1.

    Returns:
        `tuple[datasets.Dataset, NoiseReport]`: the data set with noisy labels in `label_column` and the original ones
        in a new column `"true_label"`, and the realized rate and transition matrix.

    Raises:
        ValueError: where an argument is out of range, a column is missing or in the way, or a label is no class number.

    Example:

    ```python
    >>> noisy, report = inject_label_noise(train, "symmetric", 0.4, seed=1)
    >>> report.rate
    0.397
    ```
    """
    if noise_type not in NOISE_TYPES:
        raise ValueError(f"`noise_type` has to be one of {', '.join(NOISE_TYPES)}; got {noise_type!r}.")
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
    check_labels(labels, num_labels)
    true = np.array(labels, dtype=np.int64)
    if num_labels is None:
        num_labels = int(true.max()) + 1

    matrix = NOISE_TYPES[noise_type](num_labels, noise_rate)
    noisy = corrupt_labels(true, matrix, seed)
    columns = [*dataset.column_names, TRUE_LABEL]
    dataset = dataset.add_column(TRUE_LABEL, true, feature=feature)
    dataset = dataset.remove_columns(label_column).add_column(label_column, noisy, feature=feature)
    dataset = dataset.select_columns(columns)

    counts = np.zeros((num_labels, num_labels))
    np.add.at(counts, (true, noisy), 1)
    with np.errstate(invalid="ignore"):
        realized = counts / counts.sum(axis=1, keepdims=True)
    return dataset, NoiseReport(rate=float((noisy != true).mean()), transition_matrix=realized)


def corrupt_labels(labels: np.ndarray, transition_matrix: np.ndarray, seed: int) -> np.ndarray:
    """Draws for each label i a new one from row i of the transition matrix; `[num_samples]` in and out."""
    uniform = np.random.default_rng(seed).random(len(labels))
    cumulative = transition_matrix.cumsum(axis=1)[labels]
    cumulative[:, -1] = 1.0  # whatever the rounding
    return (uniform[:, None] >= cumulative).sum(axis=1)


def _check_rate(num_labels: int, noise_rate: float) -> None:
    if not 0 <= noise_rate <= 1:
        raise ValueError(f"`noise_rate` is a probability, so it has to be in [0, 1]; got {noise_rate}.")
    if num_labels < 2:
        raise ValueError("Label noise needs at least two classes: with one class there is no wrong label to give.")
