"""Methods on the features of the frozen model: cheap peers, and the pruning by cleanlab."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from datasets import Dataset
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from hf_clear import TurnTrainer


def cleanlab_pruning(features: np.ndarray, labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What cleanlab makes of logistic regression in 5 folds.

    Args:
        features (`np.ndarray` of shape `[num_samples, dim]`), labels (`np.ndarray` of shape `[num_samples]`): given.

    Returns:
        `tuple[np.ndarray, np.ndarray]` of shape `[num_samples]`: which samples it keeps, and the quality of each label
        in [0, 1].
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    probabilities = out_of_fold(features, labels, seed)
    kept = ~find_label_issues(labels, probabilities, n_jobs=1)
    return kept, get_label_quality_scores(labels, probabilities)


def out_of_fold(features: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Probabilities of the classes by logistic regression that has not seen the label, in 5 folds: `[num_samples,
    num_labels]`."""
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    return cross_val_predict(LogisticRegression(max_iter=1000), features, labels, cv=folds, method="predict_proba")


def run_logistic_regression(trainer: TurnTrainer, test: Dataset, prune: bool = False) -> dict[str, Any]:
    """On the frozen model's mean-pooled last hidden states; with `prune`, without what cleanlab calls a label issue.
    `suspicion`, of shape `[num_samples]`, is the higher, the less a label is trusted."""
    start = time.perf_counter()
    features, labels = trainer.features(), np.array(trainer.train_dataset["label"])
    measured, kept = {}, np.ones(len(labels), dtype=bool)
    if prune:
        kept, quality = cleanlab_pruning(features, labels, trainer.args.seed)
        measured = {"suspicion": -quality, "pruned_samples": int((~kept).sum())}
    model = LogisticRegression(max_iter=1000).fit(features[kept], labels[kept])
    seconds = time.perf_counter() - start
    return {**measured, "accuracy": float(model.score(trainer.features(test), test["label"])), "seconds": seconds}


def run_cleanlab(trainer: TurnTrainer, test: Dataset) -> dict[str, Any]:
    """Logistic regression after cleanlab's pruning."""
    return run_logistic_regression(trainer, test, prune=True)


def run_probe(trainer: TurnTrainer, test: Dataset) -> dict[str, Any]:
    """TURN's linear probe, with generalized cross entropy."""
    start = time.perf_counter()
    metrics = trainer.linear_probe()
    seconds = time.perf_counter() - start
    return {
        "accuracy": trainer.predict_probe(test).metrics["test_accuracy"],
        "detection_auroc": metrics.get("probe_detection_auroc"),
        "seconds": seconds,
    }
