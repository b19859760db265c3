"""`"class_balanced"`: no class has much fewer modules that act on it than all samples have."""

from __future__ import annotations

import numpy as np
import torch

from ._registry import register_routing_strategy

_FEW = 0.5  # a class whose mean is less than this part of all samples' mean is balanced
_PSEUDO_SAMPLES = 20  # of a class, with its own mean: of few samples, some have no luck
_LEAST, _MOST = 1e-38, 1 - 1e-16  # probabilities with finite log odds; float32 has hardly less
_STEPS = 60  # of bisection: to the last bit of a probability


def class_balanced(
    clean_probability: torch.Tensor,
    gamma: float,
    is_clean: torch.Tensor | None,
    labels: torch.Tensor,
    losses: torch.Tensor,
) -> torch.Tensor:
    """`γ·p'`: p' are the clean probabilities. If their mean over a given class is less than half of that over all
    samples, its log odds are shifted by a constant, so that it is that over all.

    A class that the model has not learned yet has large losses, whether its labels are right or wrong. By `γ·p`, hardly
    any module acts on it, so that it is never learned. Here it has a share in training, and within the class the
    likelier labels still come first: posteriors for another prior (Saerens et al., 2002). The price: if a class has far
    more wrong labels than others, more of them are trusted.

    The mean of a class of n samples goes n / (n + 20) of the way. Samples without a label, or with a loss that is not
    finite, keep their p.
    """
    # On the CPU, in one order: every process has to come to the same bits.
    p, given, loss = (values.detach().cpu().numpy() for values in (clean_probability, labels, losses))
    p, rows = p.astype(np.float64), np.flatnonzero((given >= 0) & np.isfinite(loss))
    if len(rows) == 0:
        return gamma * clean_probability
    _, of_class, sizes = np.unique(given[rows], return_inverse=True, return_counts=True)
    own, of_all = np.bincount(of_class, p[rows]) / sizes, p[rows].mean()
    is_low = own < _FEW * of_all
    if not is_low.any():
        return gamma * clean_probability
    mean = ((sizes * of_all + _PSEUDO_SAMPLES * own) / (sizes + _PSEUDO_SAMPLES)).clip(_LEAST, _MOST)
    odds, low = _log_odds(p[rows], loss[rows].astype(np.float64)), is_low[of_class]
    p[rows[low]] = _shifted(odds[low], (np.cumsum(is_low) - 1)[of_class[low]], mean[is_low])
    return gamma * torch.from_numpy(p).to(clean_probability)


def _log_odds(p: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Of p that are 0 in float32, too: they go on as a straight line over the losses, so that smaller ones still come
    first. It begins at the largest loss with another p."""
    inside = np.clip(p, _LEAST, _MOST)
    odds, is_lost = np.log(inside) - np.log1p(-inside), p < _LEAST
    if not is_lost.any():
        return odds
    first, known = losses[is_lost].min(), np.flatnonzero(~is_lost)
    slope = 1 / max(losses.std(), np.finfo(np.float32).tiny)
    if len(known):
        last = known[losses[known].argmax()]
        if losses[last] < first:
            slope = (odds[last] - np.log(_LEAST)) / (first - losses[last])
    odds[is_lost] -= slope * (losses[is_lost] - first)
    return odds


def _shifted(odds: np.ndarray, of_class: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Probabilities with these means: `[num_classes]`."""
    from scipy.special import expit

    sizes = np.bincount(of_class)
    high = np.full(len(sizes), -odds.min() - np.log(_LEAST))
    low = np.full(len(sizes), -odds.max() + np.log(_LEAST))
    for _ in range(_STEPS):
        shift = (low + high) / 2
        is_low = np.bincount(of_class, expit(odds + shift[of_class])) / sizes < mean
        low, high = np.where(is_low, shift, low), np.where(is_low, high, shift)
    return expit(odds + shift[of_class])


register_routing_strategy("class_balanced", class_balanced, needs_labels=True)
