"""The suspects as the page holds them: columns as JSON, compressed, within a budget of bytes."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any, NamedTuple

import numpy as np

from .frame import IssueFrame

_LONGEST = 32_000  # characters of a text: as many as a cell of a spreadsheet holds
_DENSEST = 8  # letters that a byte of the content holds at most
_DIGITS = {"label_score": 4, "suggestion_confidence": 4, "loss": 3}


class Packed(NamedTuple):
    """The suspects of a page.

    Attributes:
        content (`str`): base64 of gzipped JSON.
        shown (`int`): how many suspects it holds, the worst.
        suspects (`int`): how many there are.
    """

    content: str
    shown: int
    suspects: int


def pack(table: IssueFrame, most_bytes: int) -> Packed:
    """Packs as many suspects as fit, worst first. The rest is in the table that the page was made from.

    Args:
        most_bytes (`int`): of the content.
    """
    suspects = table.rows[table.rows["is_label_issue"]].sort_values("label_score", kind="stable", na_position="last")
    letters = np.cumsum(sum((suspects[name].str.len().to_numpy() for name in table.texts), np.zeros(len(suspects))))
    shown = int((letters <= _DENSEST * most_bytes).sum())  # no more are tried
    while True:
        content = _encoded(table, suspects.iloc[:shown])
        if len(content) <= most_bytes or shown == 0:
            return Packed(content, shown, len(suspects))
        shown = min(int(shown * 0.97 * most_bytes / len(content)), shown - 1)


def _encoded(table: IssueFrame, rows: Any) -> str:
    number = {name: place for place, name in enumerate(table.classes)}
    data: dict[str, Any] = {
        "classes": table.classes,
        "texts": [[name, [text[:_LONGEST] for text in rows[name]]] for name in table.texts],
        "sample_index": rows["sample_index"].tolist(),
        "given_label": [number[name] for name in rows["given_label"]],
    }
    if "predicted_label" in rows:
        data["predicted_label"] = [None if name is None else number[name] for name in rows["predicted_label"]]
    for name, digits in _DIGITS.items():
        if name in rows:
            values = rows[name].to_numpy()
            data[name] = [round(value, digits) if np.isfinite(value) else None for value in values.tolist()]
    if "reasons" in rows:
        kinds = sorted({reason for reasons in rows["reasons"] for reason in reasons})
        data["reasons"] = [kinds, [[kinds.index(reason) for reason in reasons] for reasons in rows["reasons"]]]
    plain = json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
    return base64.b64encode(gzip.compress(plain, compresslevel=6, mtime=0)).decode()
