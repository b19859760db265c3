"""Whether losses fall into two groups, or a mixture of two merely splits one. numpy, scipy and scikit-learn only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ._two_gaussians import NoMixture, fit_two_gaussians, separation

LEAST_SEPARATION = 2.0  # Ashman's D, above which a mixture of equal weights has two peaks
# Hartigan's dip times the square root of the number of samples: the 95 % quantile under a uniform distribution, which
# has the largest dips of all with one peak (Hartigan and Hartigan, 1985, Table 1, for many samples).
LEAST_DIP = 0.51
_SAMPLE = 1000  # quantiles that stand for more losses: a dip takes as many steps of Python
_MOST = 100 * _SAMPLE  # losses that count: the steps of the quantiles are a dip, too, of 1/2000
_SMALLEST = 1e-6  # loss, in nats: logarithms of smaller ones are about rounding


class Groups(NamedTuple):
    """How far losses fall into two groups.

    Attributes:
        separation (`float`): Ashman's D of a mixture of two Gaussians, see `separation`; NaN without a mixture.
        dip (`float`): the larger of Hartigan's dip statistics of the losses and of their logarithms, times the square
            root of their number (100,000 at most): skewed losses with one peak have small ones, however well a mixture
            splits them.
        weight (`float`): of the mixture's component with the larger losses.
        are_two (`bool`): whether separation and dip are both above their limits.
    """

    separation: float
    dip: float
    weight: float
    are_two: bool = False


def find_groups(losses: np.ndarray) -> Groups:
    """Looks for two groups in losses that are all finite, `[num_samples]`."""
    losses = np.sort(np.asarray(losses, dtype=np.float64))
    size = min(len(losses), _SAMPLE)
    quantiles = losses[(2 * np.arange(size) + 1) * len(losses) // (2 * max(size, 1))]
    try:
        _, mixture = fit_two_gaussians(quantiles, seed=0)
    except NoMixture:
        return Groups(np.nan, 0.0, 0.0)
    scales = quantiles, np.log(np.maximum(quantiles, _SMALLEST))
    largest = max(dip(values) for values in scales) * min(len(losses), _MOST) ** 0.5
    apart = separation(mixture.means, mixture.stds)
    return Groups(apart, float(largest), mixture.weights[1], apart > LEAST_SEPARATION and largest > LEAST_DIP)


def dip(values: np.ndarray) -> float:
    """Hartigan's dip statistic: the largest distance of the empirical distribution to the nearest one with one peak
    (Hartigan and Hartigan, 1985; algorithm AS 217, with the corrections of later implementations).

    Args:
        values (`np.ndarray` of shape `[num_samples]`): in ascending order.
    """
    size = len(values)
    if size < 4 or values[0] == values[-1]:
        return 0.0
    below, above = _hull(values, step=1), _hull(values, step=-1)
    low, high, largest = 0, size - 1, 1.0
    while True:
        minorant, majorant = [high], [low]  # touching points, from outside inwards
        while minorant[-1] > low:
            minorant.append(below[minorant[-1]])
        while majorant[-1] < high:
            majorant.append(above[majorant[-1]])
        distance, left, right = _distance(values, minorant, majorant)
        if distance < largest:
            break
        inner = [_deviation(values, minorant[i + 1], minorant[i], 1) for i in range(left, len(minorant) - 1)] + [
            _deviation(values, majorant[i], majorant[i + 1], -1) for i in range(right, len(majorant) - 1)
        ]
        largest = max([largest, *inner])
        if (low, high) == (minorant[left], majorant[right]):
            break
        low, high = minorant[left], majorant[right]
    return largest / (2 * size)


def _hull(values: np.ndarray, step: int) -> list[int]:
    """For each point, the one before it (after it, for `step=-1`) on the convex minorant up to it (on the concave
    majorant from it)."""
    x, size = values.tolist(), len(values)
    first, last = (0, size - 1) if step == 1 else (size - 1, 0)
    touching = [first] * size
    for point in range(first + step, last + step, step):
        before = point - step
        while before != first:
            earlier = touching[before]
            if (x[point] - x[before]) * (before - earlier) < (x[before] - x[earlier]) * (point - before):
                break
            before = earlier
        touching[point] = before
    return touching


def _distance(values: np.ndarray, minorant: list[int], majorant: list[int]) -> tuple[float, int, int]:
    """The largest distance between both, in samples, and where it is: a position in each."""
    left, right = len(minorant) - 1, len(majorant) - 1
    if len(minorant) == 2 and len(majorant) == 2:
        return 0.0, left, right
    i, j, largest = left - 1, 1, 0.0
    while True:
        below, above = minorant[i], majorant[j]
        if below > above:
            start = minorant[i + 1]
            slope = (below - start) / (values[below] - values[start])
            distance = (above - start + 1) - (values[above] - values[start]) * slope
            j += 1
            if distance >= largest:
                largest, left, right = distance, i + 1, j - 1
        else:
            start = majorant[j - 1]
            slope = (above - start) / (values[above] - values[start])
            distance = (values[below] - values[start]) * slope - (below - start - 1)
            i -= 1
            if distance >= largest:
                largest, left, right = distance, i + 1, j
        i, j = max(i, 0), min(j, len(majorant) - 1)
        if minorant[i] == majorant[j]:
            return largest, left, right


def _deviation(values: np.ndarray, start: int, end: int, sign: int) -> float:
    """The largest distance of the empirical distribution to a straight part of the minorant (majorant: `sign=-1`)."""
    if end - start <= 1 or values[start] == values[end]:
        return 1.0
    points = np.arange(start, end + 1)
    line = (values[points] - values[start]) * (end - start) / (values[end] - values[start])
    return float((sign * (points - start - line)).max() + 1)
