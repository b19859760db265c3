"""Noise that depends on the class alone: transition matrices and draws from them. numpy only."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import numpy as np

from .._argument_checks import check_seed
from ..transition_matrices import check_transition_matrix
from ._registry import NoiseFunction


def load_transition_matrix(path: str | os.PathLike) -> np.ndarray:
    """Reads a transition matrix from a file.

    Args:
        path (`str` or `os.PathLike`): `.csv` (numbers between commas, a row a line, no header), `.npy`, or `.json` (a
            list of rows).

    Returns:
        `np.ndarray` of shape `[num_labels, num_labels]`: row i, column j: probability that true class i becomes j.

    Raises:
        ValueError: if the name ends otherwise, or the file holds no matrix of rows that sum to 1.
        OSError: if the file can't be read.
    """
    path = os.fspath(path)
    try:
        if path.endswith(".csv"):
            with open(path, encoding="utf-8-sig") as file:  # numpy takes a name for an address
                matrix = np.loadtxt(file, delimiter=",", ndmin=2)
        elif path.endswith(".npy"):
            with open(path, "rb") as file:  # `np.load` takes archives too
                matrix = np.lib.format.read_array(file, allow_pickle=False)
        elif path.endswith(".json"):
            with open(path, encoding="utf-8") as file:
                matrix = json.load(file)
        else:
            raise ValueError("the name has to end in .csv, .npy or .json.")
        return check_transition_matrix(matrix)
    except ValueError as error:
        raise ValueError(f"No transition matrix in {path}: {error}") from error


def class_conditional(transition_matrix: Callable[[int, float], np.ndarray]) -> NoiseFunction:
    """The noise type that draws each label from its class's row of `transition_matrix(num_labels, noise_rate)`, an
    array of shape `[num_labels, num_labels]`."""

    def noise_type(labels, num_labels, noise_rate, rng, features):
        return corrupt_labels(labels, transition_matrix(num_labels, noise_rate), rng)

    return noise_type


def corrupt_labels(labels: np.ndarray, transition_matrix: np.ndarray, seed: int | np.random.Generator) -> np.ndarray:
    """Draws for each label i a new one from row i of the transition matrix; `[num_samples]` in and out."""
    if not isinstance(seed, np.random.Generator):
        check_seed(seed)
    return draw_rows(transition_matrix[labels], np.random.default_rng(seed))  # a generator is taken as it is


def draw_rows(probabilities: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One class a row: `[num_samples, num_labels]` to `[num_samples]`."""
    cumulative = probabilities.cumsum(axis=1)
    cumulative[:, -1] = 1.0  # whatever the rounding
    return (rng.random(len(probabilities))[:, None] >= cumulative).sum(axis=1)


def check_rate(num_labels: int, noise_rate: float) -> None:
    try:
        rate = float("nan") if isinstance(noise_rate, (bool, str)) else float(noise_rate)
    except (TypeError, ValueError, RuntimeError):
        rate = float("nan")
    if not 0 <= rate <= 1:
        raise ValueError(f"`noise_rate` is a probability, so it has to be a number in [0, 1]; got {noise_rate!r}.")
    if num_labels < 2:
        raise ValueError("Label noise needs at least two classes: with one class there is no wrong label to give.")
