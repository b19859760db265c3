"""Tables of trainings beside each other, for people, spreadsheets and papers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import pandas as pd

from .results import TrainingResult
from .significance import paired_bootstrap, rank_test

# What is shown of a training, if it is known.
METRICS = {
    "test_accuracy": "test accuracy",
    "test_peak_accuracy": "best epoch",
    "test_average_accuracy": "mean after the warm-up",
    "test_f1": "test F1",
    "test_matthews_correlation": "test Matthews correlation",
    "detection_auroc": "wrong labels: AUROC",
    "detection_average_precision": "average precision",
    "memorization_clean": "memorized: right labels",
    "memorization_noisy": "wrong labels",
}
_LEAST_SETTINGS = 3  # for a test of ranks: of two, none can be significant


def mean_and_deviation(values: Sequence[float]) -> str:
    """Mean, standard deviation (of a sample), and of how many; the mean alone of one value, a dash of none."""
    if len(values) < 2:
        return f"{values[0]:.3f}" if len(values) else "-"
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f} ({len(values)})"


def result_table(trainings: Sequence[TrainingResult]) -> pd.DataFrame:
    """A row for each training, with all digits."""
    rows = []
    for training in trainings:
        found = training.last()
        own = {"setting": training.setting, **training.details, "method": training.method, "seed": training.seed}
        rows.append({**own, **{name: found[name] for name in METRICS if name in found}})
    return pd.DataFrame(rows)


def mean_table(trainings: Sequence[TrainingResult]) -> pd.DataFrame:
    """Mean ± standard deviation over seeds, and how many these are: a row for each setting and method, a column for
    each metric that any of them has."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for setting in _of(trainings, "setting"):
        for method in _of(trainings, "method"):
            own = [one.last() for one in trainings if (one.setting, one.method) == (setting, method)]
            if own:
                rows[setting, method] = {
                    title: mean_and_deviation([found[name] for found in own if name in found])
                    for name, title in METRICS.items()
                }
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame = frame.loc[:, (frame != "-").any()]
    frame.index = pd.MultiIndex.from_tuples(rows, names=["setting", "method"])
    return frame


def difference_table(trainings: Sequence[TrainingResult], baseline: str) -> pd.DataFrame:
    """How much better than a baseline each method is in each setting, over the seeds that both have, by a paired
    bootstrap over test samples ([`paired_bootstrap`]): a row for each setting and method. Empty if no training knows
    which test samples it got right.

    Raises:
        ValueError: if two trainings of a setting and seed have different test samples.
    """
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for setting in _of(trainings, "setting"):
        own = {(one.method, one.seed): one for one in trainings if one.setting == setting and one.labels is not None}
        for method in _of(trainings, "method"):
            seeds = sorted(seed for name, seed in own if name == method and (baseline, seed) in own)
            if method == baseline or not seeds:
                continue
            differences = [_difference(own[method, seed], own[baseline, seed]) for seed in seeds]
            if len({len(difference) for difference in differences}) > 1:
                raise ValueError(f"The test sets of {setting!r} differ in size from seed to seed.")
            found = paired_bootstrap(np.mean(differences, axis=0))
            rows[setting, method] = {
                "seeds": str(len(seeds)),
                "difference": f"{found.mean:+.3f}",
                "95 % interval": f"{found.low:+.3f} to {found.high:+.3f}",
                "p": f"{found.p:.4f}",
                "result": found.verdict,
            }
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index = pd.MultiIndex.from_tuples(rows or [], names=["setting", f"method - {baseline}"])
    return frame


def rank_table(trainings: Sequence[TrainingResult]) -> pd.DataFrame | None:
    """Mean ranks by test accuracy, a row for each method, and a test whether they differ ([`rank_test`]); None if fewer
    than three settings have all methods."""
    frame = pd.DataFrame(
        [
            (one.setting, one.method, one.results["test_accuracy"])
            for one in trainings
            if "test_accuracy" in one.results
        ],
        columns=["setting", "method", "accuracy"],
    )
    scores = frame.pivot_table("accuracy", "setting", "method")[_of(trainings, "method")].dropna()
    if len(scores) < _LEAST_SETTINGS or scores.shape[1] < 2:
        return None
    found = rank_test(scores.to_numpy())
    shown = pd.DataFrame({"mean rank": [f"{rank:.2f}" for rank in found.mean_ranks]}, index=scores.columns)
    told = f"{len(scores)} settings, p = {found.p:.4f} (Wilcoxon)"
    if found.critical_difference is not None:
        told = (
            f"{len(scores)} settings, p = {found.p:.4f} (Friedman), critical difference "
            f"{found.critical_difference:.2f} (Nemenyi, 5 %)"
        )
    order = np.argsort(found.mean_ranks, kind="stable")
    return shown.iloc[order].rename_axis(f"method; {told}")


def markdown(frame: pd.DataFrame) -> str:
    """A table with its index as first columns."""
    rows = [
        [*map(str, frame.index.names), *frame.columns],
        ["---"] * (frame.index.nlevels + len(frame.columns)),
        *frame.reset_index().values.tolist(),
    ]
    return "".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)


def to_latex(frame: pd.DataFrame, caption: str) -> str:
    """A table for a paper (`booktabs`)."""
    for character in "&%$#_{}":
        caption = caption.replace(character, f"\\{character}")
    return frame.to_latex(escape=True, caption=caption).replace("±", r"$\pm$")


def _of(trainings: Sequence[TrainingResult], name: str) -> list[str]:
    """In the order in which they come."""
    return list(dict.fromkeys(getattr(one, name) for one in trainings))


def _difference(one: TrainingResult, other: TrainingResult) -> np.ndarray:
    ours, others = one.correct, other.correct
    if (
        ours is None
        or others is None
        or not np.array_equal(cast(np.ndarray, one.labels), cast(np.ndarray, other.labels))
    ):
        raise ValueError(
            f"{one.method} and {other.method} of {one.setting!r}, seed {one.seed}, were tested on different samples: "
            "nothing can be paired."
        )
    return ours.astype(np.float64) - others.astype(np.float64)
