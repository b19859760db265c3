"""Label noise for experiments: corrupts the labels of a data set and keeps the truth."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import datasets
import numpy as np
from scipy.optimize import brentq
from scipy.special import softmax
from scipy.stats import truncnorm

from .sample_index import check_labels

TRUE_LABEL = "true_label"
# (labels, num_labels, noise_rate, rng, features) -> noisy labels: see `register_noise_type`.
NoiseType = Callable[[np.ndarray, int, float, np.random.Generator, np.ndarray | None], np.ndarray]


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


def symmetric_transition_matrix(num_labels: int, noise_rate: float, include_true_class: bool = False) -> np.ndarray:
    """Each label is replaced with probability `noise_rate` by another class, drawn uniformly.

    Args:
        num_labels (`int`): number of classes K, 2 or more.
        noise_rate (`float`): probability in [0, 1] that a label is replaced.
        include_true_class (`bool`, *optional*, defaults to `False`): draw from all classes, the true one included. Then
            a label changes with probability `noise_rate * (K - 1) / K` only. The convention of CleaR's official code.

    Returns:
        `np.ndarray` of shape `[num_labels, num_labels]`: row i, column j: probability that true class i becomes j.

    Raises:
        ValueError: where an argument is out of range.
    """
    _check_rate(num_labels, noise_rate)
    if include_true_class:
        return (1 - noise_rate) * np.eye(num_labels) + noise_rate / num_labels
    matrix = np.full((num_labels, num_labels), noise_rate / (num_labels - 1))
    np.fill_diagonal(matrix, 1 - noise_rate)
    return matrix


def asymmetric_transition_matrix(num_labels: int, noise_rate: float, shift: int = 1) -> np.ndarray:
    """Class c is replaced by class `c + shift` (modulo K) with probability `noise_rate`.

    Args:
        num_labels (`int`): number of classes K, 2 or more.
        noise_rate (`float`): probability in [0, 1] that a label is replaced.
        shift (`int`, *optional*, defaults to 1): no multiple of K. CleaR's official code has -1.

    Returns:
        `np.ndarray` of shape `[num_labels, num_labels]`: row i, column j: probability that true class i becomes j.

    Raises:
        ValueError: where an argument is out of range.
    """
    _check_rate(num_labels, noise_rate)
    if shift % num_labels == 0:
        raise ValueError(f"A `shift` of {shift} leaves each of {num_labels} classes where it is: take 1 or -1.")
    identity = np.eye(num_labels)
    return (1 - noise_rate) * identity + noise_rate * np.roll(identity, shift, axis=1)


def load_transition_matrix(path: str | os.PathLike) -> np.ndarray:
    """Reads a transition matrix from a file.

    Args:
        path (`str` or `os.PathLike`): `.csv` (numbers between commas, a row a line, no header), `.npy`, or `.json` (a
            list of rows).

    Returns:
        `np.ndarray` of shape `[num_labels, num_labels]`: row i, column j: probability that true class i becomes j.

    Raises:
        ValueError: where the name ends otherwise, or the file holds no matrix of rows that sum to 1.
        OSError: where the file can't be read.
    """
    path = os.fspath(path)
    try:
        if path.endswith(".csv"):
            matrix = np.loadtxt(path, delimiter=",", ndmin=2, encoding="utf-8-sig")
        elif path.endswith(".npy"):
            with open(path, "rb") as file:  # `np.load` takes archives too
                matrix = np.lib.format.read_array(file, allow_pickle=False)
        elif path.endswith(".json"):
            with open(path, encoding="utf-8") as file:
                matrix = json.load(file)
        else:
            raise ValueError("the name has to end in .csv, .npy or .json.")
        return _check_transition_matrix(matrix)
    except ValueError as error:
        raise ValueError(f"No transition matrix in {path}: {error}") from error


def class_conditional(transition_matrix: Callable[[int, float], np.ndarray]) -> NoiseType:
    """The noise type that draws each label from its class's row of `transition_matrix(num_labels, noise_rate)`, an
    array of shape `[num_labels, num_labels]`."""

    def noise_type(labels, num_labels, noise_rate, rng, features):
        return corrupt_labels(labels, transition_matrix(num_labels, noise_rate), rng)

    return noise_type


def instance_dependent_noise(
    labels: np.ndarray,
    num_labels: int,
    noise_rate: float,
    rng: np.random.Generator,
    features: np.ndarray | None,
) -> np.ndarray:
    """Noise that depends on the sample, after Xia et al. 2020 (arXiv 2006.07836), Algorithm 2.

    Sample i keeps its label y with probability `1 - q_i`. The flip rates `q_i` are normal with standard deviation 0.1,
    truncated to [0, 1]; we choose the location such that their mean is `noise_rate` (theirs is the location, so that
    the truncation moves the mean). The wrong class is drawn from the softmax of the scores `x_i W_y` without class y,
    with `W_y ~ N(0, 1)` of shape `[dim, num_labels]`, one for each true class, and `x_i` the features, standardized
    column by column. With many features the scores are large, and nearly always the best wrong class is drawn.

    In one thing we differ. In Xia et al. `q_i` has nothing to do with `x_i`: features decide where a label flips to,
    not whether it does. Here, within each true class, the larger `q_i` go to the samples with the larger score of
    their best wrong class. The flip then depends on the features too, and the distribution of the rates stays.

    Args:
        labels (`np.ndarray` of shape `[num_samples]`): true classes.
        num_labels (`int`): number of classes.
        noise_rate (`float`): mean flip rate in [0, 1].
        rng (`np.random.Generator`): source of all draws.
        features (`np.ndarray` of shape `[num_samples, dim]`): in any unit.

    Returns:
        `np.ndarray` of shape `[num_samples]`: noisy classes.

    Raises:
        ValueError: where `features` is missing, of another shape, or not finite, or another argument is out of range.
    """
    _check_rate(num_labels, noise_rate)
    features = _standardized(features, len(labels))
    rates = _flip_rates(noise_rate, len(labels), rng)
    probabilities = np.zeros((len(labels), num_labels))
    for label in range(num_labels):
        weights = rng.standard_normal((features.shape[1], num_labels))
        rows = np.flatnonzero(labels == label)
        scores = features[rows] @ weights
        scores[:, label] = -np.inf
        order = scores.max(axis=1).argsort()
        rows, scores = rows[order], scores[order]
        rates[rows] = np.sort(rates[rows])
        probabilities[rows] = rates[rows, None] * softmax(scores, axis=1)
        probabilities[rows, label] = 1 - rates[rows]
    return _draw(probabilities, rng)


NOISE_TYPES: dict[str, NoiseType] = {}


def register_noise_type(name: str, noise_type: NoiseType) -> None:
    """Adds a noise type that [`inject_label_noise`] knows by name.

    Args:
        name (`str`): not registered yet.
        noise_type (`Callable`): called as `noise_type(labels, num_labels, noise_rate, rng, features)`, with the true
            labels (`np.ndarray` of shape `[num_samples]`), a `np.random.Generator` for all its draws, and what
            `inject_label_noise` got as features (or None). Returns the noisy labels, of the same shape. For noise that
            depends on the class only: [`class_conditional`].

    Raises:
        ValueError: where the name is taken.

    Example:

    ```python
    >>> register_noise_type("two_on", class_conditional(partial(asymmetric_transition_matrix, shift=2)))
    ```
    """
    if name in NOISE_TYPES:
        raise ValueError(f"There is a noise type {name!r} already: choose another name, or delete it from NOISE_TYPES.")
    NOISE_TYPES[name] = noise_type


register_noise_type("symmetric", class_conditional(symmetric_transition_matrix))
register_noise_type(
    "symmetric_including_true_class", class_conditional(partial(symmetric_transition_matrix, include_true_class=True))
)
register_noise_type("asymmetric", class_conditional(asymmetric_transition_matrix))
register_noise_type("asymmetric_previous", class_conditional(partial(asymmetric_transition_matrix, shift=-1)))
register_noise_type("instance_dependent", instance_dependent_noise)


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
        ValueError: where an argument is out of range, missing, or one too many, a column is missing or in the way, or a
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
        transition_matrix = _check_transition_matrix(transition_matrix)
    elif noise_type is None or noise_rate is None:
        raise ValueError("Give `noise_type` and `noise_rate`, or a `transition_matrix`.")
    elif noise_type not in NOISE_TYPES:
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
    if transition_matrix is not None:
        if num_labels not in (None, len(transition_matrix)):
            raise ValueError(f"`transition_matrix` is for {len(transition_matrix)} classes; there are {num_labels}.")
        num_labels = len(transition_matrix)
    check_labels(labels, num_labels)
    true = np.array(labels, dtype=np.int64)
    if num_labels is None:
        num_labels = int(true.max()) + 1

    rng = np.random.default_rng(seed)
    if transition_matrix is not None:
        noisy = corrupt_labels(true, transition_matrix, rng)
    else:
        _check_rate(num_labels, noise_rate)
        noisy = np.asarray(NOISE_TYPES[noise_type](true.copy(), num_labels, noise_rate, rng, features))
        if noisy.shape != true.shape or noisy.dtype.kind not in "iu" or noisy.min() < 0 or noisy.max() >= num_labels:
            raise ValueError(
                f"Noise type {noise_type!r} has to return {len(true)} class numbers from 0 to {num_labels - 1}; got "
                f"{noisy.dtype} of shape {list(noisy.shape)}: {noisy}."
            )
    columns = [*dataset.column_names, TRUE_LABEL]
    dataset = dataset.add_column(TRUE_LABEL, true, feature=feature)
    dataset = dataset.remove_columns(label_column).add_column(label_column, noisy, feature=feature)
    dataset = dataset.select_columns(columns)

    counts = np.zeros((num_labels, num_labels))
    np.add.at(counts, (true, noisy), 1)
    with np.errstate(invalid="ignore"):
        realized = counts / counts.sum(axis=1, keepdims=True)
    return dataset, NoiseReport(rate=float((noisy != true).mean()), transition_matrix=realized)


def corrupt_labels(labels: np.ndarray, transition_matrix: np.ndarray, seed: int | np.random.Generator) -> np.ndarray:
    """Draws for each label i a new one from row i of the transition matrix; `[num_samples]` in and out."""
    return _draw(transition_matrix[labels], np.random.default_rng(seed))  # a generator is taken as it is


def _draw(probabilities: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One class a row: `[num_samples, num_labels]` to `[num_samples]`."""
    cumulative = probabilities.cumsum(axis=1)
    cumulative[:, -1] = 1.0  # whatever the rounding
    return (rng.random(len(probabilities))[:, None] >= cumulative).sum(axis=1)


def _flip_rates(noise_rate: float, num_samples: int, rng: np.random.Generator, spread: float = 0.1) -> np.ndarray:
    """`[num_samples]`: from a normal truncated to [0, 1] with mean `noise_rate` after the truncation."""
    if not 1e-3 <= noise_rate <= 1 - 1e-3:  # so near to 0 or 1 no spread is left
        return np.full(num_samples, float(noise_rate))

    def truncated(location: float):
        return truncnorm(-location / spread, (1 - location) / spread, loc=location, scale=spread)

    # The location runs off as the mean nears 0 or 1: by about spread² / 0.001 = 10.
    location = brentq(lambda location: truncated(location).mean() - noise_rate, -11, 12)
    return truncated(location).rvs(num_samples, random_state=rng)


def _standardized(features: np.ndarray | None, num_samples: int) -> np.ndarray:
    """Columns of mean 0 and standard deviation 1 (0 where a column is constant): `[num_samples, dim]`."""
    if features is None:
        raise ValueError(
            "Instance-dependent noise needs `features` of shape [num_samples, dim], sentence embeddings for example."
        )
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or len(features) != num_samples or features.shape[1] == 0:
        raise ValueError(f"`features` has to be of shape [{num_samples}, dim]; got {list(features.shape)}.")
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        raise ValueError(f"`features` of sample {finite.argmin()} are not finite. Repair them, or drop the sample.")
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    varies = deviation > 1e-12 * np.abs(mean)  # a constant such as 0.1 differs from its mean by rounding
    return np.where(varies, (features - mean) / np.where(varies, deviation, 1.0), 0.0)


def _check_rate(num_labels: int, noise_rate: float) -> None:
    if not 0 <= noise_rate <= 1:
        raise ValueError(f"`noise_rate` is a probability, so it has to be in [0, 1]; got {noise_rate}.")
    if num_labels < 2:
        raise ValueError("Label noise needs at least two classes: with one class there is no wrong label to give.")


def _check_transition_matrix(matrix: np.ndarray) -> np.ndarray:
    try:
        matrix = np.asarray(matrix, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"A transition matrix holds numbers, in rows of equal length: {error}.") from error
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 0:
        raise ValueError(f"A transition matrix has shape [num_labels, num_labels]; got {list(matrix.shape)}.")
    for index, row in enumerate(matrix):
        if not ((row >= 0) & (row <= 1)).all():
            raise ValueError(f"Row {index} of the transition matrix has to lie in [0, 1]; got {row}.")
        if abs(row.sum() - 1) > 1e-6:
            raise ValueError(f"Row {index} of the transition matrix has to sum to 1; it sums to {row.sum():.6g}.")
    return matrix
