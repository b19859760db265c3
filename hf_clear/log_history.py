"""What a log history tells: series over epochs, and what each fit found. Plain values in, plain values out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

HISTOGRAM = "loss_histogram"  # of an entry of the log history: see `fits_of`
_CLEANSING = "cleanse_"  # how TurnTrainer's names begin
_MIXTURE = ("mixture_mean_clean", "mixture_std_clean", "mixture_mean_noisy", "mixture_std_noisy")


def series_of(log_history: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """The finite values that were logged under a name, and the epochs at which they were."""
    found = [(entry["epoch"], entry[key]) for entry in log_history if _is_number(entry.get(key)) and "epoch" in entry]
    return [epoch for epoch, _ in found], [value for _, value in found]


def fits_of(log_history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The entries that fits of clean probabilities logged, in order of time; names as ClearTrainer has them."""
    return [
        {name.removeprefix(_CLEANSING): value for name, value in entry.items()}
        for entry in log_history
        if is_fit(entry)
    ]


def is_fit(logs: Mapping[str, Any]) -> bool:
    """Whether a fit of clean probabilities has logged this."""
    return "fit_warnings" in logs or f"{_CLEANSING}fit_warnings" in logs


def histogram_of(fit: Mapping[str, Any]) -> tuple[list[float], list[float]] | None:
    """Counts and edges of the losses at a fit, if its entry has them."""
    found = fit.get(HISTOGRAM)
    if not isinstance(found, Mapping):
        return None
    counts, edges = found.get("counts"), found.get("edges")
    if not (isinstance(counts, list) and isinstance(edges, list) and len(edges) == len(counts) + 1 > 1):
        return None
    return (counts, edges) if all(map(_is_number, counts + edges)) and sorted(set(edges)) == edges else None


def mixture_of(diagnostics: Mapping[str, Any] | None) -> list[tuple[str, float, float, float]] | None:
    """Name, weight, mean and standard deviation of the two components; None if there is no mixture."""
    values: list[Any] = [(diagnostics or {}).get(key) for key in (*_MIXTURE, "mixture_weight_noisy")]
    if not all(map(_is_number, values)) or min(values[1], values[3]) <= 0:
        return None
    clean_mean, clean_std, noisy_mean, noisy_std, weight = values
    return [("right", 1 - weight, clean_mean, clean_std), ("wrong", weight, noisy_mean, noisy_std)]


def curves_of(log_history: Sequence[Mapping[str, Any]], kind: str) -> dict[str, tuple[list[float], list[float]]]:
    """The learning curves of a kind, by name: `"loss"` of training and evaluations, or `"accuracy"` and F1."""
    endings = ("loss",) if kind == "loss" else ("accuracy", "_f1", "matthews_correlation")
    keys = dict.fromkeys(key for entry in log_history for key in entry)
    chosen = [key for key in keys if key == kind == "loss" or (key.startswith("eval_") and key.endswith(endings))]
    curves = {}
    for key in chosen:
        name = key.removeprefix("eval_").replace("_", " ")
        name = f"evaluation {name}" if " " not in name and key != "loss" else name
        if (series := series_of(log_history, key))[0]:
            curves["training loss" if key == "loss" else name] = series
    return curves


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
