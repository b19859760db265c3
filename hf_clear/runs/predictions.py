"""Predictions for a test set, labelled or not."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
from datasets import Dataset, Features, Value
from scipy.special import softmax
from transformers import EvalPrediction

from .._names import TEST_PREDICTIONS
from .._typing import AnyTrainer
from ..data.labels import UNLABELLED
from ..files import write_atomically
from .results import save_predictions


def labelled_part(dataset: Dataset | None) -> Dataset | None:
    """The samples of a test set that have a label; the data set itself if all have one, None if none has."""
    if dataset is None:
        return None
    rows = np.flatnonzero(np.array(dataset["label"]) != UNLABELLED)
    return dataset if len(rows) == len(dataset) else dataset.select(rows) if len(rows) else None


def predict(trainer: AnyTrainer, dataset: Dataset, label_names: Sequence[str]) -> dict[str, float]:
    """Predicts a test set, writes the classes to `predict_results.txt` in the trainer's folder ([`save_predictions`]),
    and scores those of its samples that have a label. A row for each sample is in `test_predictions.parquet`:
    `sample_index`, `true_label` (its name; empty without one), `predicted_label`, and `confidence`, its probability
    (empty if the scores are not finite).

    Args:
        trainer (`Trainer`): of a model for `label_names`.
        dataset (`Dataset`): tokens, and class numbers in `label`; -1 for a sample without one.
        label_names (`Sequence[str]`): of the classes, in the order of their numbers.

    Returns:
        `dict[str, float]`: metrics that begin with `test_`; `test_samples`, and `test_labelled_samples` if not all have
        a label. There is a loss if all have one, and no accuracy if none has.
    """
    trainer.args.train_sampling_strategy = "random"  # grouping by length would reorder the predictions too
    labels = np.array(dataset["label"])
    labelled = labels != UNLABELLED
    if labelled.all():
        prediction = trainer.predict(dataset, metric_key_prefix="test")
        metrics = dict(prediction.metrics or {})
    else:
        prediction = trainer.predict(dataset.remove_columns("label"), metric_key_prefix="test")
        metrics = {**(prediction.metrics or {}), "test_labelled_samples": int(labelled.sum())}
    scores = prediction.predictions
    scores = scores[0] if isinstance(scores, tuple) else scores
    if labelled.any() and not labelled.all():
        compute_metrics = cast(Callable[[EvalPrediction], dict[str, float]], trainer.compute_metrics)
        scored = compute_metrics(EvalPrediction(predictions=scores[labelled], label_ids=labels[labelled]))
        metrics |= {f"test_{name}": value for name, value in scored.items()}
    if trainer.is_world_process_zero():
        save_predictions(scores, label_names, os.path.join(trainer.args.output_dir, "predict_results.txt"))
        _save_table(scores, labels, label_names, os.path.join(trainer.args.output_dir, TEST_PREDICTIONS))
    return {**metrics, "test_samples": len(dataset)}


def _save_table(scores: np.ndarray, labels: np.ndarray, label_names: Sequence[str], path: str) -> None:
    with np.errstate(invalid="ignore"):
        confidence = softmax(scores.astype(np.float64), axis=1).max(axis=1)
    columns = {
        "sample_index": range(len(scores)),
        "true_label": [label_names[label] if label != UNLABELLED else None for label in labels],
        "predicted_label": [label_names[label] for label in scores.argmax(axis=1)],
        "confidence": [value if np.isfinite(value) else None for value in confidence],
    }
    kinds = {"sample_index": "int64", "true_label": "string", "predicted_label": "string", "confidence": "float64"}
    content = io.BytesIO()
    Dataset.from_dict(columns, Features({name: Value(kind) for name, kind in kinds.items()})).to_parquet(content)
    write_atomically(path, content.getvalue())
