"""What all benchmarks load: data sets with noise, a model and its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from transformers import AutoModelForSequenceClassification, AutoTokenizer, EvalPrediction, PreTrainedModel, set_seed

from hf_clear.data import add_noise, labelled_texts, read_files
from hf_clear.demo import demo_backbone
from hf_clear.metrics import Accuracy

DEMO = "all-MiniLM-L6-v2"  # the extra `demo`
# Folder, column of the label, and how many classes (in alphabetical order; None: all).
DATA_SETS = {
    "banking77": ("banking77", "category", None),
    "banking77-20": ("banking77", "category", 20),
    "sst5": ("sst5", "label", None),
}
MAX_LENGTH = 128


def load(
    data: str, folder: Path, model_name: str, noise_type: str, noise_rate: float, seed: int
) -> tuple[Dataset, Dataset, PreTrainedModel, Any]:
    """The training set with noise, the test set, the model and its tokenizer; as in run_glue_noisy.py. `folder` holds
    the data sets; `seed` is that of the noise, of the model's head, and of what is drawn next."""
    subfolder, column, num_classes = DATA_SETS[data]
    path = model_path(model_name)
    tokenizer = AutoTokenizer.from_pretrained(path)
    splits = load_texts(folder / subfolder, column, num_classes, tokenizer)
    train = add_noise(splits["train"], noise_type, noise_rate, seed)
    model = load_model(path, train.features["label"].num_classes, seed)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    set_seed(seed)  # the PEFT modules start alike for every method
    return train, splits["test"], model, tokenizer


def load_texts(folder: Path, label_column: str, num_classes: int | None, tokenizer: Any) -> DatasetDict:
    """`train` and `test` of a folder with train.csv and test.csv: texts, labels and tokens of the first classes."""
    splits = read_files({name: str(folder / f"{name}.csv") for name in ("train", "test")})
    classes = sorted(set(splits["train"][label_column]))[:num_classes]
    for name, dataset in splits.items():
        splits[name] = dataset.select(np.flatnonzero(np.isin(dataset[label_column], classes)))
    splits, _ = labelled_texts(splits, label_column=label_column)
    limit = min(MAX_LENGTH, tokenizer.model_max_length)
    return splits.map(lambda rows: tokenizer(rows["text"], truncation=True, max_length=limit), batched=True)


def model_path(name: str) -> str:
    return demo_backbone("--model_name_or_path") if name == DEMO else name


def load_model(path: str, num_labels: int, seed: int) -> PreTrainedModel:
    set_seed(seed)
    return AutoModelForSequenceClassification.from_pretrained(path, num_labels=num_labels, ignore_mismatched_sizes=True)


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    scores = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    return Accuracy().compute(predictions=scores.argmax(axis=1), references=prediction.label_ids)
