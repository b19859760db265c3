"""The table of suspect labels of a run that has ended, or was killed: from its folder and its data."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers.trainer_utils import get_last_checkpoint

from ._argument_checks import check_label_names, is_blank
from ._names import IGNORED_LABEL, ISSUES_TABLE, LABEL_COLUMNS
from .identity.same_data import check_same_data
from .labels.names import LABEL_NAMES_FILE, are_names, names_in, read_label_names
from .report.issue_table import COLUMNS, DEFAULT_THRESHOLD, are_issues, check_threshold, issue_table, with_columns
from .report.sheets import is_same_text
from .report.shown_columns import class_names, shown_columns
from .sample_store import FINAL_STATE_NAME, STATE_NAME, SampleStore
from .turn.state import STATE_NAME as TURN_STATE
from .turn.state import TurnState

logger = logging.getLogger(__name__)


def load_label_issues(
    output_dir: str | os.PathLike,
    dataset: Any,
    threshold: float | None = None,
    return_all: bool = False,
    columns: Sequence[str] | None = None,
    label_names: Sequence[str] | None = None,
) -> datasets.Dataset:
    """The table of `trainer.label_issues()` of a saved run, in a new process and without its model.

    It is read from `label_issues.parquet`, which `run_glue_noisy.py` writes, or from the state that a trainer leaves:
    in its checkpoints, at `trainer.save_state()`, and after each phase of TURN. The data set is compared with that of
    the run, since the table is worth nothing beside other rows: by texts, or by the hashes of the model's inputs and by
    the labels.

    Args:
        output_dir (`str`): the folder of the run, or one of its checkpoints.
        dataset (`datasets.Dataset` or a map-style torch `Dataset`): the training set as the trainer had it, tokenized
            or with the columns that it had before; of `run_glue_noisy.py`, the training data as they are in the file.
        threshold, return_all, columns: as of `trainer.label_issues`.
        label_names (`Sequence[str]`, *optional*): the names of the classes, in the order of their numbers; by default
            those of the data set's `ClassLabel` column or of the config that the model was saved with.

    Returns:
        `datasets.Dataset`: as of `trainer.label_issues`, by the last fit that was saved.

    Raises:
        FileNotFoundError: if the folder holds no such file.
        ValueError: if the data set is another, or in another order; if the run was not fitted yet; if a file is
            damaged; or as `trainer.label_issues`.

    Example:

    ```python
    >>> hf_clear.load_label_issues("out", train).to_pandas().head()
    ```
    """
    check_label_names(label_names)
    threshold, folder = check_threshold(threshold), Path(output_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    if (folder / ISSUES_TABLE).is_file():
        state = folder / FINAL_STATE_NAME
        if state.is_file() and os.path.getmtime(state) > os.path.getmtime(folder / ISSUES_TABLE):
            logger.warning(f"{folder / ISSUES_TABLE} is read, and {state} is newer: move the table away to read that.")
        return _from_table(folder / ISSUES_TABLE, dataset, threshold, return_all, columns)
    path, store = _last_state(folder)
    names = label_names or class_names(dataset, LABEL_COLUMNS) or _saved_names(folder, path.parent)
    check_same_data(str(path), dataset, store, names)
    for warning in store.findings.warnings.values():
        logger.warning(f"{path}: {warning}")
    per_token = store.suggestion is None and bool((store.labels == IGNORED_LABEL).all())
    found = store.issue_columns(per_token)
    table = issue_table(**found, label_names=names, threshold=threshold, return_all=return_all)
    return with_columns(table, shown_columns(dataset, table["sample_index"][:], columns, label_names=names))


# ---- From the state of a trainer ----


def _last_state(folder: Path) -> tuple[Path, SampleStore]:
    """The last fit that a folder holds, and its file."""
    checkpoint = get_last_checkpoint(str(folder))
    places = [folder / FINAL_STATE_NAME, folder / STATE_NAME, folder / TURN_STATE]
    places += [] if checkpoint is None else [Path(checkpoint) / STATE_NAME, Path(checkpoint) / TURN_STATE]
    there_are = [(path, _read(path)) for path in places if path.is_file()]
    if not there_are:
        below = [path.parent.name for path in folder.glob(f"*/{ISSUES_TABLE}")]
        hint = f" There are such in {', '.join(sorted(below))}: name one of these folders." if below else ""
        raise FileNotFoundError(
            f"{folder} holds nothing of what ClearTrainer or TurnTrainer knows of the labels.{hint} It is saved with "
            "checkpoints (`save_strategy`), and by `trainer.save_state()` at the end."
        )
    fitted = [(path, store) for path, store in there_are if store is not None and store.is_fitted]
    if not fitted:
        raise ValueError(f"{there_are[0][0]} holds no clean probabilities: the run was saved before it had fitted any.")
    fitted.sort(key=lambda found: os.path.getmtime(found[0]))
    *earlier, last = fitted
    for found in earlier:  # of one run, that of the latest epoch: a copy of a folder has times of its own
        last = found if found[1].identity == last[1].identity and found[1].fitted_epoch > last[1].fitted_epoch else last
    logger.info(f"The clean probabilities are those of {last[0]}.")
    return last


def _read(path: Path) -> SampleStore | None:
    if path.name != TURN_STATE:
        return SampleStore.load(path)
    state = TurnState.load(path)
    if state.sample_store is not None:
        state.sample_store.identity = state.identity
    return state.sample_store


def _saved_names(*folders: Path) -> list[str] | None:
    """Of the classes, as a model's config or `run_glue_noisy.py` has them."""
    for folder in folders:
        names: list[str] = []
        with contextlib.suppress(OSError, ValueError):
            names = read_label_names(folder / LABEL_NAMES_FILE)
        if not names:
            with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
                saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))
                names = names_in(SimpleNamespace(id2label=saved.get("id2label")))
        if are_names(names) and not any(map(is_blank, names)):  # as `class_names`
            return names
    return None


# ---- From the table that the script has written ----


def _from_table(
    path: Path, dataset: Any, threshold: float, return_all: bool, columns: Sequence[str] | None
) -> datasets.Dataset:
    try:
        table = datasets.Dataset(pq.read_table(path))
        texts = [name for name in table.column_names if name not in COLUMNS]
        if (return_all or threshold > DEFAULT_THRESHOLD) and len(table) and all(table["is_label_issue"][:]):
            raise ValueError(
                f"{path} holds suspects alone, not all samples: move it away to read the state of the run instead, or "
                "write it with `return_all=True`."
            )
        rows, score = np.array(table["sample_index"][:]), np.array(table["label_score"][:], dtype=float)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise ValueError(f"{path} is damaged, or is no table of label issues ({error}).") from error
    missing = [name for name in texts if name not in getattr(dataset, "column_names", ())]
    if missing or not texts:
        raise ValueError(
            f"The data set has no column {missing[0] if missing else 'with a text'!r}, which {path} has: give the "
            "training data as they are in the file that the run has read."
        )
    plain = dataset.with_format(None)
    outside = rows[(rows < 0) | (rows >= len(dataset))]
    if len(outside):
        raise ValueError(f"{path} has row {outside[0]}, and the data set has {len(dataset)} rows: it is another one.")
    for name in texts:
        own = plain.select(rows)[name][:]
        differs = [row for row, (mine, text) in enumerate(zip(own, table[name][:])) if not is_same_text(mine, text)]
        if differs:
            row = rows[differs[0]]
            raise ValueError(
                f"{path} is of other data, or of these in another order: {len(differs)} of {len(rows)} texts differ "
                f"(row {row}, {name!r}: {own[differs[0]]!r:.80}, and {table[name][differs[0]]!r:.80} in the run)."
            )
    names = ("given_label", "predicted_label")
    given, predicted = (table[name][:] if name in table.column_names else None for name in names)
    is_issue = are_issues(score, given, predicted, threshold)
    table = table.remove_columns("is_label_issue").add_column(
        "is_label_issue", is_issue, feature=datasets.Value("bool")
    )
    order = [name for name in COLUMNS if name in table.column_names]
    table = table.select_columns([order[0], *texts, *order[1:]])
    chosen = np.arange(len(rows)) if return_all else np.flatnonzero(is_issue)
    picked = table.select(chosen)
    if columns is None:
        return _unsliced(picked)
    return with_columns(_unsliced(picked.remove_columns(texts)), shown_columns(dataset, rows[chosen], columns))


def _unsliced(table: datasets.Dataset) -> datasets.Dataset:
    info = datasets.DatasetInfo(features=table.features)
    return datasets.Dataset(table.with_format("arrow")[:], info=info)
