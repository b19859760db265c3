"""Samples that are the same and have different labels: at most one label of each text can be right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from .classes import shown


def contradictions(
    texts: Sequence[Sequence[str]], labels: Sequence[Any], rows: Sequence[int] | None = None
) -> str | None:
    """What to say of texts that are there with different labels; None if there are none.

    Args:
        texts (`Sequence` of sequences of `str`): the columns of texts, `[num_samples]` each. Texts are the same if they
            differ in blanks and case alone.
        labels (`Sequence` of shape `[num_samples]`): the given labels.
        rows (`Sequence[int]`, *optional*): the row of each sample in the data set; by default in their order.
    """
    if not texts:
        return None
    frame = pd.DataFrame(
        {f"text_{i}": [" ".join(str(text).split()).casefold() for text in own] for i, own in enumerate(texts)}
    )
    columns = list(frame.columns)
    frame["label"] = list(labels)
    frame["row"] = range(len(frame)) if rows is None else list(rows)
    differs = frame.groupby(columns, sort=False)["label"].transform("nunique") > 1
    if not differs.any():
        return None
    groups = frame[differs].sort_values("row").groupby(columns, sort=False)
    first = next(iter(groups))[1].drop_duplicates("label").iloc[:2]
    (row, other), (label, instead) = first["row"], first["label"].astype(str)
    count = "1 text is" if groups.ngroups == 1 else f"{groups.ngroups:,} texts are"
    return (
        f"{count} there with different labels, in {int(differs.sum()):,} rows (counted from 0): "
        f"row {row} is {shown(label)}, and row {other}, the same text, is {shown(instead)}. At most one label of each "
        "can be right."
    )
