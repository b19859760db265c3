"""What a table of label issues says, in sentences and by class. Plain values for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..log_history import fits_of
from .frame import IssueFrame
from .issue_table import DEFAULT_THRESHOLD, are_issues
from .short_names import short_names

_SURE = 0.9  # of a suggestion
_LONGEST = 120  # characters of a name in a sentence

Range = tuple[float, float]


def sentences(
    table: IssueFrame,
    log_history: Sequence[Mapping[str, Any]] = (),
    warnings: Sequence[str] = (),
    noise_rate: Range | None = None,
    threshold: float | None = None,
) -> list[str]:
    """What was found, in three sentences. Arguments are those of [`~hf_clear.report.save_report`]."""
    rows = table.rows
    size, suspects = len(rows), rows[rows["is_label_issue"]]
    which = Suspicion.of(table, threshold)
    if size and len(suspects) == size:
        first = f"The table holds {_count(size, 'suspect')}: labels that are {which.words}"
    else:
        share = f" ({_percent(len(suspects) / size)})" if size else ""
        are = "is a suspect" if len(suspects) == 1 else "are suspects"
        first = f"{len(suspects):,} of {size:,} labels{share} {are}: {which.words}"
    expected, fits = expected_precision(suspects), fits_of(log_history)
    if expected is not None and is_supported(log_history, warnings, noise_rate):
        if_so = "" if fits else ", if the scores are right"
        first += f"; about {round(100 * expected)} in 100 of them are expected to be really wrong{if_so}"
    return [f"{first}.", _noise_rate(table, fits, warnings, noise_rate), _suggestions(suspects)]


class Suspicion(NamedTuple):
    """What makes a suspect of a label, as far as that is known, in words.

    Attributes:
        words (`str`): what suspects are.
        meaning (`str`): of the word, in a sentence.
        none (`str`): what to say if there is no suspect.
    """

    words: str
    meaning: str
    none: str

    @classmethod
    def of(cls, table: IssueFrame, threshold: float | None = None) -> Suspicion:
        """Of a table, which may have been made with any threshold: what is said is true of its scores."""
        rows = table.rows
        score, issue = rows["label_score"].to_numpy(), rows["is_label_issue"].to_numpy()
        is_likely = are_issues(score, rows["given_label"], rows.get("predicted_label"), DEFAULT_THRESHOLD)
        if (issue == (is_likely | (issue & (score == DEFAULT_THRESHOLD)))).all():  # a csv file rounds scores
            return cls(
                "more likely wrong than right",
                "A label that is more likely wrong than right: its “label right” is below one half.",
                "No label is more likely wrong than right.",
            )
        likely, none = int(is_likely.sum()), "No label is a suspect."
        others = f"({_count(likely, 'label')} {'is' if likely == 1 else 'are'} more likely wrong than right)"
        if threshold is None or (score[issue] > threshold).any():
            marked = "marked as such in the table (`is_label_issue`)"
            return cls(f"{marked} {others}", f"A label that is {marked}.", none)
        below = f"below the chosen threshold of {_percent(threshold)}"
        rest = ", and for which another class is more probable" if threshold <= DEFAULT_THRESHOLD else ""
        return cls(f"right with a probability {below} {others}", f"A label whose “label right” is {below}{rest}.", none)


def is_supported(
    log_history: Sequence[Mapping[str, Any]], warnings: Sequence[str], noise_rate: Range | None = None
) -> bool:
    """Whether scores may be taken for probabilities. Who states a range for the noise rate has looked at that: what
    else is warned of then is no reason against it. The last fit knows, too. Otherwise, nothing must speak against."""
    fits = fits_of(log_history)
    if noise_rate is not None:
        return True
    return fits[-1].get("estimated_noise_rate") is not None if fits else not warnings


def _noise_rate(
    table: IssueFrame, fits: Sequence[Mapping[str, Any]], warnings: Sequence[str], noise_rate: Range | None
) -> str:
    if noise_rate is not None:
        return f"The share of wrong labels is between {_percent(noise_rate[0])} and {_percent(noise_rate[1])}."
    rate = fits[-1].get("estimated_noise_rate") if fits else None
    if rate is not None:
        between = _range_of(fits[-1])
        return f"The estimated share of wrong labels is {_percent(rate)}{f', and {between}' * bool(between)}."
    if not table.rows["label_score"].notna().any():
        return "Nothing is known of the labels: none has a score."
    if fits or warnings:
        return "How many labels are wrong can't be told from this fit: take the list as an order in which to look."
    score, issue = table.rows["label_score"], table.rows["is_label_issue"]
    if score.notna().any() and not issue.all():
        return (
            f"By the scores of all samples, the expected share of wrong labels is {_percent(1 - score.mean())}, if "
            "these are right; no range is known."
        )
    return "How many labels are wrong in all is not known."


def _range_of(fit: Mapping[str, Any]) -> str:
    low, high = (fit.get(f"estimated_noise_rate_{end}") for end in ("low", "high"))
    return "" if low is None or high is None else f"between {_percent(low)} and {_percent(high)}"


def _suggestions(suspects: Any) -> str:
    if "predicted_label" not in suspects or not suspects["predicted_label"].notna().any():
        return "There are no suggestions: only the given labels are known." if len(suspects) else "Nothing to correct."
    changes = _changes(suspects)
    if not len(changes):
        return "There is no correction: each suggestion is the given label."
    pairs = changes.groupby(["given_label", "predicted_label"], sort=False).size()
    (given, suggested), times = short_names(pairs.idxmax(), _LONGEST), int(pairs.max())
    text = f"The most frequent correction is “{given}” to “{suggested}” ({_count(times, 'sample')})"
    if "suggestion_confidence" in changes:
        sure = int((changes["suggestion_confidence"] >= _SURE).sum())
        text += f"; {_count(sure, 'suggestion')} {'is' if sure == 1 else 'are'} at least {_percent(_SURE)} sure"
    return f"{text}."


def _changes(suspects: Any) -> Any:
    """Suspects whose suggestion is another class: with a threshold above 0.5, some are suggested what they have."""
    return suspects[suspects["predicted_label"].notna() & (suspects["predicted_label"] != suspects["given_label"])]


def expected_precision(suspects: Any) -> float | None:
    """The share of suspects that are really wrong if their scores are right: the mean of 1 - `label_score`."""
    score = suspects["label_score"].dropna()
    return float((1 - score).mean()) if len(score) else None


def by_class(table: IssueFrame, is_supported: bool = True) -> list[dict[str, Any]]:
    """One row a class that is given to a sample, the one with the largest share of suspects first: `label`, `samples`,
    `suspects`, `share`, `expected_precision` (None without suspects, or if scores are not supported), `suggestion` (the
    most frequent one for its suspects that is another class), and if the truth is known, `precision` and `recall` of
    the suspects (None if undefined)."""
    found, truth = [], table.is_noisy
    for label, rows in table.rows.groupby("given_label", sort=False):
        issue = rows["is_label_issue"].to_numpy()
        suspects = rows[issue]
        row = {"label": label, "samples": len(rows), "suspects": len(suspects), "share": len(suspects) / len(rows)}
        row["expected_precision"] = expected_precision(suspects) if is_supported else None
        suggested = _changes(suspects)["predicted_label"] if "predicted_label" in rows else suspects.iloc[:0, 0]
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


def facts(
    table: IssueFrame, log_history: Sequence[Mapping[str, Any]] = (), noise_rate: Range | None = None
) -> list[tuple[str, str]]:
    """Numbers for the top of the page: name and value."""
    rows, fits = table.rows, fits_of(log_history)
    found = [("samples", f"{len(rows):,}"), ("classes", f"{len(table.classes):,}")]
    found.append(("suspects", f"{int(rows['is_label_issue'].sum()):,}"))
    if noise_rate is not None:
        found.append(("noise rate", " to ".join(map(_percent, noise_rate))))
    elif fits and fits[-1].get("estimated_noise_rate") is not None:
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
