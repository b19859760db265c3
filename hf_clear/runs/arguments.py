"""Arguments of a script, for [`~transformers.HfArgumentParser`]: what of a model is trained, on which columns, with
what noise. Choices are asked for anew each time: what is registered before the command line is parsed can be chosen."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from datasets import Dataset, DatasetDict
from peft import PeftConfig

from .._names import NO_NOISE
from ..data.contradictions import contradictions
from ..data.files import check_file
from ..data.labels import TEXTS
from ..data.noise import add_noise
from ..data.texts import labelled_texts, readings_of, text_columns_among
from ..noise import NOISE_TYPES, load_transition_matrix
from ..report import apply_corrections
from ..report.issue_table import TAKEN
from ..tuners import PEFT_METHODS
from .training_arguments import FULL_FINE_TUNING

logger = logging.getLogger(__name__)


def check_choices(arguments: Any) -> None:
    """Looks at the choices of a dataclass of arguments, as argparse does for command lines: those of a JSON file are
    looked at by nobody else.

    Raises:
        ValueError: if a value is none of the choices.
    """
    for argument in dataclasses.fields(arguments):
        choices, value = argument.metadata.get("choices"), getattr(arguments, argument.name)
        if choices is not None and value != argument.default and value not in choices:
            raise ValueError(f"--{argument.name} has to be one of {', '.join(choices)}; got {value!r}.")


@dataclass
class PeftArguments:
    """What of a model is trained."""

    peft_method: str | None = field(
        default=None,
        metadata={
            "help": "'none' trains all weights. Default: lora; none for --method turn.",
            "choices": ChainMap[str, Any](PEFT_METHODS, {FULL_FINE_TUNING: None}),
        },
    )
    target_modules: str | None = field(
        default=None,
        metadata={"help": "Modules to adapt, separated by commas, or 'all-linear' (LoRA). Default: the method's."},
    )
    lora_r: int = field(default=8, metadata={"help": "Rank of LoRA."})
    lora_alpha: int = field(default=16, metadata={"help": "Scale of LoRA: the delta is multiplied by alpha / r."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout on the input of LoRA."})
    adapter_size: int = field(default=64, metadata={"help": "Width of the bottleneck adapters."})
    adapter_activation: str = field(default="gelu", metadata={"help": "Activation of the bottleneck adapters."})
    num_virtual_tokens: int = field(default=20, metadata={"help": "Length of the deep prompt."})

    def peft_config(self, task_type: str) -> PeftConfig | None:
        """The config for `get_peft_model`; None for full fine-tuning."""
        if self.peft_method == FULL_FINE_TUNING:
            return None
        modules: Any = self.target_modules
        if modules is not None and modules != "all-linear":
            modules = [name.strip() for name in modules.split(",")]
        method = cast(str, self.peft_method)  # a default has come in the place of None
        of_methods: dict[str, dict[str, Any]] = {
            "lora": {"r": self.lora_r, "lora_alpha": self.lora_alpha, "lora_dropout": self.lora_dropout},
            "adapter": {"bottleneck_size": self.adapter_size, "activation": self.adapter_activation},
            "prompt": {"num_virtual_tokens": self.num_virtual_tokens},
        }
        settings = {"task_type": task_type, "target_modules": modules, **of_methods.get(method, {})}
        return PEFT_METHODS.find(method).config(**settings)


@dataclass
class LabelArguments:
    """Which columns hold texts and labels, and the noise to inject into the training labels.

    Raises:
        ValueError: if an argument is out of its range, missing or one too many, or a file holds no matrix.
    """

    text_column_name: str | None = field(
        default=None, metadata={"help": "Column with the text; two, separated by a comma, for pairs. Default: 'text'."}
    )
    label_column_name: str = field(default="label", metadata={"help": "Column with the label, an integer or a string."})
    clean_label_column_name: str | None = field(
        default=None,
        metadata={
            "help": "Column of the training data with the true label, empty if it is unknown: for noisy data from "
            "the real world. Used for metrics and --routing oracle alone. Goes with --noise_type none."
        },
    )
    noise_type: str = field(
        default="none",
        metadata={
            "help": "Label noise to inject into the training data. 'instance_dependent' goes by TF-IDF features of the "
            "texts, the same for every model.",
            "choices": ChainMap[str, Any](NOISE_TYPES, {NO_NOISE: None}),
        },
    )
    noise_rate: float | None = field(
        default=None, metadata={"help": "Probability in [0, 1] that a training label is changed."}
    )
    transition_matrix_file: str | None = field(
        default=None,
        metadata={
            "help": "Noise from a matrix of your own (.csv without header, .npy or .json), K x K, rows sum to 1: row "
            "i, column j is the probability that class i (in sorted order) gets label j. Instead of --noise_type."
        },
    )
    noise_seed: int = field(default=42, metadata={"help": "Seed of the noise, independent of the training seed."})

    transition_matrix = None  # what the file holds; no argument
    text_names = None  # what the text columns of the data are called, once they are read; no argument

    def __post_init__(self):
        if self.transition_matrix_file is not None:
            if self.noise_type != NO_NOISE or self.noise_rate is not None:
                raise ValueError(
                    "--transition_matrix_file stands instead of --noise_type and --noise_rate: drop these."
                )
            try:
                self.transition_matrix = load_transition_matrix(self.transition_matrix_file).tolist()
            except (OSError, ValueError) as error:
                raise ValueError(f"--transition_matrix_file {self.transition_matrix_file}: {error}") from error
        elif self.noise_type == NO_NOISE and self.noise_rate is not None:
            raise ValueError(f"--noise_rate {self.noise_rate} needs a --noise_type: {', '.join(NOISE_TYPES)}.")
        elif self.noise_type != NO_NOISE and self.noise_rate is None:
            raise ValueError(f"--noise_type {self.noise_type} needs a --noise_rate in [0, 1].")
        elif self.noise_rate is not None and not 0 <= self.noise_rate <= 1:
            raise ValueError(f"--noise_rate has to be in [0, 1]; got {self.noise_rate}.")

        if self.clean_label_column_name is not None:
            if self.adds_noise:
                raise ValueError("--clean_label_column_name is for data that are noisy already: add no noise to them.")
            if self.clean_label_column_name in (self.label_column_name, *self.text_columns):
                raise ValueError(
                    f"Column {self.clean_label_column_name!r} can't be the true label and another at once."
                )
        if self.label_column_name in self.text_columns:
            raise ValueError(f"Column {self.label_column_name!r} can't be text and label at once.")

    @property
    def text_columns(self) -> tuple[str, ...]:
        """One column, or two for pairs of texts."""
        if self.text_column_name is not None:
            return tuple(name.strip() for name in self.text_column_name.split(","))
        return self.default_text_columns()

    def text_columns_among(self, there_are: Sequence[str]) -> tuple[str, ...]:
        """Those of a data set: its names may have commas and blanks in them.

        Raises:
            ValueError: if there are more than two.
        """
        if self.text_column_name is None:
            return self.default_text_columns()
        return text_columns_among(self.text_column_name, there_are, "--text_column_name")

    def _readings(self) -> list[tuple[str, ...]]:
        return [self.default_text_columns()] if self.text_column_name is None else readings_of(self.text_column_name)

    @property
    def columns(self) -> tuple[str, ...]:
        """All that may be read of a data set."""
        names = [self.label_column_name, self.clean_label_column_name]
        names += [name for reading in self._readings() for name in reading]
        return tuple(dict.fromkeys(name for name in names if name is not None))

    def default_text_columns(self) -> tuple[str, ...]:
        """For a subclass that knows the data set."""
        return ("text",)

    @property
    def adds_noise(self) -> bool:
        return self.noise_type != NO_NOISE or self.transition_matrix_file is not None

    def labelled_texts(
        self, splits: Mapping[str, Dataset], source: str | None, label_names: Sequence[str] | None = None
    ) -> tuple[DatasetDict, list[str]]:
        """[`~hf_clear.data.labelled_texts`] from the columns that the arguments name."""
        options = {f"{name}_column": f"--{name}_column_name" for name in ("label", "clean_label")}
        options["text_columns"] = "--text_column_name"
        text_columns = self.text_names = self.text_columns_among(next(iter(splits.values())).column_names)
        columns = (text_columns, self.label_column_name, self.clean_label_column_name)
        found = labelled_texts(splits, *columns, source or "The data set", options, label_names)
        train = found[0].get("train")
        if train is not None:
            texts = [train[name][:] for name in TEXTS if name in train.column_names]
            names = train.features["label"].names
            said = contradictions(texts, [names[label] for label in train["label"]])
            if said is not None:
                logger.warning(f"Training data: {said}")
        return found

    def add_noise_to(self, dataset: Dataset) -> Dataset:
        """[`~hf_clear.data.add_noise`] as the arguments say; without any, the data set as it is."""
        if self.transition_matrix is not None:
            name = f"--transition_matrix_file {self.transition_matrix_file}"
            return add_noise(dataset, None, None, self.noise_seed, self.transition_matrix, name)
        return add_noise(dataset, self.noise_type, self.noise_rate, self.noise_seed) if self.adds_noise else dataset

    def describe_noise(self, realized: Mapping[str, float]) -> str:
        """For reading, such as "symmetric noise, realized rate 0.397"; `realized` as in
        [`~hf_clear.data.realized_noise`]."""
        noise = f"{self.noise_type} noise" if self.adds_noise else "no noise added"
        if self.transition_matrix_file is not None:
            noise = f"noise from {self.transition_matrix_file}"
        if self.clean_label_column_name is not None:
            noise = f"noise of its own (truth known of {realized['true_labels']} training samples)"
        return noise + (f", realized rate {realized['noise_rate']:.3f}" if "noise_rate" in realized else "")


@dataclass
class DataArguments(LabelArguments):
    """Where the data come from, and what [`LabelArguments`] says of them. A subclass may add a `task_name`.

    Raises:
        ValueError: if there is more than one source of data, or a file that isn't there.
    """

    task_name = None

    dataset_name: str | None = field(default=None, metadata={"help": "A data set on the Hub or a local folder."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "The configuration of the data set."})
    train_file: str | None = field(default=None, metadata={"help": "Training data: csv, json (lines) or parquet."})
    validation_file: str | None = field(
        default=None, metadata={"help": "Validation data, in the format of train_file."}
    )
    test_file: str | None = field(
        default=None, metadata={"help": "Test data, in the format of train_file; with or without labels."}
    )

    corrections_file: str | None = field(
        default=None,
        metadata={
            "help": "Corrected labels of the training data: a label_issues.csv with 'corrected_label' filled "
            "in, or what its report page downloads. Its texts and labels have to be those of the data."
        },
    )

    def __post_init__(self):
        sources = [name for name in ("task_name", "dataset_name", "train_file") if getattr(self, name) is not None]
        if len(sources) > 1:
            raise ValueError(f"Give one source of data, not {' and '.join('--' + name for name in sources)}.")
        if self.files and sources not in ([], ["train_file"]):
            raise ValueError(f"--validation_file and --test_file go with --train_file, not with --{sources[0]}.")
        for name, path in self.files.items():
            check_file(path, f"--{name}_file")
        if self.corrections_file is not None:
            check_file(self.corrections_file, "--corrections_file")
        if self.dataset_name is not None and os.path.isfile(self.dataset_name):
            raise ValueError(f"--dataset_name {self.dataset_name} is a file: that is for --train_file.")
        super().__post_init__()

    def corrected(self, dataset: Dataset) -> Dataset:
        """A training set as [`labelled_texts`] returns it, or with noise, with the labels of `--corrections_file`."""
        if self.corrections_file is None:
            return dataset
        texts = [name for name in TEXTS if name in dataset.column_names]
        own = {name: own for name, own in zip(texts, self.text_names or texts) if own != name and own not in TAKEN}
        renamed = [own.get(name, name) for name in dataset.column_names]
        own = own if len(set(renamed)) == len(renamed) else {}
        try:
            corrected = apply_corrections(dataset.rename_columns(own), self.corrections_file, "label")
        except ValueError as error:
            raise ValueError(f"--corrections_file {error}") from error
        return corrected.rename_columns({own: name for name, own in own.items()})

    @property
    def files(self) -> dict[str, str]:
        """From the name of a split to its file."""
        named = {name: getattr(self, f"{name}_file") for name in ("train", "validation", "test")}
        return {name: path for name, path in named.items() if path is not None}

    @property
    def source(self) -> str:
        """What the data are called."""
        named = (self.task_name, self.dataset_name, *self.files.values())
        return next((name for name in named if name is not None), "embedded data set")
