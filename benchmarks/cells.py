"""What a cell of the grid of accuracy.py is, and how one is run: in a process of its own,

    python benchmarks/cells.py '{"data": "banking77-20", ...}' ../shared/data

which prints its result as JSON on standard output, and all else on standard error.
"""

import dataclasses
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from _loading import accuracy, load
from datasets import Dataset
from peft import get_peft_model
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from transformers import (
    DataCollatorWithPadding,
    HfArgumentParser,
    Trainer,
)

from hf_clear import ClearArguments, ClearTrainer, TurnTrainer, per_sample_losses
from hf_clear.metrics import detection_metrics
from hf_clear.noise import TRUE_LABEL
from hf_clear.runs import NoisyTrainingArguments, PeftArguments, accuracy_over_epochs, default_learning_rate

TRAINERS: dict[str, type[Trainer]] = {
    "plain": Trainer,
    "clear": ClearTrainer,
    "oracle": Trainer,  # plain, on the samples whose label is right, for as many steps
    "turn": TurnTrainer,
}
PEERS = ("logistic_regression", "cleanlab", "probe")  # on frozen features: no PEFT method, no epochs


@dataclass(frozen=True)
class Cell:
    """The coordinates of one run. The seed is that of the noise too: cells that differ in `method`, `peft_method` and
    `epochs` alone see the same labels."""

    model: str
    data: str
    noise_type: str
    noise_rate: float
    seed: int
    peft_method: str | None  # None for the peers, as is `epochs`
    epochs: int | None
    method: str


def parse_method(method: str) -> tuple[str, dict[str, Any]]:
    """`"clear:clear_gamma=0.8,clear_warmup=linear_probe"` to the name of the method and its settings.

    Raises:
        ValueError: where there is no such method or setting, or the setting is refused.
    """
    name, colon, text = method.partition(":")
    if name not in (*TRAINERS, *PEERS):
        raise ValueError(f"There is no method {name!r}. There are {', '.join((*TRAINERS, *PEERS))}.")
    if not colon:
        return name, {}
    if name != "clear":
        raise ValueError(f"{method!r}: {name} has no settings here; clear has (clear:key=value,key=value).")
    pairs = [pair.partition("=")[::2] for pair in text.split(",")]
    known = [field.name for field in dataclasses.fields(ClearArguments)]
    for key, value in pairs:
        if key not in known or not value:
            raise ValueError(
                f"{method!r}: {key!r} is no setting with a value (key=value). Settings: {', '.join(known)}."
            )
    parser = HfArgumentParser(ClearArguments)

    def refuse(message: str):
        raise ValueError(f"{method!r}: {message}")

    parser.error = refuse
    parsed = vars(parser.parse_args([f"--{key}={value}" for key, value in pairs]))
    settings = {key: parsed[key] for key, _ in pairs}
    try:
        ClearArguments(**settings)
    except ValueError as error:
        refuse(str(error))
    return name, settings


def run_cell(cell: Cell, folder: Path) -> dict[str, Any]:
    """Trains and tests; returns the line of results.jsonl. `folder` holds the data sets."""
    source = (cell.data, folder, cell.model, cell.noise_type, cell.noise_rate, cell.seed)
    train, test, model, tokenizer = load(*source)
    name, settings = parse_method(cell.method)
    settings = {"probe_features": "mean"} if name == "probe" else settings
    is_noisy = np.array(train["label"]) != np.array(train[TRUE_LABEL])
    epochs, own_train = cell.epochs or 1, train
    if name == "oracle":  # with as many steps as all others have
        own_train = train.select(np.flatnonzero(~is_noisy))
        if len(own_train) == 0:
            raise ValueError("No label is right: there is nothing to train an oracle on.")
        epochs = epochs * len(train) / len(own_train)
    with tempfile.TemporaryDirectory() as output_dir:
        arguments = NoisyTrainingArguments(
            output_dir=output_dir,
            num_train_epochs=epochs,
            learning_rate=default_learning_rate(cell.peft_method or "none"),
            seed=cell.seed,
            eval_strategy="epoch" if name in TRAINERS else "no",
            save_strategy="no",
            logging_strategy="epoch",
            report_to=[],
            disable_tqdm=True,
            **settings,
        )
        if cell.peft_method is not None:
            model = get_peft_model(model, PeftArguments(peft_method=cell.peft_method).peft_config("SEQ_CLS"))
        trainer = TRAINERS.get(name, TurnTrainer)(
            model=model,
            args=arguments,
            train_dataset=own_train,
            eval_dataset={"test": test} if name in TRAINERS else None,
            processing_class=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=accuracy,
        )
        if name == "clear":  # as they are now: defaults may change
            fields = [field.name for field in dataclasses.fields(ClearArguments)]
            resolved = {field: getattr(arguments, field) for field in fields}
            resolved["clear_ensemble_source"] = trainer.ensemble_source
        measured = train_and_test(trainer) if name in TRAINERS else PEER_RUNS[name](trainer, test)
    suspicion = measured.pop("suspicion", None)
    if suspicion is not None and len(suspicion) == len(is_noisy):
        measured["detection_auroc"] = detection_metrics(-suspicion, is_noisy).get("detection_auroc")
    return {
        **dataclasses.asdict(cell),
        **{"accuracy": None, "peak_accuracy": None, "average_accuracy": None, "detection_auroc": None},
        **measured,
        "settings": resolved if name == "clear" else settings,
        "realized_noise_rate": float(is_noisy.mean()),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def train_and_test(trainer: Trainer) -> dict[str, Any]:
    """`suspicion`, of shape `[num_samples]`, is the higher, the less a label is trusted."""
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    tests = [entry for entry in trainer.state.log_history if "eval_test_accuracy" in entry]
    store = getattr(trainer, "sample_store", None)
    is_fitted = store is not None and store.is_fitted
    over_epochs = accuracy_over_epochs(trainer.state.log_history, trainer.args.clear_warmup_epochs)
    return {
        "accuracy": tests[-1]["eval_test_accuracy"],
        "peak_accuracy": over_epochs["test_peak_accuracy"],
        "average_accuracy": over_epochs.get("test_average_accuracy"),
        "seconds": seconds - sum(entry["eval_test_runtime"] for entry in tests),
        "suspicion": -store.clean_probability.cpu().numpy() if is_fitted else per_sample_losses(trainer),
    }


def run_probe(trainer: TurnTrainer, test: Dataset) -> dict[str, Any]:
    start = time.perf_counter()
    metrics = trainer.linear_probe()
    seconds = time.perf_counter() - start
    return {
        "accuracy": trainer.predict_probe(test).metrics["test_accuracy"],
        "detection_auroc": metrics.get("probe_detection_auroc"),
        "seconds": seconds,
    }


def run_logistic_regression(trainer: TurnTrainer, test: Dataset, prune: bool = False) -> dict[str, Any]:
    """On the frozen model's mean-pooled last hidden states; with `prune`, without what cleanlab calls a label issue."""
    start = time.perf_counter()
    features, labels = trainer.features(), np.array(trainer.train_dataset["label"])
    measured, kept = {}, np.ones(len(labels), dtype=bool)
    if prune:
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores

        folds = StratifiedKFold(5, shuffle=True, random_state=trainer.args.seed)
        probabilities = cross_val_predict(
            LogisticRegression(max_iter=1000), features, labels, cv=folds, method="predict_proba"
        )
        kept = ~find_label_issues(labels, probabilities, n_jobs=1)
        measured["suspicion"] = -get_label_quality_scores(labels, probabilities)
    model = LogisticRegression(max_iter=1000).fit(features[kept], labels[kept])
    seconds = time.perf_counter() - start
    return {**measured, "accuracy": float(model.score(trainer.features(test), test["label"])), "seconds": seconds}


PEER_RUNS: dict[str, Callable[[TurnTrainer, Dataset], dict[str, Any]]] = {
    "logistic_regression": run_logistic_regression,
    "cleanlab": lambda trainer, test: run_logistic_regression(trainer, test, prune=True),
    "probe": run_probe,
}


def _end_with_parent() -> None:
    os.read(0, 1)  # returns where the process that started this one is gone
    os._exit(1)


if __name__ == "__main__":
    result = os.dup(1)
    os.dup2(2, 1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    line = run_cell(Cell(**json.loads(sys.argv[1])), Path(sys.argv[2]))
    with os.fdopen(result, "w") as file:
        file.write(json.dumps(line))
