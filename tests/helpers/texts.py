"""Texts that a tiny model can learn from, as tables and files."""

from __future__ import annotations

import random
from pathlib import Path

import pandas as pd

COLORS = ("red", "green", "blue")


def rows(num_rows: int, label: str = "label", text: str = "text", seed: int = 0) -> pd.DataFrame:
    """Texts in which one color is frequent; the label is that color."""
    rng = random.Random(seed)
    colors = [COLORS[i % 3] for i in range(num_rows)]
    texts = [
        " ".join([f"{c}{rng.randrange(12)}" for _ in range(4)] + [f"filler{rng.randrange(12)}" for _ in range(3)])
        for c in colors
    ]
    return pd.DataFrame({"id": range(num_rows), text: texts, label: colors})


def write(frame: pd.DataFrame, path: Path) -> str:
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True)
    return str(path)
