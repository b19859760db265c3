"""What all benchmarks load: data sets with noise, a model and its tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _mpnet import MPNET, mpnet_folder
from _weak import WEAK, weak_folder
from datasets import Dataset, DatasetDict
from transformers import AutoModelForSequenceClassification, AutoTokenizer, EvalPrediction, PreTrainedModel, set_seed

from hf_clear.data import add_noise, labelled_texts, load_questions, read_files
from hf_clear.demo import demo_backbone
from hf_clear.metrics import Accuracy
from hf_clear.noise import TRUE_LABEL

DEMO = "all-MiniLM-L6-v2"  # the extra `demo`
MAX_LENGTH = 128
NO_NOISE, REAL_NOISE = "none", "real"  # as names of noise types: the true labels; the labels that the data came with
_DRAW_SEED = 0  # of samples, once for all: not that of the noise


@dataclass(frozen=True)
class DataSet:
    """A data set.

    Attributes:
        folder (`str`, *optional*): the folder with its train.csv and test.csv; None for the questions, which are made.
        label_column (`str`): the column with the given labels.
        num_classes (`int`, *optional*): how many classes are kept, in alphabetical order; None: all.
        truth_column (`str`, *optional*): the column of train.csv with the true labels, if the given ones are noisy.
        test_samples (`int`, *optional*): how many test samples are drawn, once for all; None: all.
    """

    folder: str | None
    label_column: str
    num_classes: int | None = None
    truth_column: str | None = None
    test_samples: int | None = None


# `NAME@N` are N training samples of NAME, drawn once for all.
DATA_SETS = {
    "banking77": DataSet("banking77", "category"),
    "banking77-20": DataSet("banking77", "category", num_classes=20),
    "sst5": DataSet("sst5", "label"),
    "noisyagnews": DataSet("noisyagnews", "label", truth_column="true_label", test_samples=1500),
    # Of their class, frozen features say little.
    "questions": DataSet(None, "label"),
    # Written by held_out.py; nothing was chosen by them.
    "debian": DataSet("debian", "section"),
    "sst2": DataSet("sst2", "label"),
    "banking77-last20": DataSet("banking77_last20", "category"),
    "glosses": DataSet("glosses", "file", test_samples=2000),
    "fortunes": DataSet("fortunes", "subject"),
}


def find_data_set(name: str) -> tuple[DataSet, int | None]:
    """The data set called `NAME` or `NAME@N`, and N.

    Raises:
        ValueError: if there is no such data set, or N is no number of samples.
    """
    base, at, number = name.partition("@")
    if base not in DATA_SETS:
        raise ValueError(f"There is no data set {base!r}. There are {', '.join(DATA_SETS)}.")
    if at and not (number.isdecimal() and int(number) > 0):
        raise ValueError(f"{name!r}: after the @ comes a number of training samples, such as {base}@2000.")
    return DATA_SETS[base], int(number) if at else None


def check_noise(data: str, noise_type: str) -> None:
    """Raises a ValueError if a data set can't have this noise: injected noise if its labels are noisy already, or its
    own if it has none."""
    has_own = find_data_set(data)[0].truth_column is not None
    if has_own and noise_type not in (REAL_NOISE, NO_NOISE):
        raise ValueError(
            f"{data}: its labels are those of people who err, so no {noise_type} noise is injected on top. Its noise "
            f"type is {REAL_NOISE!r}, or {NO_NOISE!r} for its true labels."
        )
    if not has_own and noise_type == REAL_NOISE:
        raise ValueError(f"{data} has no noise of its own: its noise type can't be {REAL_NOISE!r}.")


def load(
    data: str, folder: Path, model_name: str, noise_type: str, noise_rate: float | None, seed: int
) -> tuple[Dataset, Dataset, PreTrainedModel, Any]:
    """The training set with noise, the test set, the model and its tokenizer; as in run_glue_noisy.py. `folder` holds
    the data sets; `seed` is that of the noise, of the model's head, and of what is drawn next.

    Raises:
        ValueError: if the data set can't have this noise, or has fewer samples than are drawn.
    """
    check_noise(data, noise_type)
    data_set, num_samples = find_data_set(data)
    path = model_path(model_name)
    tokenizer = AutoTokenizer.from_pretrained(path)
    columns = (data_set.label_column, data_set.num_classes, tokenizer, data_set.truth_column)
    splits = load_texts(None if data_set.folder is None else folder / data_set.folder, *columns)
    train, test = draw(splits["train"], num_samples), draw(splits["test"], data_set.test_samples)
    if data_set.truth_column is None:
        rate = 0.0 if noise_type == NO_NOISE else noise_rate
        train = add_noise(train, "symmetric" if noise_type == NO_NOISE else noise_type, rate, seed)
    elif noise_type == NO_NOISE:
        label, truth = train.features["label"], train[TRUE_LABEL][:]
        train = train.remove_columns("label").add_column("label", truth, feature=label)
    model = load_model(path, train.features["label"].num_classes, seed)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    set_seed(seed)  # the PEFT modules start alike for every method
    return train, test, model, tokenizer


def load_texts(
    folder: Path | None,
    label_column: str,
    num_classes: int | None,
    tokenizer: Any,
    truth_column: str | None = None,
) -> DatasetDict:
    """`train` and `test` of a folder with train.csv and test.csv, or of the questions: texts, labels and tokens of the
    first classes. With `truth_column`, training samples have their true labels in `true_label`."""
    files = {name: str(folder / f"{name}.csv") for name in ("train", "test")} if folder else None
    splits = read_files(files) if files else load_questions()
    classes = sorted(set(splits["train"][label_column]))[:num_classes]
    for name, dataset in splits.items():
        splits[name] = dataset.select(np.flatnonzero(np.isin(dataset[label_column], classes)))
    splits, _ = labelled_texts(splits, label_column=label_column, clean_label_column=truth_column)
    limit = min(MAX_LENGTH, tokenizer.model_max_length)
    return splits.map(lambda rows: tokenizer(rows["text"], truncation=True, max_length=limit), batched=True)


def draw(dataset: Dataset, num_samples: int | None) -> Dataset:
    """Some of the samples, always the same ones, in their order; all of them if `num_samples` is None.

    Raises:
        ValueError: if there are fewer.
    """
    if num_samples is None:
        return dataset
    if num_samples > len(dataset):
        raise ValueError(f"There are {len(dataset)} samples to draw from, fewer than {num_samples}.")
    order = np.random.default_rng(_DRAW_SEED).permutation(len(dataset))
    return dataset.select(np.sort(order[:num_samples]))


def model_path(name: str) -> str:
    made = {MPNET: mpnet_folder, WEAK: weak_folder}
    if name in made and not Path(name).is_dir():
        return made[name]()
    return demo_backbone("--model_name_or_path") if name == DEMO else name


def load_model(path: str, num_labels: int, seed: int) -> PreTrainedModel:
    set_seed(seed)
    return AutoModelForSequenceClassification.from_pretrained(path, num_labels=num_labels, ignore_mismatched_sizes=True)


def scores_of(prediction: EvalPrediction) -> np.ndarray:
    """`[num_samples, num_labels]`."""
    return prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return Accuracy().compute(predictions=scores_of(prediction).argmax(axis=1), references=prediction.label_ids)
