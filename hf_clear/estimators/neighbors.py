"""How far the given label of a sample agrees with those of its neighbors. numpy and scikit-learn only."""

from __future__ import annotations

from typing import cast

import numpy as np

from ._evidence import features_and_labels
from ._registry import register_estimator
from .mixtures import gaussian_mixture

MOST_NEIGHBORS = 20_000  # samples whose neighbors are looked for if nobody asks: it takes seconds, and their square


def knn_agreement(features: np.ndarray, labels: np.ndarray, k: int = 10) -> np.ndarray:
    """The share of each sample's nearest neighbors that have its given label (Deep k-NN, Bahri et al., 2020, arXiv
    2004.12289).

    The neighbors are the `k` other samples with the largest cosine similarity (all others, if there are fewer). Each
    counts by its similarity; those at a right angle or beyond count next to nothing.

    This is no probability yet. With 60 % wrong labels, even a sample with a correct one agrees with a minority of its
    neighbors. The estimator `"knn"` therefore is `gaussian_mixture(1 - knn_agreement(features, labels))`. The means in
    its diagnostics are shares of disagreement, not nats.

    Time grows with the square of the number of samples, memory only with their number.

    Args:
        features (`np.ndarray` of shape `[num_samples, dim]`): of a model that has not seen the given labels, such as
            the frozen base model. Used in float32.
        labels (`np.ndarray` of shape `[num_samples]`): the given class labels.
        k (`int`, *optional*, defaults to 10): the number of neighbors.

    Returns:
        `np.ndarray` of shape `[num_samples]`: in [0, 1]; 1 if there is no other sample.

    Raises:
        ValueError: if `features` or `labels` is None or of another shape, `k` is smaller than 1, or the features of
            a sample are all zero or not finite: they have no direction.
    """
    if labels is None or features is None:
        missing = "labels" if labels is None else "features"
        raise ValueError(
            f"`{missing}` is None: k-NN needs one class label (which token-level tasks don't have) and one vector of "
            "features for each sample. 'gaussian_mixture' does without."
        )
    votes, weights = neighbor_votes(features, labels, k)
    if len(votes) < 2:
        return np.ones(len(votes))
    return (weights * (votes == np.asarray(labels)[:, None])).sum(axis=1) / weights.sum(axis=1)


def neighbor_votes(features: np.ndarray, labels: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The labels and the weights of each sample's neighbors, as in [`knn_agreement`].

    Returns:
        `tuple[np.ndarray, np.ndarray]`, both of shape `[num_samples, min(k, num_samples - 1)]`: nearest first.
    """
    from sklearn.neighbors import NearestNeighbors

    features, labels = features_and_labels(features, labels)
    if k < 1:
        raise ValueError(f"`k` has to be at least 1 neighbor, got {k}.")
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    no_direction = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if len(no_direction):
        raise ValueError(
            f"The `features` of {len(no_direction)} samples (the first: index {no_direction[0]}) are all zero or not "
            "finite in float32: cosine similarity is not defined. Compute them in float32, or leave those samples out."
        )
    if len(labels) < 2:
        return labels[:, None][:, :0], np.ones((len(labels), 0))

    # On unit vectors, Euclidean neighbors are cosine neighbors, and scikit-learn finds them in blocks of bounded size.
    search = NearestNeighbors(n_neighbors=min(k, len(labels) - 1), algorithm="brute").fit(features / norms)
    distances, neighbors = search.kneighbors()  # without an argument: no sample is its own neighbor
    similarity = 1 - distances.astype(np.float64) ** 2 / 2
    weights = np.maximum(similarity, np.finfo(np.float32).eps)  # never 0: if no neighbor is similar, all count alike
    return labels[neighbors], weights


def neighbors_disagree(features: np.ndarray, labels: np.ndarray, k: int = 10) -> np.ndarray:
    """Whether another label is more frequent than the given one among the nearest neighbors, weighed as in
    [`knn_agreement`]. Unlike a majority of all neighbors, the most frequent label is mostly the true one, even if most
    labels are wrong.

    Args:
        features (`np.ndarray` of shape `[num_samples, dim]`), labels (`np.ndarray` of shape `[num_samples]`), k
            (`int`): as of [`knn_agreement`]. Samples with a negative label, or whose features are not finite or all
            zero, have no neighbors and are none.

    Returns:
        `np.ndarray` of shape `[num_samples]`: bool; False for samples without neighbors.
    """
    features, labels = features_and_labels(features, labels)
    norms = np.linalg.norm(features, axis=1)
    rows = np.flatnonzero((labels >= 0) & np.isfinite(norms) & (norms > 0))
    disagrees = np.zeros(len(labels), dtype=bool)
    if len(rows) < 2:
        return disagrees
    votes, weights = neighbor_votes(features[rows], labels[rows], k)
    most = np.zeros(len(rows))
    for nearest in range(votes.shape[1]):
        most = np.maximum(most, (weights * (votes == votes[:, nearest : nearest + 1])).sum(axis=1))
    disagrees[rows] = most > (weights * (votes == labels[rows, None])).sum(axis=1) * (1 + 1e-9)
    return disagrees


register_estimator(
    "knn",
    lambda e: gaussian_mixture(1 - knn_agreement(cast(np.ndarray, e.features), cast(np.ndarray, e.labels))),
    uses_features=True,
    uses_labels=True,
    uses_probabilities=False,
)
