"""How many of the first labels of a list of suspects are wrong: expected precision at each cut. numpy and scipy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .._argument_checks import check_counts
from .noise_rate import NoiseRate
from .planted import PlantedErrors, share_of_errors

_Z, _TAIL = 1.96, 0.025  # of intervals of 95 %
_GRID = 40  # cuts at which the planted errors are looked at


def expected_precision(
    clean_probability: np.ndarray,
    rate: NoiseRate,
    planted: PlantedErrors | None = None,
    cuts: Sequence[int] = (10, 20, 50, 100, 200, 500, 1000),
) -> list[dict[str, float]]:
    """What share of the labels with the lowest clean probabilities is wrong, in two ways, with an interval.

    By the mixture, it is the mean of 1 - clean probability. By planted errors, it is `rate * R / F`: F is the share of
    labels that the cut takes, and R the share of planted errors that it takes (Bayes' rule). The interval goes from the
    lowest to the highest of what the range of the noise rate, the kinds of planted errors, and their number allow, and
    what a list of this length may have by chance. It is wide if little is known.

    Two things are assumed: errors are as hard to find as one of the two kinds that were planted, and precision doesn't
    rise along the list.

    Args:
        clean_probability (`np.ndarray` of shape `[num_samples]`): of each label; NaN for one of which nothing is known.
        rate ([`NoiseRate`]): the share of wrong labels.
        planted ([`PlantedErrors`], *optional*): without, the interval is that of the noise rate alone.
        cuts (`Sequence[int]`, *optional*): lengths of the list. 0, and those that are longer than there are samples,
            are left out.

    Returns:
        `list[dict[str, float]]`, one row a cut: `num_labels`, its length; `threshold`, the largest clean probability in
        it; `precision_mixture` and `precision_planted`, NaN if there is no such estimate; `precision_low` and
        `precision_high`, the interval.

    Raises:
        ValueError: if a cut is no whole number, 0 or above.
    """
    from scipy.stats import binom

    cuts = check_counts("cuts", cuts)
    known = np.sort(clean_probability[np.isfinite(clean_probability)])
    cuts = sorted({int(cut) for cut in cuts if 0 < cut <= len(known)})
    if not cuts:
        return []
    size = np.array(cuts)
    mixture = np.cumsum(1 - known)[size - 1] / size if np.isfinite(rate.mixture) else np.full(len(size), np.nan)
    by_planting, low, high = _by_planting(size / len(known), rate, planted)
    low, high = np.fmin(low, mixture), np.fmax(high, mixture)
    low, high = binom.ppf(_TAIL, size, low) / size, binom.isf(_TAIL, size, high) / size  # by chance
    columns = (size, known[size - 1], mixture, by_planting, low, high)
    names = ("num_labels", "threshold", "precision_mixture", "precision_planted", "precision_low", "precision_high")
    return [dict(zip(names, (int(row[0]), *map(float, row[1:])))) for row in zip(*columns)]


def _by_planting(
    share: np.ndarray, rate: NoiseRate, planted: PlantedErrors | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The estimate, and the ends of the interval of the expected precision at each share of the list."""
    rates = np.array([rate.low, rate.mixture, rate.high])
    if planted is None or not (len(planted.planted) and np.isfinite(rate.mixture)):
        return np.full(len(share), np.nan), np.zeros(len(share)), np.minimum(rate.high / share, 1)
    grid = np.unique(np.concatenate([share, np.geomspace(min(share.min(), 0.01), 1, _GRID)]))
    threshold = np.quantile(planted.untouched, grid)
    ends = []
    for kind in np.unique(planted.kind):  # of very few errors, there may be one kind alone
        of_kind = planted.planted[planted.kind == kind]
        found = (of_kind[:, None] <= threshold).mean(axis=0)
        for error, observed in zip(rates, (_wilson(found, len(of_kind))[0], found, _wilson(found, len(of_kind))[1])):
            taken = share_of_errors(observed, grid, error, planted.num_labels)
            ends.append(np.clip(error * taken / grid, 0, 1))
    low, middle, high = np.min(ends[::3], axis=0), np.mean(ends[1::3], axis=0), np.max(ends[2::3], axis=0)
    low = np.maximum.accumulate(low[::-1])[::-1]  # a shorter list is not worse than a longer one
    high = np.maximum(np.minimum.accumulate(high), low)
    at = np.searchsorted(grid, share)
    return middle[at], low[at], high[at]


def _wilson(share: np.ndarray, size: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of a share of so many (Wilson, 1927)."""
    center = (share + _Z**2 / (2 * size)) / (1 + _Z**2 / size)
    half = _Z * np.sqrt(np.maximum(share * (1 - share), 0) / size + _Z**2 / (4 * size**2)) / (1 + _Z**2 / size)
    return np.clip(np.minimum(center - half, share), 0, 1), np.clip(np.maximum(center + half, share), 0, 1)
