"""Whether differences between methods are more than chance: within a data set, and over several. numpy and scipy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_RESAMPLES = 9999
_LEVEL = 0.05
_FEW = 30  # samples that differ
_ROUNDING = 1e-9  # of sums of thirds and the like, relative
_MOST_NUMBERS = 2**24  # of resampled samples in memory at once


@dataclass(frozen=True)
class Difference:
    """A mean difference over test samples.

    Attributes:
        mean (`float`): of all samples.
        low, high (`float`): the ends of its 95 % interval.
        p (`float`): two-sided; 0.0002 is the least that 9,999 resamples can tell.
    """

    mean: float
    low: float
    high: float
    p: float

    @property
    def verdict(self) -> str:
        """`"win"` or `"loss"` if p is below 0.05 and the interval on one side of 0, else `"tie"`."""
        if self.p >= _LEVEL:
            return "tie"
        return "win" if self.low > 0 else "loss" if self.high < 0 else "tie"


def paired_bootstrap(difference: np.ndarray) -> Difference:
    """Asks whether one method is better than another on the same test samples, by resampling these with replacement
    (Efron and Tibshirani, 1993, section 13.3). It knows of the samples' chance alone: not of other seeds. If fewer than
    30 samples differ, resampling is too sure, and p is that of an exact sign-flip test: how often the sum is as far
    from 0 if each difference has its sign by chance. Of one seed, that is the sign test (McNemar's).

    Args:
        difference (`np.ndarray` of shape `[num_samples]`): of each sample, how much better; such as 1 if the first
            method alone is right, -1 if the second alone is, else 0; or the mean of that over seeds.

    Returns:
        [`Difference`]: the same each time.

    Raises:
        ValueError: if there is no sample, or a number is not finite.
    """
    from scipy.stats import bootstrap

    difference = np.asarray(difference, dtype=np.float64)
    if difference.ndim != 1 or not len(difference) or not np.isfinite(difference).all():
        raise ValueError(
            f"`difference` has to hold a finite number for each test sample; got shape {list(difference.shape)}."
        )
    mean = float(difference.mean())
    if len(difference) == 1 or not difference.any():
        return Difference(mean, min(mean, 0.0), max(mean, 0.0), 1.0)
    found = bootstrap(
        (difference,),
        np.mean,
        n_resamples=_RESAMPLES,
        batch=max(1, _MOST_NUMBERS // len(difference)),
        method="percentile",
        rng=0,
    )
    below = (1 + (found.bootstrap_distribution <= 0).sum()) / (1 + _RESAMPLES)
    above = (1 + (found.bootstrap_distribution >= 0).sum()) / (1 + _RESAMPLES)
    low, high = (float(end) for end in found.confidence_interval)
    if np.count_nonzero(difference) < _FEW:
        return Difference(mean, low, high, _sign_flip_p(difference))
    return Difference(mean, low, high, float(min(1.0, 2 * min(below, above))))


def _sign_flip_p(difference: np.ndarray) -> float:
    """Of all choices of signs, the share whose sum is as far from 0 as the one that was found."""
    sizes = np.abs(difference[difference != 0])
    halves = []
    for half in (sizes[::2], sizes[1::2]):  # all sums of each: their pairs are then counted, not made
        sums = np.zeros(1)
        for size in half:
            sums = np.concatenate([sums - size, sums + size])
        halves.append(np.sort(sums))
    least = abs(difference.sum()) - _ROUNDING * sizes.sum()
    as_large = len(halves[1]) - np.searchsorted(halves[1], least - halves[0])
    return float(min(1.0, 2 * as_large.sum() / 2 ** len(sizes)))


@dataclass(frozen=True)
class RankTest:
    """Whether methods differ over data sets (Demšar, 2006, JMLR 7).

    Attributes:
        mean_ranks (`np.ndarray` of shape `[num_methods]`): 1 for the best of a setting; ties share their ranks.
        p (`float`): that all are the same, by Friedman's test; of two methods, by Wilcoxon's signed-rank test.
        critical_difference (`float`, *optional*): by how much two mean ranks differ if their methods do, by Nemenyi's
            test at 5 %; None for two methods, for which `p` is the test.
    """

    mean_ranks: np.ndarray
    p: float
    critical_difference: float | None


def rank_test(scores: np.ndarray) -> RankTest:
    """Compares methods over several data sets by their ranks.

    Args:
        scores (`np.ndarray` of shape `[num_settings, num_methods]`): the higher, the better; what differs by rounding
            alone is the same. Settings should be independent of each other: those of the same texts are not, and p is
            then too small.

    Raises:
        ValueError: for fewer than two settings or methods, or a score that is not finite.
    """
    from scipy.stats import friedmanchisquare, rankdata, studentized_range, wilcoxon

    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2 or min(scores.shape) < 2 or not np.isfinite(scores).all():
        raise ValueError(
            "`scores` has to hold a finite number for each of two settings or more (rows) and two methods or more "
            f"(columns); got shape {list(scores.shape)}."
        )
    scores = scores.round(12)
    num_settings, num_methods = scores.shape
    mean_ranks = rankdata(-scores, axis=1).mean(axis=0)
    if num_methods == 2:
        difference = scores[:, 0] - scores[:, 1]
        return RankTest(mean_ranks, float(wilcoxon(difference).pvalue) if difference.any() else 1.0, None)
    quantile = studentized_range.ppf(1 - _LEVEL, num_methods, np.inf) / np.sqrt(2)
    least = float(quantile * np.sqrt(num_methods * (num_methods + 1) / 6 / num_settings))
    if (scores == scores[:, :1]).all():  # nothing to rank
        return RankTest(mean_ranks, 1.0, least)
    return RankTest(mean_ranks, float(friedmanchisquare(*scores.T).pvalue), least)
