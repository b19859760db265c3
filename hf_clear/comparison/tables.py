"""Tables of trainings beside each other, for people, spreadsheets and papers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .results import TrainingResult
from .significance import paired_bootstrap, rank_test

# What is shown of a training, if it is known.
METRICS = {
    "test_accuracy": "test accuracy",
    "test_peak_accuracy": "accuracy in the best epoch",
    "test_average_accuracy": "mean accuracy after the warm-up",
    "test_f1": "test F1",
    "test_matthews_correlation": "test Matthews correlation",
    "detection_auroc": "wrong labels: AUROC",
    "detection_average_precision": "wrong labels: average precision",
    "memorization_clean": "memorized right labels",
    "memorization_noisy": "memorized wrong labels",
}
_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)
_LEAST_SETTINGS = 3  # for a test of ranks: of two, none can be significant


def mean_and_deviation(values: Sequence[float], counts: bool = False) -> str:
    """Mean, standard deviation (of a sample), and of how many; a dash of none. Of one value itself, with `counts` and
    that it is one."""
    if len(values) < 2:
        return f"{values[0]:.3f}{' (1)' * counts}" if len(values) else "-"
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
    counts = len({one.seed for one in trainings}) > 1
    for setting in _of(trainings, "setting"):
        for method in _of(trainings, "method"):
            own = [one.last() for one in trainings if (one.setting, one.method) == (setting, method)]
            if own:
                rows[setting, method] = {
                    title: mean_and_deviation([found[name] for found in own if name in found], counts)
                    for name, title in METRICS.items()
                }
    frame = _frame(rows, "method")
    return frame.loc[:, (frame != "-").any()]


def difference_table(trainings: Sequence[TrainingResult], baseline: str) -> pd.DataFrame:
    """How much better than a baseline each method is in each setting, in test accuracy over the seeds that both have,
    by a paired bootstrap over test samples ([`paired_bootstrap`]): a row for each setting and method. Empty if no
    training knows which test samples it got right.

    Raises:
        ValueError: if two trainings of a setting were tested on different samples.
    """
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for setting in _of(trainings, "setting"):
        own = {(one.method, one.seed): one for one in trainings if one.setting == setting and one.labels is not None}
        for method in _of(trainings, "method"):
            seeds = sorted(seed for name, seed in own if name == method and (baseline, seed) in own)
            if method == baseline or not seeds:
                continue
            pairs = [(own[method, seed], own[baseline, seed]) for seed in seeds]
            found = paired_bootstrap(np.mean([_difference(*pair, own[baseline, seeds[0]]) for pair in pairs], axis=0))
            rows[setting, method] = {
                "seeds": str(len(seeds)),
                "difference": f"{found.mean:+.3f}",
                "95 % interval": f"{found.low:+.3f} to {found.high:+.3f}",
                "p": shown_p(found.p),
                "result": found.verdict,
            }
    return _frame(rows, f"method - {baseline}")


def rank_table(trainings: Sequence[TrainingResult]) -> pd.DataFrame | None:
    """Mean ranks by [`TrainingResult.score`], a row for each method, and in `attrs["test"]` what a test says of whether
    they differ ([`rank_test`]). Of a setting, the seeds count that all methods have. None if fewer than three settings
    have such seeds."""
    methods, scores = _of(trainings, "method"), []
    for setting in _of(trainings, "setting"):
        of_setting = [one for one in trainings if one.setting == setting and one.score is not None]
        by_method = {method: {one.seed: one.score for one in of_setting if one.method == method} for method in methods}
        seeds = set.intersection(*(set(own) for own in by_method.values()))
        if seeds:
            scores.append([np.mean([own[seed] for seed in sorted(seeds)]) for own in by_method.values()])
    if len(scores) < _LEAST_SETTINGS or len(methods) < 2:
        return None
    found = rank_test(np.array(scores))
    order = np.argsort(found.mean_ranks, kind="stable")
    index = pd.Index([methods[number] for number in order], name="method")
    frame = pd.DataFrame({"mean rank": [f"{found.mean_ranks[number]:.2f}" for number in order]}, index=index)
    frame.attrs["test"] = f"{len(scores)} settings, p = {shown_p(found.p)} (Wilcoxon)"
    if found.critical_difference is not None:
        frame.attrs["test"] = (
            f"{len(scores)} settings, p = {shown_p(found.p)} (Friedman), critical difference "
            f"{found.critical_difference:.2f} (Nemenyi, 5 %)"
        )
    return frame


def shown_p(p: float) -> str:
    return f"{p:.4f}" if p >= 1e-4 else "<0.0001"


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
    caption = caption.translate(_LATEX)
    return frame.reset_index().to_latex(escape=True, index=False, caption=caption).replace("±", r"$\pm$")


def _frame(rows: dict[tuple[str, str], dict[str, str]], method: str) -> pd.DataFrame:
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index = pd.MultiIndex.from_tuples(rows or [], names=["setting", method])
    return frame


def _of(trainings: Sequence[TrainingResult], name: str) -> list[str]:
    """In the order in which they come."""
    return list(dict.fromkeys(getattr(one, name) for one in trainings))


def _difference(one: TrainingResult, other: TrainingResult, first: TrainingResult) -> np.ndarray:
    ours, others = one.correct, other.correct
    known = [np.asarray(training.labels) for training in (one, other, first)]
    if ours is None or others is None or not all(np.array_equal(labels, known[0]) for labels in known):
        raise ValueError(
            f"{one.setting!r}: {one.method} and {other.method} (seed {one.seed}), or another seed, were tested on "
            "different samples: nothing can be paired."
        )
    return ours.astype(np.float64) - others.astype(np.float64)
