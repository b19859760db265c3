"""How good a list of suspect labels is, and the tables of detection.py."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score

OURS, THEIRS = "hf_clear", "cleanlab"
COLUMNS = {
    "average_precision": ("average precision", ".3f"),
    "auroc": ("AUROC", ".3f"),
    "estimated": ("N, as estimated", ",.0f"),
    "precision_at_estimated": ("precision of the worst N", ".3f"),
    "precision_at_true": ("of the worst N, the true one", ".3f"),
    "issues": ("issues", ",.0f"),
    "precision": ("precision", ".3f"),
    "recall": ("recall", ".3f"),
    "f1": ("F1", ".3f"),
    "seconds": ("CPU seconds", ".0f"),
}
COMPARED = ("average_precision", "auroc", "precision_at_estimated", "precision_at_true", "f1")


class Found(NamedTuple):
    """What a method says of the labels.

    Attributes:
        suspicion (`np.ndarray` of shape `[num_samples]`): the higher, the less a label is trusted.
        is_issue (`np.ndarray` of shape `[num_samples]`): bool.
        estimated (`float`): how many labels are wrong.
    """

    suspicion: np.ndarray
    is_issue: np.ndarray
    estimated: float


def measure(found: Found, is_wrong: np.ndarray) -> dict[str, float | None]:
    """How good that is, by the truth. None for a ranking if all labels are right, or all are wrong."""
    hits, wrong = is_wrong[np.argsort(-found.suspicion, kind="stable")], int(is_wrong.sum())
    tells = 0 < wrong < len(is_wrong)
    of_issues = precision_recall_fscore_support(is_wrong, found.is_issue, average="binary", zero_division=0.0)
    return {
        "labels": len(is_wrong),
        "wrong": wrong,
        "average_precision": float(average_precision_score(is_wrong, found.suspicion)) if tells else None,
        "auroc": float(roc_auc_score(is_wrong, found.suspicion)) if tells else None,
        "estimated": float(found.estimated),
        "precision_at_estimated": float(hits[: max(round(found.estimated), 1)].mean()),
        "precision_at_true": float(hits[:wrong].mean()) if wrong else None,
        "issues": int(found.is_issue.sum()),
        **dict(zip(("precision", "recall", "f1"), map(float, of_issues))),
    }


def means(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """By setting and method, over the seeds."""
    groups: dict[str, dict[str, list]] = {}
    for row in rows:
        if "method" in row:
            groups.setdefault(f"{row['data']} {row['noise']}", {}).setdefault(row["method"], []).append(row)
    return {setting: {name: _mean(own) for name, own in methods.items()} for setting, methods in groups.items()}


def compare(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each setting and number, the mean over seeds: `value` is that of hf_clear, `stock` that of cleanlab."""
    found = []
    for setting, methods in means(rows).items():
        for name in COMPARED if {OURS, THEIRS} <= set(methods) else ():
            value, stock = methods[OURS][name], methods[THEIRS][name]
            if value is not None and stock is not None:
                ratio = stock / value if value else None
                title = COLUMNS[name][0]
                found.append(
                    {"name": f"{setting}, {title}", "ratio": ratio, "target": 1.0, "value": value, "stock": stock}
                )
    return found


def report(rows: list[dict[str, Any]]) -> str:
    """The table, and the cells in which hf_clear is behind cleanlab."""
    titles = ["labels", "method", *(title for title, _ in COLUMNS.values())]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for setting, methods in means(rows).items():
        for name, own in methods.items():
            cells = ["-" if own[key] is None else format(own[key], kind) for key, (_, kind) in COLUMNS.items()]
            first = _caption(setting, own) if name == next(iter(methods)) else ""
            lines.append(f"| {' | '.join([first, name, *cells])} |")
    compared = compare(rows)
    behind = [row for row in compared if row["value"] < row["stock"]]
    if compared:
        count = f"{len(compared) - len(behind)} of {len(compared)} cells"
        lines += ["", f"{OURS} is at least as good as {THEIRS} in {count}{', not in these:' if behind else '.'}"]
    if behind:
        lines += ["", *(f"- {row['name']}: {row['value']:.3f}; {THEIRS} {row['stock']:.3f}" for row in behind)]
    return "\n".join(lines)


def _caption(setting: str, own: dict[str, Any]) -> str:
    """With the F1 of calling every label wrong, which is high if many are."""
    rate = own["wrong"] / own["labels"]
    text = f"{setting}: {own['wrong']:,.0f} of {own['labels']:,.0f} wrong"
    return f"{text} (F1 of calling all wrong: {2 * rate / (1 + rate):.3f})"


def _mean(rows: list[dict[str, Any]]) -> dict[str, Any]:
    values = {name: [row[name] for row in rows] for name in ("labels", "wrong", *COLUMNS)}
    return {name: None if None in own else float(np.mean(own)) for name, own in values.items()}
