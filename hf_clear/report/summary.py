"""What a table of label issues says, in sentences and by class. Plain values for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..log_history import fits_of
from .frame import IssueFrame
from .short_names import short_names

_SURE = 0.9  # of a suggestion
_LONGEST = 120  # characters of a name in a sentence


def sentences(
    table: IssueFrame, log_history: Sequence[Mapping[str, Any]] = (), warnings: Sequence[str] = ()
) -> list[str]:
    """What was found, in three sentences."""
    rows = table.rows
    size, suspects = len(rows), rows[rows["is_label_issue"]]
    if size and len(suspects) == size:
        first = f"The table holds {_count(size, 'suspect')}: labels that are more likely wrong than right"
    else:
        share = f" ({_percent(len(suspects) / size)})" if size else ""
        first = f"{len(suspects):,} of {size:,} labels{share} are suspects: more likely wrong than right"
    expected, fits = expected_precision(suspects), fits_of(log_history)
    if expected is not None and is_supported(log_history, warnings):
        if_so = "" if fits else ", if the scores are right"
        first += f"; about {round(100 * expected)} in 100 of them are expected to be really wrong{if_so}"
    return [f"{first}.", _noise_rate(table, fits, warnings), _suggestions(suspects)]


def is_supported(log_history: Sequence[Mapping[str, Any]], warnings: Sequence[str]) -> bool:
    """Whether scores may be taken for probabilities: nothing speaks against them, as far as anybody has looked."""
    fits = fits_of(log_history)
    return fits[-1].get("estimated_noise_rate") is not None if fits else not warnings


def _noise_rate(table: IssueFrame, fits: Sequence[Mapping[str, Any]], warnings: Sequence[str]) -> str:
    rate = fits[-1].get("estimated_noise_rate") if fits else None
    if rate is not None:
        low, high = (fits[-1].get(f"estimated_noise_rate_{end}") for end in ("low", "high"))
        between = "" if low is None or high is None else f", and between {_percent(low)} and {_percent(high)}"
        return f"The estimated share of wrong labels is {_percent(rate)}{between}."
    if not table.rows["label_score"].notna().any():
        return "Nothing is known of the labels: none has a score."
    if fits or warnings:
        return "How many labels are wrong can't be told from this fit: take the list as an order in which to look."
    score, issue = table.rows["label_score"], table.rows["is_label_issue"]
    if score.notna().any() and not issue.all():
        return f"By the scores of all samples, the expected share of wrong labels is {_percent(1 - score.mean())}."
    return "How many labels are wrong in all is not known."


def _suggestions(suspects: Any) -> str:
    if "predicted_label" not in suspects or not suspects["predicted_label"].notna().any():
        return "There are no suggestions: only the given labels are known." if len(suspects) else "Nothing to correct."
    pairs = suspects.groupby(["given_label", "predicted_label"], sort=False).size()
    (given, suggested), times = short_names(pairs.idxmax(), _LONGEST), int(pairs.max())
    text = f"The most frequent correction is “{given}” to “{suggested}” ({_count(times, 'sample')})"
    if "suggestion_confidence" in suspects:
        sure = int((suspects["suggestion_confidence"] >= _SURE).sum())
        text += f"; {_count(sure, 'suggestion')} {'is' if sure == 1 else 'are'} at least {_percent(_SURE)} sure"
    return f"{text}."


def expected_precision(suspects: Any) -> float | None:
    """The share of suspects that are really wrong if their scores are right: the mean of 1 - `label_score`."""
    score = suspects["label_score"].dropna()
    return float((1 - score).mean()) if len(score) else None


def by_class(table: IssueFrame, is_supported: bool = True) -> list[dict[str, Any]]:
    """One row a class that is given to a sample, the one with the largest share of suspects first: `label`, `samples`,
    `suspects`, `share`, `expected_precision` (None without suspects, or if scores are not supported), `suggestion` (the
    most frequent one for its suspects), and if the truth is known, `precision` and `recall` of the suspects (None if
    undefined)."""
    found, truth = [], table.is_noisy
    for label, rows in table.rows.groupby("given_label", sort=False):
        issue = rows["is_label_issue"].to_numpy()
        suspects = rows[issue]
        row = {"label": label, "samples": len(rows), "suspects": len(suspects), "share": len(suspects) / len(rows)}
        row["expected_precision"] = expected_precision(suspects) if is_supported else None
        suggested = suspects["predicted_label"].dropna() if "predicted_label" in rows else suspects.iloc[:0, 0]
        row["suggestion"] = suggested.value_counts().index[0] if len(suggested) else None
        if truth is not None:
            row |= _by_truth(truth[rows.index], issue)
        found.append(row)
    return sorted(found, key=lambda row: -row["share"])


def _by_truth(truth: np.ndarray, issue: np.ndarray) -> dict[str, float | None]:
    known, wrong = ~np.isnan(truth), truth == 1
    hits, flagged = int((wrong & issue).sum()), int((known & issue).sum())
    return {
        "precision": hits / flagged if flagged else None,
        "recall": hits / int(wrong.sum()) if wrong.any() else None,
    }


def facts(table: IssueFrame, log_history: Sequence[Mapping[str, Any]] = ()) -> list[tuple[str, str]]:
    """Numbers for the top of the page: name and value."""
    rows, fits = table.rows, fits_of(log_history)
    found = [("samples", f"{len(rows):,}"), ("classes", f"{len(table.classes):,}")]
    found.append(("suspects", f"{int(rows['is_label_issue'].sum()):,}"))
    if fits and fits[-1].get("estimated_noise_rate") is not None:
        found.append(("estimated noise rate", _percent(fits[-1]["estimated_noise_rate"])))
    missing = int(rows["label_score"].isna().sum())
    if missing:
        found.append(("not scored", f"{missing:,}"))
    truth = table.is_noisy
    if truth is not None:
        whole = _by_truth(truth, rows["is_label_issue"].to_numpy())
        found += [(f"{name}, by the truth", _percent(own)) for name, own in whole.items() if own is not None]
    return found


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _percent(share: float) -> str:
    """With one digit, and a space that no line breaks at; 100 % if it is all."""
    digits = f"{min(100 * share, 99.9) if share < 1 else 100:.1f}".removesuffix(".0")
    return f"{digits}\N{NO-BREAK SPACE}%"
