"""Label noise for a data set of texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from datasets import Dataset
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from ..noise import NOISE_TYPES, TRUE_LABEL, inject_label_noise
from .labels import TEXTS


def add_noise(
    dataset: Dataset,
    noise_type: str | None = None,
    noise_rate: float | None = None,
    seed: int = 42,
    transition_matrix: np.ndarray | Sequence[Sequence[float]] | None = None,
    matrix_name: str = "The transition matrix",
) -> Dataset:
    """Makes some labels wrong; the noise depends on `seed` alone. Draw a subset afterwards, not before: then all
    subsets see the same noise.

    [`~hf_clear.noise.inject_label_noise`] with the features that some noise types need: [`text_features`].

    Args:
        dataset (`Dataset`): as [`labelled_texts`] returns it: `label` is a `ClassLabel`, texts are in `text` (and
            `text_pair`).
        noise_type (`str`, *optional*): a name in [`~hf_clear.noise.NOISE_TYPES`]; goes with `noise_rate`.
        noise_rate (`float`, *optional*): probability in [0, 1] that a label is changed.
        seed (`int`, *optional*, defaults to 42): seed of the noise.
        transition_matrix (`np.ndarray` of shape `[num_classes, num_classes]`, *optional*): row i, column j:
            probability that class i becomes j. In place of `noise_type` and `noise_rate`.
        matrix_name (`str`, *optional*): what the matrix is called in messages.

    Returns:
        `Dataset`: noisy labels in `label`, the original ones in `true_label`.

    Raises:
        ValueError: if the matrix is for another number of classes, or an argument is out of range or missing.

    Example:

    ```python
    >>> train = add_noise(splits["train"], "instance_dependent", 0.4)
    ```
    """
    if transition_matrix is not None:
        matrix, label_names = np.array(transition_matrix), dataset.features["label"].names
        if len(matrix) != len(label_names):
            raise ValueError(
                f"{matrix_name} is for {len(matrix)} classes. There are {len(label_names)}, in this order: "
                f"{', '.join(label_names)}."
            )
        return inject_label_noise(dataset, transition_matrix=matrix, seed=seed)[0]
    uses_features = noise_type is not None and noise_type in NOISE_TYPES and NOISE_TYPES[noise_type].uses_features
    features = text_features(dataset) if uses_features else None
    return inject_label_noise(dataset, noise_type, noise_rate, seed, features=features)[0]


def text_features(dataset: Dataset, columns: Sequence[str] = TEXTS) -> np.ndarray:
    """TF-IDF of the texts, reduced to at most 64 dimensions (latent semantic analysis).

    Args:
        dataset (`Dataset`): with one or more of the columns.
        columns (`Sequence[str]`, *optional*, defaults to `("text", "text_pair")`): the texts, which are joined.

    Returns:
        `np.ndarray` of shape `[num_samples, dimensions]`: the same for every model.
    """
    texts = [" ".join(parts) for parts in zip(*(dataset[name] for name in columns if name in dataset.column_names))]
    tfidf = TfidfVectorizer(token_pattern=r"(?u)\S+").fit_transform(texts)
    size = min(64, min(tfidf.shape) - 1)
    return TruncatedSVD(size, random_state=0).fit_transform(tfidf) if size > 0 else tfidf.toarray()


def realized_noise(dataset: Dataset) -> dict[str, float]:
    """How many of the labels are wrong, as far as the truth is known.

    Args:
        dataset (`Dataset`): with class numbers in `label` and, if the truth is known, in `true_label` (-100 for a
            sample of which it is not).

    Returns:
        `dict[str, float]`: `true_labels`, the number of samples whose truth is known, and `noise_rate`, the share of
        these whose label is wrong (absent if there are none). Empty without a column `true_label`.
    """
    if TRUE_LABEL not in dataset.column_names:
        return {}
    true = np.array(dataset[TRUE_LABEL])
    known = true >= 0
    noise: dict[str, float] = {"true_labels": int(known.sum())}
    if known.any():
        noise["noise_rate"] = float((true != np.array(dataset["label"]))[known].mean())
    return noise
