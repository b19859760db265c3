"""What a finished training of run_glue_noisy.py has left in its folder, for comparisons."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers.trainer import TRAINER_STATE_NAME

from .._names import TEST_PREDICTIONS
from ..log_history import is_fit, series_of

# By which trainings are ranked: the first that there is.
_SCORES = ("test_matthews_correlation", "test_accuracy")
_OVER_EPOCHS = ("memorization_clean", "memorization_noisy")


@dataclass(frozen=True)
class TrainingResult:
    """One training, and what is known of it.

    Attributes:
        setting (`str`): data and noise in words: methods of the same setting are compared.
        method (`str`): its name.
        seed (`int`): of the training and of the noise.
        results (`Mapping[str, float]`): `all_results.json`.
        labels, predicted (`np.ndarray` of shape `[num_test_samples]`, *optional*): names of the classes of test samples
            that have a label; None if none has.
        log_history (`Sequence[Mapping]`): of `trainer_state.json`; empty if there is none.
        details (`Mapping[str, Any]`): what the setting is made of, such as `noise_rate`: columns beside its name.
    """

    setting: str
    method: str
    seed: int
    results: Mapping[str, float]
    labels: np.ndarray | None = None
    predicted: np.ndarray | None = None
    log_history: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def correct(self) -> np.ndarray | None:
        """Which test samples are predicted as labelled: bool, `[num_test_samples]`; None if none has a label."""
        return None if self.labels is None or self.predicted is None else self.labels == self.predicted

    @property
    def score(self) -> float | None:
        """Test accuracy; Matthews correlation if the task (CoLA) is scored by it; None without a labelled test set."""
        return next((self.results[name] for name in _SCORES if name in self.results), None)

    def over_epochs(self, name: str) -> tuple[list[float], list[float]]:
        """Epochs, and what was logged of them under a name: by refits only if nothing else has, since these may look at
        the predictions of training, and not all trainings have them."""
        of_model = series_of([entry for entry in self.log_history if not is_fit(entry)], name)
        return of_model if of_model[0] else series_of(self.log_history, name)

    def last(self) -> dict[str, float]:
        """`results`, and the last memorization that was logged."""
        logged = {name: self.over_epochs(name)[1] for name in _OVER_EPOCHS}
        return {**self.results, **{name: values[-1] for name, values in logged.items() if values}}


def read_training_result(
    folder: str | os.PathLike, setting: str, method: str, seed: int, details: Mapping[str, Any] | None = None
) -> TrainingResult:
    """Reads what `run_glue_noisy.py` and `hf-clear train` write.

    Args:
        folder (`str`): the `output_dir` of a finished training.
        setting, method, seed, details: see [`TrainingResult`].

    Raises:
        FileNotFoundError: if `all_results.json` is not there.
        ValueError: if a file is not what it should be; the message names it.
    """
    import pandas as pd

    folder = Path(folder)
    results = _json(folder / "all_results.json")
    state = _json(folder / TRAINER_STATE_NAME) if (folder / TRAINER_STATE_NAME).is_file() else {}
    labels = predicted = None
    path = folder / TEST_PREDICTIONS
    if path.is_file():
        try:
            table = pd.read_parquet(path)
            table = table[table["true_label"].notna()]
            labels, predicted = (table[name].to_numpy(dtype=object) for name in ("true_label", "predicted_label"))
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"{path} is no table of predictions: {error}") from error
        if not len(labels):
            labels = predicted = None
    history = state.get("log_history", ())
    return TrainingResult(setting, method, seed, results, labels, predicted, history, details or {})


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} has to hold names and values; it holds {type(found).__name__}.")
    return found
