"""Whether differences are more than chance."""

import numpy as np
from scipy.stats import bootstrap, friedmanchisquare, studentized_range

_RESAMPLES = 9999
_LEVEL = 0.05


def compared(difference: np.ndarray) -> tuple[float, float, float]:
    """Of the mean difference over test samples: a 95 % interval and a two-sided p, by resampling the samples."""
    if not difference.any():
        return 0.0, 0.0, 1.0
    found = bootstrap((difference,), np.mean, n_resamples=_RESAMPLES, method="percentile", rng=0)
    below = (1 + (found.bootstrap_distribution <= 0).sum()) / (1 + _RESAMPLES)
    above = (1 + (found.bootstrap_distribution >= 0).sum()) / (1 + _RESAMPLES)
    return *found.confidence_interval, min(1.0, 2 * min(below, above))


def ranks_differ(scores: np.ndarray) -> tuple[float, float]:
    """Of `[num_settings, num_methods]` scores: p of Friedman's test that all mean ranks are the same, and by how much
    two of them have to differ by Nemenyi's test at 5 % (Demšar, 2006, JMLR 7, section 3.2)."""
    num_settings, num_methods = scores.shape
    quantile = studentized_range.ppf(1 - _LEVEL, num_methods, np.inf) / np.sqrt(2)
    least = quantile * np.sqrt(num_methods * (num_methods + 1) / 6 / num_settings)
    return float(friedmanchisquare(*scores.T).pvalue), float(least)
