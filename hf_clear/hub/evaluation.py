"""What a trainer has logged of its evaluations, for the metadata and the text of a model card."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
from huggingface_hub import EvalResult
from transformers import Trainer
from transformers.modelcard import TASK_TAG_TO_NAME_MAPPING

from .dataset_names import dataset_names

_RUNTIME = "_runtime"
_OF_COST = (_RUNTIME, "_samples_per_second", "_steps_per_second", "_model_preparation_time", "_jit_compilation_time")
_MAY_BE_WRONG = "labels as given, which may be wrong"


@dataclass(frozen=True)
class Evaluation:
    """What was measured of the model that is saved.

    Attributes:
        dataset (`Any`): the data; None if they aren't known any more.
        split (`str`, *optional*): what the trainer calls them, or their data set does; None if that is unknown.
        metrics (`dict[str, float]`): finite numbers, by name.
    """

    dataset: Any
    split: str | None
    metrics: dict[str, float]

    def described(self) -> str:
        """For a person: what it was measured on."""
        size = f"{len(self.dataset):,} samples" if hasattr(self.dataset, "__len__") else ""
        of_hub = " ".join(dataset_names(self.dataset))
        split = "the evaluation set" if self.split is None else f"split {self.split}"
        return ", ".join(filter(None, [of_hub, split, size]))

    def results(self, task: str) -> list[EvalResult]:
        """For the metadata.

        Args:
            task (`str`): the Hub's name of the task.
        """
        (name, *_) = [*dataset_names(self.dataset), "unknown"]
        return [
            EvalResult(
                task_type=task,
                task_name=TASK_TAG_TO_NAME_MAPPING.get(task),
                dataset_type=name,
                dataset_name=f"{self.described()} ({_MAY_BE_WRONG})",
                dataset_split=self.split,
                metric_type=metric,
                metric_name=title(metric),
                metric_value=value,
            )
            for metric, value in self.metrics.items()
        ]


def title(metric: str) -> str:
    return " ".join(part.capitalize() for part in metric.split("_"))


def evaluations(trainer: Trainer, evaluated: Sequence[tuple[Mapping[str, float], Any]]) -> list[Evaluation]:
    """What is logged of the trained model, one entry an evaluation set: of its last evaluation after training or, if
    there was none, of the epoch that the model is of, the best with `load_best_model_at_end`.

    Args:
        evaluated (`Sequence[tuple[Mapping[str, float], Any]]`): of each evaluation in this process, its metrics and its
            data. They are those of a log if their times are the same.
    """
    history, found = trainer.state.log_history, []
    ends = [place for place, log in enumerate(history) if "total_flos" in log]  # of a training
    after = history[ends[-1] :] if ends else []
    for prefix in dict.fromkeys(key.removesuffix(_RUNTIME) for log in history for key in log if key.endswith(_RUNTIME)):
        logs = [log for log in history if f"{prefix}{_RUNTIME}" in log]
        if prefix != "eval" and not prefix.startswith("eval_"):
            continue
        best = trainer.state.best_global_step if trainer.args.load_best_model_at_end else None
        of_model = [log for log in logs if any(log is own for own in after)]
        of_model = of_model or [log for log in logs if best is not None and log.get("step") == best] or logs
        metrics = {
            key.removeprefix(f"{prefix}_"): float(value)
            for key, value in of_model[-1].items()
            if key.startswith(f"{prefix}_") and not key.endswith(_OF_COST)
            if isinstance(value, (int, float)) and math.isfinite(value)
        }
        cost = {key: value for key, value in of_model[-1].items() if key.startswith(prefix) and key.endswith(_OF_COST)}
        dataset = next((data for own, data in reversed(evaluated) if cost.items() <= own.items()), None)
        name = prefix.removeprefix("eval").removeprefix("_")
        if metrics:
            found.append(Evaluation(dataset, name or _split_of(dataset, trainer.train_dataset), metrics))
    return found


def _split_of(dataset: Any, trained: Any) -> str | None:
    """Its name, unless it is that of the training set: a part that was held out keeps it."""
    own, other = (
        getattr(each, "split", None) if isinstance(each, datasets.Dataset) else None for each in (dataset, trained)
    )
    return None if own is None or own == other else str(own)
