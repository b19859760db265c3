"""Simulated labels whose truth is known."""

import numpy as np


def simulated(matrix, size=5000, separation=4.0, seed=0):
    """Scores that are the log-likelihoods of Gaussian classes, true labels, and given labels drawn from `matrix`."""
    rng, num_labels = np.random.default_rng(seed), len(matrix)
    true = rng.integers(0, num_labels, size)
    x = rng.normal(size=(size, num_labels)) + separation * np.eye(num_labels)[true]
    given = (rng.random(size)[:, None] > np.cumsum(matrix, axis=1)[true]).sum(axis=1).clip(0, num_labels - 1)
    return separation * x, true, given


def asymmetric(rate, num_labels):
    return (1 - rate) * np.eye(num_labels) + rate * np.roll(np.eye(num_labels), 1, axis=1)


def softmax(scores):
    odds = np.exp(scores - np.nanmax(scores, axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)
