"""How many of the first labels of a list of suspects are wrong: expected precision at each cut. numpy and scipy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from .._argument_checks import check_counts
from ._checks import as_probabilities
from .noise_rate import NoiseRate
from .planted import PlantedErrors, share_of_errors

_Z, _TAIL = 1.96, 0.025  # of intervals of 95 %
_GRID = 40  # cuts at which the planted errors are looked at
_LEAST = 10  # planted errors that a cut of nothing but wrong labels would take: one more is 10 % of precision or less


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
    rise along the list. So R has decreasing slopes, and the estimate takes the likeliest R that has: the least concave
    majorant of what was counted (Grenander, 1956). As counted, a short cut would rest on one planted error or two; now
    those of longer cuts speak for it, by what precision they have. Where planted errors are few and precision falls
    fast, it is too high rather than too low. There is no estimate for a cut that would take fewer than 10 planted
    errors if all of its labels were wrong: what would be stated is that of longer cuts.

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
        ValueError: if `clean_probability` is not one-dimensional or holds anything but probabilities and NaN, `rate` or
            `planted` is of another type, or a cut is no whole number, 0 or above.
    """
    from scipy.stats import binom

    clean_probability = as_probabilities("clean_probability", clean_probability).astype(np.float64)
    if not isinstance(rate, NoiseRate):
        raise ValueError(f"`rate` has to be a NoiseRate, as of `estimate_noise_rate`; got {rate!r}.")
    if planted is not None and not isinstance(planted, PlantedErrors):
        raise ValueError(f"`planted` has to be PlantedErrors, as of `plant_and_find`, or None; got {planted!r}.")
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
    """The estimate, and the ends of the interval of the expected precision at each share of the list. None of them
    rises along the list."""
    rates = np.array([rate.low, rate.mixture, rate.high])
    if planted is None or not (len(planted.planted) and len(planted.untouched) and np.isfinite(rate.mixture)):
        return np.full(len(share), np.nan), np.zeros(len(share)), np.minimum(rate.high / share, 1)
    grid = np.unique(np.concatenate([share, np.geomspace(min(share.min(), 0.01), 1, _GRID)]))
    says = len(planted.planted) * grid >= _LEAST * rate.mixture
    ends = []
    for kind in np.unique(planted.kind):  # of very few errors, there may be one kind alone
        of_kind = planted.planted[planted.kind == kind]
        found = _shares_taken(of_kind, planted.untouched, grid)
        least, most = _wilson(found, len(of_kind))
        for error, observed in zip(rates, (least, _concave(grid, found, says), most)):
            taken = share_of_errors(observed, grid, error, planted.num_labels)
            ends.append(np.clip(error * taken / grid, 0, 1))
    low, middle, high = np.min(ends[::3], axis=0), np.mean(ends[1::3], axis=0), np.max(ends[2::3], axis=0)
    low = np.maximum.accumulate(low[::-1])[::-1]  # a shorter list is not worse than a longer one
    high = np.maximum(np.minimum.accumulate(high), low)
    middle = np.where(says, np.clip(middle, low, high), np.nan)
    at = np.searchsorted(grid, share)
    return middle[at], low[at], high[at]


def _shares_taken(planted: np.ndarray, untouched: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The shares of the planted errors that cuts take which take these shares of the labels. Of labels with the same
    clean probability, a cut takes some at random."""
    threshold = np.quantile(untouched, grid)

    def shares(own: np.ndarray, side: Literal["left", "right"]) -> np.ndarray:
        return np.searchsorted(np.sort(own), threshold, side) / len(own)

    below, upto = shares(untouched, "left"), shares(untouched, "right")
    part = np.divide(grid - below, upto - below, out=np.ones(len(grid)), where=upto > below).clip(0, 1)
    return (1 - part) * shares(planted, "left") + part * shares(planted, "right")


def _concave(grid: np.ndarray, found: np.ndarray, says: np.ndarray) -> np.ndarray:
    """The least concave majorant, from 0 on, of the shares found in the cuts that say something."""
    x, y = np.append(0, grid[says]), np.append(0, found[says])
    corners = [0]
    for point in range(1, len(x)):
        while len(corners) > 1:
            before, last = corners[-2:]
            if (y[last] - y[before]) * (x[point] - x[last]) > (y[point] - y[last]) * (x[last] - x[before]):
                break
            corners.pop()
        corners.append(point)
    return np.interp(grid, x[corners], y[corners])


def _wilson(share: np.ndarray, size: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of a share of so many (Wilson, 1927)."""
    center = (share + _Z**2 / (2 * size)) / (1 + _Z**2 / size)
    half = _Z * np.sqrt(np.maximum(share * (1 - share), 0) / size + _Z**2 / (4 * size**2)) / (1 + _Z**2 / size)
    return np.clip(np.minimum(center - half, share), 0, 1), np.clip(np.maximum(center + half, share), 0, 1)
