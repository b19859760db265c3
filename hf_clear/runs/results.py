"""What a run leaves: a table of clean probabilities, and its metrics beside those of other runs."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from .._names import TRUE_LABEL
from .._typing import AnyTrainer
from ..files import write_atomically
from ..labels.names import write_label_names
from ..metrics import EpochAccuracy, detection_metrics
from ..tuners import RoutedLayerConfig, note_loading
from .arguments import LabelArguments
from .label_issues import LABEL_ISSUES, label_evidence
from .training_arguments import FULL_FINE_TUNING, NoisyTrainingArguments


def save_clean_probabilities(
    trainer: AnyTrainer,
    dataset: Dataset,
    path: str | os.PathLike,
    row_column: str | None = None,
    evidence: Mapping[str, np.ndarray] | None = None,
) -> dict[str, float]:
    """Writes what a trainer thinks of the labels it was trained on, one row a sample, in their order.

    The file has the columns `sample_index`, `given_label` (its name), `clean_probability` (empty for a sample
    whose loss is not finite), `loss` (nats) and, if the truth is known, `true_label` (empty for a sample of which it is
    not). Call it on every process; the first one writes.

    Args:
        trainer (`Trainer`): after training.
        dataset (`Dataset`): the training set in the trainer's order; `label` is a `ClassLabel`, `true_label`, if it is
            there, holds class numbers (-100: unknown).
        path (`str`): the parquet file.
        row_column (`str`, *optional*): a column of `dataset` with the `sample_index`; by default samples are numbered
            as they come.
        evidence (`Mapping[str, np.ndarray]`, *optional*): what [`label_evidence`] has found, if it is known already.

    Returns:
        `dict[str, float]`: [`~hf_clear.metrics.detection_metrics`] of the samples whose truth is known; empty if it is
        known of none.
    """
    evidence = label_evidence(trainer) if evidence is None else evidence
    probability, loss = evidence["clean_probability"], evidence["loss"]
    labels = dataset.features["label"]
    columns = {
        "sample_index": range(len(dataset)) if row_column is None else dataset[row_column],
        "given_label": labels.int2str(dataset["label"]),
        "clean_probability": [None if np.isnan(p) else p for p in probability],
        "loss": loss,
    }
    metrics = {}
    if TRUE_LABEL in dataset.column_names:
        true = np.array(dataset[TRUE_LABEL])
        known = (true >= 0) & ~np.isnan(probability)
        columns["true_label"] = [labels.int2str(int(label)) if label >= 0 else None for label in true]
        metrics = detection_metrics(probability[known], (np.array(dataset["label"]) != true)[known])
    if trainer.is_world_process_zero():
        buffer = io.BytesIO()
        Dataset.from_dict(columns).to_parquet(buffer)
        write_atomically(path, buffer.getvalue())
    return metrics


def save_predictions(scores: np.ndarray, label_names: Sequence[str], path: str | os.PathLike) -> None:
    """Writes the predicted class of each sample: a header, then lines of index and name with a tab between them. A name
    with a tab, a line break or another character that can't be seen, or with a quotation mark in front, is written as
    JSON: `json.loads(name) if name.startswith('"') else name` is the name.

    Args:
        scores (`np.ndarray` of shape `[num_samples, num_classes]`): what `trainer.predict` returns.
        label_names (`Sequence[str]`): of the classes, in the order of their numbers.
        path (`str`): the text file.
    """
    shown = [name if name.isprintable() and not name.startswith('"') else json.dumps(name) for name in label_names]
    lines = "".join(f"{index}\t{shown[label]}\n" for index, label in enumerate(np.argmax(scores, axis=1)))
    write_atomically(path, f"index\tprediction\n{lines}".encode())


def save_card(trainer: AnyTrainer, label_names: Sequence[str], **card: Any) -> None:
    """Writes the model card, and `label_names.json`: an adapter doesn't say what its classes are called. With
    `push_to_hub`, pushes the folder. Call it on every process.

    Args:
        trainer (`Trainer`): after training.
        label_names (`Sequence[str]`): of the classes, in the order of their numbers.
        card: for `trainer.create_model_card`.
    """
    folder = trainer.args.output_dir
    if trainer.is_world_process_zero():
        write_label_names(folder, label_names)
    if trainer.args.push_to_hub:
        trainer.push_to_hub(**card)
        return
    trainer.create_model_card(**card)
    configs = getattr(trainer.model, "peft_config", {})
    if trainer.is_world_process_zero() and any(isinstance(config, RoutedLayerConfig) for config in configs.values()):
        note_loading(folder)


def results_in(folder: str | os.PathLike) -> dict[str, float]:
    """What `all_results.json` holds; nothing if it isn't there."""
    path = os.path.join(folder, "all_results.json")
    if not os.path.isfile(path):
        return {}
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def accuracy_over_epochs(log_history: Iterable[Mapping[str, Any]], warmup_epochs: float) -> dict[str, float]:
    """Peak and average accuracy on a test set that was scored after each epoch ([`~hf_clear.metrics.EpochAccuracy`]).

    Args:
        log_history (`Iterable[Mapping]`): `trainer.state.log_history`; entries with `eval_test_accuracy` count.
        warmup_epochs (`float`): the average is that of the epochs after them.

    Returns:
        `dict[str, float]`: `test_peak_accuracy` (best epoch) and `test_average_accuracy` (absent if no epoch is after
        the warm-up). Empty if no test set was scored.
    """
    history = [entry for entry in log_history if "eval_test_accuracy" in entry]
    if not history:
        return {}
    metrics = EpochAccuracy().compute(
        predictions=[entry["eval_test_accuracy"] for entry in history],
        references=[entry["epoch"] for entry in history],
        warmup_epochs=warmup_epochs,
    )
    return {f"test_{name}": value for name, value in metrics.items()}


def results_table(results: Mapping[str, Mapping[str, float]], warmup_epochs: float) -> str:
    """Results of runs side by side, for reading.

    Args:
        results (`Mapping[str, Mapping[str, float]]`): from the title of a run to its `all_results.json`. The rows are
            the metrics that the first run has.
        warmup_epochs (`float`): named in the row of the average accuracy.

    Returns:
        `str`: one line a metric, and a line of titles above them.
    """
    names = {
        "test_matthews_correlation": "test Matthews correlation",
        "test_f1": "test F1",
        "test_accuracy": "test accuracy",
        "test_peak_accuracy": "  best epoch",
        "test_average_accuracy": f"  mean after epoch {warmup_epochs}",
        "detection_auroc": "wrong labels: AUROC",
        "detection_average_precision": "  average precision",
        "detection_precision": "  precision",
        "detection_recall": "  recall",
        "memorization_clean": "memorized: clean samples",
        "memorization_noisy": "  noisy samples",
        "probe_test_accuracy": "probe: test accuracy",
        "probe_detection_auroc": "  wrong labels: AUROC",
        "cleanse_kept": "kept samples",
        "cleanse_purity": "  of them correct",
        "cleanse_recall": "  of the correct, kept",
        "cleanse_fine_tuning_samples": "  after the balanced draw",
        "probe_features_runtime": "time for features (s)",
        "probe_runtime": "  for probing (s)",
        "train_runtime": "  for training (s)",
    }
    first = next(iter(results.values()))
    lines = [" " * 26 + "".join(f"{title:>10}" for title in results)]
    for key, name in names.items():
        if key in first:
            digits = 0 if key.endswith(("_runtime", "_kept", "_samples")) else 4
            values = [f"{result[key]:.{digits}f}" if key in result else "-" for result in results.values()]
            lines.append(f"{name:<26}" + "".join(f"{value:>10}" for value in values))
    return "\n".join(lines)


def summary(
    results: Mapping[str, Mapping[str, float]],
    titles: Mapping[str, str],
    data: str,
    peft_method: str,
    labels: LabelArguments,
    training_args: NoisyTrainingArguments,
) -> str:
    """The settings, the results of the methods side by side, and where they are.

    Args:
        results (`Mapping[str, Mapping[str, float]]`): from the name of a method to its `all_results.json`.
        titles (`Mapping[str, str]`): from the name of a method to what it is called.
        data (`str`): where the data come from.
        peft_method (`str`): the name of one, or `"none"`.
        labels ([`LabelArguments`]), training_args ([`NoisyTrainingArguments`]): of all the runs.
    """
    first, folder = next(iter(results.values())), training_args.output_dir
    peft = "full fine-tuning" if peft_method == FULL_FINE_TUNING else peft_method.upper()
    folders = [os.path.join(folder, method) for method in results] if len(results) > 1 else [folder]
    table = results_table({titles[name]: results[name] for name in results}, training_args.clear_warmup_epochs)
    if not training_args.do_train:
        lines = [f"\n{data}, without training\n", table, "\nOutputs, with all_results.json:"]
    else:
        lines = [
            f"\n{data}, {labels.describe_noise(first)}",
            f"{first['train_samples']} training samples, {peft}, {training_args.num_train_epochs:g} epochs, seed "
            f"{training_args.seed}\n",
            table,
            f"\nOutputs, with {' and '.join(LABEL_ISSUES)} (suspect labels: worst first) and all_results.json:",
        ]
    text = "\n".join([*lines, *(f"  {folder}" for folder in folders)])
    return text.encode("utf-8", "backslashreplace").decode()  # names of files may be no text
