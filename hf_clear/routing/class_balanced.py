"""`"class_balanced"`: as many modules act on each class as on all samples."""

from __future__ import annotations

import numpy as np
import torch

from ._registry import register_routing_strategy

_PSEUDO_SAMPLES = 20  # of a class, with its own mean: of few samples, some have no luck
_LEAST = 1e-38  # of a probability, for its log odds: float32 has hardly less
_STEPS = 60  # of bisection: to the last bit of a probability


def class_balanced(
    clean_probability: torch.Tensor, gamma: float, is_clean: torch.Tensor | None, labels: torch.Tensor
) -> torch.Tensor:
    """`γ·p'`: p' are the clean probabilities with the log odds of each given class shifted by a constant, so that its
    mean is that of all samples.

    A class that the model has not learned yet has large losses, whether its labels are right or wrong. By `γ·p`, hardly
    any module acts on it, so that it is never learned. Here each class has the same share in training, and within a
    class the likelier labels still come first: posteriors for another prior (Saerens et al., 2002), which is the same
    in each class. The price: if a class has more wrong labels than others, more of them are trusted.

    The mean of a class of n samples goes n / (n + 20) of the way. Samples without a label keep their p.
    """
    p, given = clean_probability.double().cpu().numpy().copy(), labels.cpu().numpy()
    rows = np.flatnonzero(given >= 0)
    if len(rows) == 0:
        return gamma * clean_probability
    # On the CPU, in one order: every process has to come to the same bits.
    _, of_class, sizes = np.unique(given[rows], return_inverse=True, return_counts=True)
    odds = np.clip(p[rows], _LEAST, 1 - 1e-16)
    own = np.bincount(of_class, odds) / sizes
    mean = (sizes * odds.mean() + _PSEUDO_SAMPLES * own) / (sizes + _PSEUDO_SAMPLES)
    odds = np.log(odds) - np.log1p(-odds)
    low, high = np.full(len(sizes), 2 * np.log(_LEAST)), np.full(len(sizes), -2 * np.log(_LEAST))
    for _ in range(_STEPS):
        shift = (low + high) / 2
        is_low = np.bincount(of_class, _sigmoid(odds + shift[of_class])) / sizes < mean
        low, high = np.where(is_low, shift, low), np.where(is_low, high, shift)
    p[rows] = _sigmoid(odds + shift[of_class])
    return gamma * torch.from_numpy(p).to(clean_probability)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


register_routing_strategy("class_balanced", class_balanced, needs_labels=True)
