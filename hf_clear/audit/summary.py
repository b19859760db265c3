"""What an audit of labels found, as text and as a table. Needs no network and no terminal width."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import datasets
import pandas as pd

from ..data.contradictions import contradictions
from ..report.frame import issue_frame
from ..report.issue_table import COLUMNS
from ..report.summary import Suspicion
from .labels import LabelAudit

PRECISION_TITLE = "How many of the first labels of the list are wrong"
_WIDE = 0.3  # of the range of the noise rate
_WORST, _WIDTH = 10, 60  # suspects that are shown, and characters of their texts
_FEW = 5  # labels of a class
_LEAST_FOUND = 0.5  # of the planted errors


def summary(audit: LabelAudit, source: str = "The data") -> str:
    """The findings in a few lines: suspects, noise rate, expected precision, warnings, and the worst suspects."""
    size, suspects, rate = len(audit.table), audit.label_issues, audit.noise_rate
    lines = [f"{source}: {size:,} labels, {len(audit.transition_matrix)} classes."]
    share = f" ({_percent(len(suspects) / size)})" if size else ""
    which = Suspicion.of(issue_frame(audit.table), audit.threshold)
    lines.append(f"{len(suspects):,} of them{share} {'is' if len(suspects) == 1 else 'are'} {which.words}.")
    if audit.is_supported:
        lines.append(
            f"Share of wrong labels: between {_percent(rate.low)} and {_percent(rate.high)} (noise model "
            f"{_percent(rate.mixture)}, confident joint {_percent(rate.confident_joint)})."
        )
        if len(audit.planted.planted):
            lines.append(
                f"Errors that were planted to try it out: {_percent(audit.planted.found)} of "
                f"{len(audit.planted.planted):,} were found."
            )
        accuracy = audit.accuracy
        lines.append(
            f"Accuracy of the predictions that this goes by: {_percent(accuracy.given)} on the given labels; on the "
            f"true ones about {_percent(accuracy.estimate)} ({_percent(accuracy.low)} to {_percent(accuracy.high)})."
        )
    if audit.is_supported and audit.expected_precision:
        lines += ["", f"{PRECISION_TITLE}:", ""]
        lines += ["  " + line for line in precision_table(audit.expected_precision).to_string(index=False).splitlines()]
    lines += _measured(audit.measured)
    for text in warnings_of(audit):
        lines += ["", textwrap.fill(f"Warning: {text}", 100)]
    if len(suspects):
        lines += ["", "The worst:", *_worst(audit)]
    return "\n".join(lines)


def _measured(found: Mapping[str, float] | None) -> list[str]:
    """By true labels, if there are any."""
    if not found:
        return []
    if "noise_rate" not in found:
        return ["", "No sample whose true label is known has a score."]
    line = f"By {found['true_labels']:,.0f} true labels: {_percent(found['noise_rate'])} are wrong"
    if "detection_auroc" in found:
        line += (
            f"; AUROC of the list {found['detection_auroc']:.3f}; {_percent(found['detection_precision'])} of the "
            f"suspects are wrong, which are {_percent(found['detection_recall'])} of all wrong ones"
        )
    return ["", f"{line}."]


def precision_table(cuts: Sequence[Mapping[str, float | None]]) -> pd.DataFrame:
    """Expected precision at each cut, for people: `first`, `noise model`, `planted errors`, `95 % interval`.

    Args:
        cuts (`Sequence[Mapping[str, float]]`): `expected_precision` of a [`LabelAudit`], or of `audit.json`.
    """
    rows = [
        {
            "first": f"{row['num_labels']:,}",
            "noise model": _percent(row["precision_mixture"]),
            "planted errors": _percent(row["precision_planted"]),
            "95 % interval": f"{_percent(row['precision_low'])} to {_percent(row['precision_high'])}",
        }
        for row in cuts
    ]
    return pd.DataFrame(rows, columns=["first", "noise model", "planted errors", "95 % interval"])


def warnings_of(audit: LabelAudit) -> list[str]:
    """What speaks against the list, and against labels that no model has to look at."""
    table = audit.table
    texts = [table[name][:] for name in _texts_of(table)]
    contradicting = contradictions(texts, table["given_label"][:], table["sample_index"][:])
    found, rate = [] if contradicting is None else [contradicting], audit.noise_rate
    if not audit.is_supported:
        labels = table["given_label"][:]
        if len(set(labels)) > len(labels) / _FEW:
            why = (
                f"there are {len(set(labels)):,} classes for {len(labels):,} labels, too few of each to learn from. Is "
                "it the right column (`hf-clear audit --label_column_name`)?"
            )
        else:
            why = (
                "the predictions say nothing about the labels, or there are too few labels to be sure that they do, so "
                "that no label is called wrong. Take features of another model (`hf-clear audit "
                "--model_name_or_path`), or train one: `hf-clear train`."
            )
        return [*found, why]
    if rate.high - rate.low > _WIDE:
        found.append(
            "hard samples and wrong labels look alike to these predictions, so that the share of wrong labels can't "
            "be told. Take the list as an order in which to look, and train a model for a better one: `hf-clear train`."
        )
    if len(audit.planted.planted) and audit.planted.found < _LEAST_FOUND:
        found.append(
            f"only {_percent(audit.planted.found)} of the planted errors were found: most wrong labels are not among "
            "the suspects."
        )
    unscored = sum("not_scored" in reasons for reasons in audit.table["reasons"])
    if unscored:
        found.append(f"{unscored:,} labels have no score: nothing is known of them.")
    return found


def _worst(audit: LabelAudit) -> list[str]:
    table = audit.label_issues.select(range(min(_WORST, len(audit.label_issues))))
    texts, lines = _texts_of(table), []
    for row in table:
        text = " | ".join(" ".join(str(row[name]).split()) for name in texts)
        text = textwrap.shorten(text, _WIDTH, placeholder="...") if text else ""
        text = "".join(letter if letter.isprintable() else " " for letter in text)  # no escape codes in a terminal
        given, suggested = (_printable(row[name]) for name in ("given_label", "predicted_label"))
        lines.append(f"  row {row['sample_index']}: {given} -> {suggested}{f'   {text}' * bool(text)}")
    return lines


def _texts_of(table: datasets.Dataset) -> list[str]:
    return [name for name in table.column_names if name not in COLUMNS]


def _printable(value: object) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in str(value))


def _percent(share: float | None) -> str:
    if share is None or share != share:
        return "-"
    return f"{100 * share:.1f} %" if 0 < share < 0.095 else f"{100 * share:.0f} %"
