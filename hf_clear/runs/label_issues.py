"""`label_issues.parquet` and `label_issues.csv`: every row of the training data, worst label first."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, cast

import datasets
import numpy as np
import torch
from datasets import Dataset

from .._names import ISSUES_SHEET, ISSUES_TABLE
from .._typing import AnyTrainer
from ..data.labels import TEXTS
from ..estimators import fit_noise_model, get_estimator
from ..estimators.noise_model import MOST_CLASSES, log_probabilities
from ..fit import fitted_store
from ..fit_checks import without_scores
from ..passes import predict_samples, sample_dataloader
from ..report import issue_table, to_csv, to_parquet
from ..report.issue_table import TAKEN
from ..transition_matrices import symmetric_matrix

logger = logging.getLogger(__name__)

LABEL_ISSUES = (ISSUES_TABLE, ISSUES_SHEET)
_LEAST_NOISE = 0.01  # or no label could be called wrong


def label_evidence(trainer: AnyTrainer) -> dict[str, np.ndarray]:
    """What a trainer thinks of the labels it was trained on. One without clean probabilities of its own, such as a
    stock `Trainer`, gets those of a mixture over its losses now: a fit like any other, with warnings of what speaks
    against it, and an entry in the log history. Call it on every process.

    Returns:
        `dict[str, np.ndarray]`, `[num_samples]` each: arguments of [`~hf_clear.report.issue_table`].
    """
    store = getattr(trainer, "sample_store", None)
    if store is not None and store.is_fitted:
        return store.issue_columns()
    dataloader = sample_dataloader(trainer, trainer.train_dataset)
    predictions = predict_samples(trainer, dataloader, keep_probabilities=False)
    store, logs = fitted_store(trainer, get_estimator("gaussian_mixture"), predictions)
    trainer.log(logs)
    trainer.save_state()
    return store.issue_columns()


def held_out_evidence(
    trainer: AnyTrainer, dataset: Dataset, of_training: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """What a trained model thinks of labels that it has not been trained on: its predictions, calibrated to these
    labels, and the noise of the training set, by [`~hf_clear.fit_noise_model`]. Call it on every process.

    The noise matrix is that of the training's last fit or, if that has none, symmetric noise of the rate that it found.
    If predictions tell nothing about so few labels, scores are NaN, and a warning says so.

    Args:
        dataset (`Dataset`): tokenized as the training set.
        of_training (`Mapping[str, np.ndarray]`): [`label_evidence`].

    Returns:
        `dict[str, np.ndarray]`, `[num_samples]` each: as [`label_evidence`]; `clean_probability` is NaN.
    """
    predictions = predict_samples(trainer, sample_dataloader(trainer, dataset), description="Held-out labels")
    probabilities, labels = _array(predictions.probabilities), predictions.labels.numpy()
    store = getattr(trainer, "sample_store", None)
    if probabilities.shape[1] > MOST_CLASSES:
        if trainer.is_world_process_zero():
            logger.warning(
                f"The {len(labels)} rows that were taken for validation have no score and no suggestion in the table: "
                f"the noise model is for {MOST_CLASSES} classes at most."
            )
        nothing = {name: np.full(len(labels), np.nan) for name in ("label_score", "clean_probability")}
        nothing |= {"suggestion_confidence": nothing["label_score"], "predicted_label": np.full(len(labels), -1)}
        return {**nothing, "loss": predictions.losses.numpy(), "given_label": labels}
    matrix = None if store is None or store.transition_matrix is None else store.transition_matrix.cpu().numpy()
    if matrix is None:
        known = of_training["clean_probability"][np.isfinite(of_training["clean_probability"])]
        num_labels = probabilities.shape[1]
        rate = float(1 - known.mean()) if len(known) else 0.0
        matrix = symmetric_matrix(num_labels, np.clip(rate, _LEAST_NOISE, 1 - 1 / num_labels))
    noise = fit_noise_model(log_probabilities(probabilities), labels, matrix)
    score = np.where(noise.has_scores & (labels >= 0), noise.clean_probability, np.nan)
    if not noise.is_supported:
        if trainer.is_world_process_zero():
            logger.warning(
                f"What the model predicts for the {len(labels)} rows that were taken for validation says nothing about "
                "their labels, or the rows are too few to tell: they have no score and no suggestion in the table."
            )
    found = {
        "label_score": score,
        "clean_probability": np.full(len(labels), np.nan),
        "loss": predictions.losses.numpy(),
        "given_label": labels,
        "predicted_label": np.where(noise.has_scores, noise.suggestion, -1),
        "suggestion_confidence": np.where(noise.has_scores, noise.suggestion_confidence, np.nan),
    }
    return found if noise.is_supported else without_scores(found)


def _array(table: torch.Tensor | None) -> np.ndarray:
    """Of a prediction of a class a sample: then it is there."""
    return cast(torch.Tensor, table).numpy()


def save_label_issues(
    trainer: AnyTrainer,
    evidence: Mapping[str, np.ndarray],
    dataset: Dataset,
    held_out: Dataset | None = None,
    row_column: str | None = None,
    text_names: Sequence[str] | None = None,
) -> None:
    """Writes the table of [`~hf_clear.report.issue_table`], all rows, as `label_issues.parquet` and `label_issues.csv`
    into the trainer's folder. Call it on every process; the first one writes.

    Args:
        evidence (`Mapping[str, np.ndarray]`): [`label_evidence`] of `dataset`.
        dataset (`Dataset`): the training set in the trainer's order; `label` is a `ClassLabel`, texts are in `text`
            (and `text_pair`).
        held_out (`Dataset`, *optional*): rows of the same data that were taken for validation, tokenized: they are
            scored by the trained model ([`held_out_evidence`]).
        row_column (`str`, *optional*): a column of both with the `sample_index`; by default samples are numbered as
            they come.
        text_names (`Sequence[str]`, *optional*): what the text columns are called in the table.
    """
    parts = [dataset]
    columns: dict[str, Any] = {name: [own] for name, own in evidence.items()}
    if held_out is not None:
        parts.append(held_out)
        found = held_out_evidence(trainer, held_out, evidence)
        none = np.zeros(len(held_out), dtype=bool)
        columns = {name: [*own, found.get(name, none)] for name, own in columns.items()}
    if not trainer.is_world_process_zero():
        return
    texts = [name for name in TEXTS if name in dataset.column_names]
    names = [own if own not in TAKEN else text for text, own in zip(texts, text_names or texts)]
    shown = {name: [row for part in parts for row in part[text][:]] for text, name in zip(texts, names)}
    rows = None if row_column is None else np.array([row for part in parts for row in part[row_column][:]])
    columns = {name: np.concatenate(own) for name, own in columns.items()}
    table = issue_table(
        **columns,
        held_out=np.repeat(np.arange(len(parts)) > 0, [len(part) for part in parts]),
        texts=datasets.Dataset.from_dict(shown),
        label_names=dataset.features["label"].names,
        sample_index=rows,
        return_all=True,
    )
    parquet, sheet = (os.path.join(trainer.args.output_dir, name) for name in LABEL_ISSUES)
    to_parquet(table, parquet)
    to_csv(table, sheet)
    issues = sum(table["is_label_issue"])
    logger.info(f"{issues} of {len(table)} labels are suspect: {sheet}, worst first, and {parquet}.")
