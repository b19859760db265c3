"""Whether predictions agree with labels more than guesses do. numpy and scipy only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_SIGNIFICANCE = 0.01  # one-sided: how rarely guessing passes for a model


class Agreement(NamedTuple):
    """How many of `size` predictions are as labelled, and the share of guesses with the same frequencies of classes
    that would be."""

    agreeing: int
    size: int
    chance: float

    @classmethod
    def of(cls, predicted: np.ndarray, labels: np.ndarray) -> Agreement:
        """Both `[num_samples]`; a negative label agrees with nothing."""
        size, num_labels = len(labels), int(max(predicted.max(), labels.max(), 0)) + 1
        shares = [np.bincount(values[values >= 0], minlength=num_labels) / size for values in (predicted, labels)]
        agreeing = int(((predicted == labels) & (labels >= 0)).sum())
        return cls(agreeing, size, float((shares[0] * shares[1]).sum()))

    def needed(self, kappa: float = 0.0) -> int:
        """How many have to agree, so that a Cohen's kappa above this is significant (one-sided binomial test, 1 %)."""
        from scipy.stats import binom

        return int(binom.isf(_SIGNIFICANCE, self.size, self.chance + kappa * (1 - self.chance))) + 1
