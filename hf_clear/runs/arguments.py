"""Arguments of a script, for [`~transformers.HfArgumentParser`]: what is trained, what noise is added, and how it is
trained. Choices are asked for anew each time: what is registered before the command line is parsed can be chosen."""

from __future__ import annotations

import dataclasses
import os
from collections import ChainMap
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from peft import PeftConfig

from .._peft_stand_in import PEFT_METHODS  # lead: from ..tuners
from ..data.noise import add_noise
from ..noise import NOISE_TYPES, load_transition_matrix
from ..routing import ROUTING_STRATEGIES
from ..training_args import ClearTrainingArguments, TurnArguments

FULL_FINE_TUNING = "none"  # as the name of a PEFT method
NO_NOISE = "none"  # as the name of a noise type
_FULL_FINE_TUNING_LEARNING_RATE = 2e-4


def default_learning_rate(peft_method: str) -> float:
    """The learning rate that suits a PEFT method, or `"none"`: full fine-tuning. Chosen on clean data (20 intents of
    BANKING77, 4 epochs).

    Raises:
        ValueError: if there is no such method.
    """
    if peft_method == FULL_FINE_TUNING:
        return _FULL_FINE_TUNING_LEARNING_RATE
    return PEFT_METHODS.find(peft_method).learning_rate


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
            "choices": ChainMap(PEFT_METHODS, {FULL_FINE_TUNING: None}),
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
        modules = self.target_modules
        if modules is not None and modules != "all-linear":
            modules = [name.strip() for name in modules.split(",")]
        settings = {
            "lora": {"r": self.lora_r, "lora_alpha": self.lora_alpha, "lora_dropout": self.lora_dropout},
            "adapter": {"bottleneck_size": self.adapter_size, "activation": self.adapter_activation},
            "prompt": {"num_virtual_tokens": self.num_virtual_tokens},
        }.get(self.peft_method, {})
        return PEFT_METHODS.find(self.peft_method).config(task_type=task_type, target_modules=modules, **settings)


@dataclass
class NoiseArguments:
    """The noise to inject into the training labels.

    Raises:
        ValueError: if an argument is out of its range, missing or one too many, or a file holds no matrix.
    """

    noise_type: str = field(
        default="none",
        metadata={
            "help": "Label noise to inject into the training data. 'instance_dependent' goes by TF-IDF features of the "
            "texts, the same for every model.",
            "choices": ChainMap(NOISE_TYPES, {NO_NOISE: None}),
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

    @property
    def adds_noise(self) -> bool:
        return self.noise_type != NO_NOISE or self.transition_matrix_file is not None

    def add_noise_to(self, dataset: Dataset) -> Dataset:
        """[`~hf_clear.data.add_noise`] as the arguments say; without any, the data set as it is."""
        if self.transition_matrix is not None:
            name = f"--transition_matrix_file {self.transition_matrix_file}"
            return add_noise(dataset, None, None, self.noise_seed, self.transition_matrix, name)
        return add_noise(dataset, self.noise_type, self.noise_rate, self.noise_seed) if self.adds_noise else dataset

    def describe_noise(self) -> str:
        """For reading, such as "symmetric noise"."""
        if self.transition_matrix_file is not None:
            return f"noise from {self.transition_matrix_file}"
        return f"{self.noise_type} noise" if self.adds_noise else "no noise added"


@dataclass
class NoisyTrainingArguments(TurnArguments, ClearTrainingArguments):
    """The arguments of both methods, with defaults that suit LoRA on a small encoder.

    Raises:
        ValueError: if an argument is out of its range, or the output folder is a file.
    """

    output_dir: str = field(default="outputs/run_glue_noisy", metadata={"help": "Where results and checkpoints go."})
    overwrite_output_dir: bool = field(
        default=False,
        metadata={"help": "Start again in an output_dir; what an earlier run wrote there (OUTPUTS) is deleted."},
    )
    learning_rate: float = field(
        default=2e-3,
        metadata={
            "help": "The initial learning rate. Default: "
            + ", ".join(f"{default_learning_rate(name)} for {name}" for name in (*PEFT_METHODS, FULL_FINE_TUNING))
        },
    )
    num_train_epochs: float = field(default=8.0, metadata={"help": "Number of training epochs."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Batch size per device in training."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Batch size per device in evaluation."})
    train_sampling_strategy: str = field(
        default="group_by_length", metadata={"help": "Batches of similar lengths need less padding."}
    )
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate on the validation set."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save a checkpoint."})
    save_total_limit: int | None = field(default=1, metadata={"help": "How many checkpoints to keep."})
    clear_routing: str = field(
        default="clean",
        metadata={
            "aliases": ["--routing"],
            "help": "What CleaR's gates follow: the clean probability, or one of its ablations.",
            "choices": ROUTING_STRATEGIES,
        },
    )
    report_memorization: bool = field(
        default=False,
        metadata={
            "help": "After each epoch, log the memorization of clean and of noisy training samples (one more pass over "
            "the training set an epoch)."
        },
    )
    logging_steps: float = field(default=50, metadata={"help": "Steps between two logs of the loss."})
    dataloader_pin_memory: bool = field(
        default=torch.cuda.is_available(), metadata={"help": "Pin memory in data loaders. Default: if there is a GPU."}
    )

    def __post_init__(self):
        if os.path.isfile(self.output_dir):
            raise ValueError(f"--output_dir {self.output_dir} is a file.")
        super().__post_init__()
