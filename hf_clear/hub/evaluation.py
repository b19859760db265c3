"""What a trainer has logged of its evaluations, for the metadata and the text of a model card."""

from __future__ import annotations

import math
from collections.abc import Mapping
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
        name (`str`): what the trainer calls them; empty if there is but one evaluation set.
        metrics (`dict[str, float]`): finite numbers, by name.
    """

    dataset: Any
    name: str
    metrics: dict[str, float]

    @property
    def split(self) -> str | None:
        split = self.dataset.split if isinstance(self.dataset, datasets.Dataset) else None
        return self.name or (None if split is None else str(split))

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


def evaluations(trainer: Trainer, evaluated: Mapping[str, Any]) -> list[Evaluation]:
    """What is logged of the trained model, one entry an evaluation set: of its last evaluation after training or, if
    there was none, of the epoch that the model is of, the best with `load_best_model_at_end`.

    Args:
        evaluated (`Mapping[str, Any]`): the data that were evaluated in this process, by the prefix of their metrics.
    """
    history, found = trainer.state.log_history, []
    ends = [place for place, log in enumerate(history) if "train_runtime" in log]
    after = history[ends[-1] :] if ends else []
    for prefix in dict.fromkeys(key.removesuffix(_RUNTIME) for log in history for key in log if key.endswith(_RUNTIME)):
        logs = [log for log in history if f"{prefix}{_RUNTIME}" in log]
        if not prefix.startswith("eval"):
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
        name = prefix.removeprefix("eval").removeprefix("_")
        if metrics:
            found.append(Evaluation(evaluated.get(prefix), name, metrics))
    return found
