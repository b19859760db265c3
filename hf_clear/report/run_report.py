"""`save_run_report`: the report on a run, from what it has left in its folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
from safetensors import SafetensorError, safe_open
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from .._names import CLEAN_PROBABILITIES, CLEAR_STATE, ISSUES_TABLE, REPORT, TRUE_LABEL
from ..files.strict_json import parse_json
from ..fit_checks import FitFindings
from ..labels.names import LABEL_NAMES_FILE, read_label_names
from ..log_history import fits_of
from .page import save_report

_STATES = (CLEAR_STATE, "_turn_state.safetensors", "_clear_state.safetensors")
_KINDS = {  # of warnings, if their text is not to be had
    "no_better_than_chance": "The model's predictions agree with the given labels no more than guesses would.",
    "lost_classes": "Nearly all labels of some classes are called wrong: the model may not have learned these classes.",
    "unexplained_classes": "Most labels of some classes are called wrong, far more than of others.",
    "no_two_groups": "The losses show no two groups: take the table as an order in which to look at labels.",
    "says_nothing": "The last fit says nothing about the labels: none has a score.",
    "non_finite_losses": "The losses of some samples are not finite: nothing is known of their labels.",
}


def save_run_report(
    output_dir: str | os.PathLike,
    path: str | os.PathLike | None = None,
    table: datasets.Dataset | pd.DataFrame | None = None,
    warnings: Iterable[str] = (),
    sections: Iterable[tuple[str, Any]] = (),
    noise_rate: tuple[float, float] | None = None,
    threshold: float | None = None,
) -> Path:
    """Writes the report ([`save_report`]) on a run of `run_glue_noisy.py` from its folder. Nothing of the run is
    changed, and no model is loaded. What the last fit warned of is in the report.

    Args:
        output_dir (`str` or `os.PathLike`): with `label_issues.parquet`, and `trainer_state.json` there or in a
            checkpoint.
        path (`str` or `os.PathLike`, *optional*): the HTML file; `OUTPUT_DIR/report.html` by default.
        table (`datasets.Dataset` or `pandas.DataFrame`, *optional*): label issues of all samples, in place of
            `label_issues.parquet`: of a training that was no run of the script ([`~hf_clear.load_label_issues`]).
        warnings (`Iterable[str]`, *optional*), sections (`Iterable[tuple[str, pandas.DataFrame]]`, *optional*): more
            of them, as in [`save_report`].
        noise_rate (`tuple[float, float]`, *optional*), threshold (`float`, *optional*): as in [`save_report`].

    Returns:
        `pathlib.Path`: the file.

    Raises:
        FileNotFoundError: if there is no such folder, or no table in it and none given.
        FileExistsError, ValueError, ImportError: as [`save_report`].

    Example:

    ```python
    >>> save_run_report("outputs/embedded/clear")
    ```
    """
    folder = Path(output_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder. Give the `output_dir` of a run.")
    if table is None:
        table = _table_in(folder)
    log_history = _log_history(folder)
    return save_report(
        folder / REPORT if path is None else path,
        table,
        log_history=log_history,
        warnings=[*_warnings(folder, fits_of(log_history)), *warnings],
        label_names=_label_names(folder, table),
        title=f"Labels of {folder.resolve().name}",
        sections=sections,
        noise_rate=noise_rate,
        threshold=threshold,
    )


def _table_in(folder: Path) -> pd.DataFrame:
    found = next((folder / name for name in (ISSUES_TABLE, CLEAN_PROBABILITIES) if (folder / name).is_file()), None)
    if found is None:
        raise FileNotFoundError(
            f"{folder} has no {ISSUES_TABLE}: run_glue_noisy.py writes it when it has trained. After a training of "
            "your own, call `trainer.save_report()`, or give the table as `table`."
        )
    table = pd.read_parquet(found)
    beside = folder / CLEAN_PROBABILITIES
    if TRUE_LABEL not in table and beside.is_file():
        truth = pd.read_parquet(beside)
        if TRUE_LABEL in truth and truth["sample_index"].is_unique:
            truth = truth.set_index("sample_index")[TRUE_LABEL]
            table[TRUE_LABEL] = table["sample_index"].map(truth).astype(object)
    return table


def _places(folder: Path) -> list[Path]:
    """The folder of a run, and its last checkpoint."""
    last = get_last_checkpoint(str(folder))
    return [folder] if last is None else [folder, Path(last)]


def _log_history(folder: Path) -> list[Mapping[str, Any]]:
    """Of the run's end or, if it was stopped, of its last checkpoint; empty without either."""
    for place in _places(folder):
        state = _read_json(place / TRAINER_STATE_NAME)
        if isinstance(state, dict) and isinstance(state.get("log_history"), list):
            return [entry for entry in state["log_history"] if isinstance(entry, dict)]
    return []


def _warnings(folder: Path, fits: list[dict[str, Any]]) -> list[str]:
    """Of the last fit: as they stand in the last checkpoint, or else in short."""
    kinds = [name for name in _KINDS if fits and fits[-1].get(f"fit_{name}")]
    told: dict[str, str] = {}
    for place in reversed(_places(folder)):  # the folder's own is the last that was saved
        for path in (place / name for name in _STATES if (place / name).is_file()):
            told |= _told_in(path)
    return [told.get(kind, _KINDS[kind]) for kind in kinds]


def _told_in(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="np") as file:
            state = parse_json((file.metadata() or {}).get("state", ""))
        return FitFindings.from_dict(state.get("findings") or {}).warnings
    except (SafetensorError, OSError, ValueError, AttributeError):  # damaged: there are shorter words for it
        return {}


def _label_names(folder: Path, table: Any) -> list[str] | None:
    """All classes in the model's order, if they are those of the table."""
    try:
        names = read_label_names(folder / LABEL_NAMES_FILE)
    except (OSError, ValueError):
        return None
    frame = table if isinstance(table, pd.DataFrame) else table.to_pandas()
    given = frame["given_label"].dropna() if "given_label" in frame else ()  # the report says that it is missing
    return names if set(given) <= set(names) else None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
