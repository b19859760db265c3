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
import dataclasses
import functools
import logging
import os
import sys
import warnings
from collections import ChainMap
from dataclasses import dataclass, field
from typing import Any

import datasets
import transformers
from datasets import DatasetDict, DownloadMode, load_dataset
from peft import PeftModel, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    default_data_collator,
    set_seed,
)

from hf_clear import ClearTrainer, TurnTrainer, load_adapter
from hf_clear.checkpoints.run_lock import alone_in_output_dir
from hf_clear.commands.errors import in_words
from hf_clear.data.classes import renumber
from hf_clear.data.files import read_files
from hf_clear.data.folders import read_folder
from hf_clear.data.labels import TEXTS
from hf_clear.data.noise import realized_noise
from hf_clear.data.questions import load_questions
from hf_clear.data.splits import check_classes, train_validation_split
from hf_clear.demo import demo_backbone
from hf_clear.files import check_folder
from hf_clear.hub.private_files import samples_left_out
from hf_clear.identity.training import fingerprint_of, weights_of
from hf_clear.metrics import Accuracy, Glue
from hf_clear.presets import PRESETS
from hf_clear.runs.arguments import DataArguments, PeftArguments, check_choices
from hf_clear.runs.command_line import parse_arguments
from hf_clear.runs.defaults import BOTH, run_defaults
from hf_clear.runs.evaluation import add_callbacks, check_best_metric, datasets_of_each_epoch, metrics_of
from hf_clear.runs.identity import begin_without_training, detect_last_checkpoint, run_arguments, steps_of
from hf_clear.runs.label_issues import label_evidence, save_label_issues
from hf_clear.runs.models import (
    base_model,
    check_head,
    longest_input,
    order_of_classes,
    set_padding,
    trained_classes,
)
from hf_clear.runs.outputs import check_output_dir, note_outputs, paths_read
from hf_clear.runs.predictions import labelled_part, predict
from hf_clear.runs.results import accuracy_over_epochs, results_in, save_card, save_clean_probabilities, summary
from hf_clear.runs.training_arguments import NoisyTrainingArguments
from hf_clear.tuners import PEFT_METHODS

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
    *("--validation_split_percentage", "0", "--test_each_epoch", "--num_train_epochs", "6"),
    *("--output_dir", "outputs/embedded"),
]
# Title and trainer of each --method. As with all choices below, those that are added before `main()` are choices, too.
METHODS = {"none": ("plain", Trainer), "clear": ("CleaR", ClearTrainer), "turn": ("TURN", TurnTrainer)}
ROW = "row"  # of a training sample in the data as they were loaded

logger = logging.getLogger(__name__)
# peft 0.21 calls a name that transformers 5.23 deprecates, on every get_peft_model.
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)


@dataclass
class DataTrainingArguments(DataArguments):
    """What data to train and evaluate on, and the noise to inject into the training labels."""

    task_name: str | None = field(
        default=None,
        metadata={
            "help": "A GLUE task, from the Hub: its validation set is the test set here, since the labels of its test "
            "set are hidden.",
            "choices": [*task_to_keys, "stsb"],
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

    def __post_init__(self):
        check_choices(self)
        if self.task_name == "stsb":
            raise ValueError("--task_name stsb is a regression task: it has no classes, so no wrong ones.")
        super().__post_init__()
        if not 0 <= self.validation_split_percentage < 100:
            raise ValueError("--validation_split_percentage has to be at least 0 and below 100.")
        for name in ("max_train_samples", "max_eval_samples", "max_predict_samples"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"--{name} has to be 1 or above; got {getattr(self, name)}.")

    def default_text_columns(self) -> tuple[str, ...]:
        return task_to_keys.get(self.task_name, ("text",))


@dataclass
class ModelArguments(PeftArguments):
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
            "choices": ChainMap({"both": None}, METHODS),
        },
    )
    preset: str | None = field(
        default=None,
        metadata={
            "help": "CleaR's settings by name: 'recommended' is the default; 'paper' and 'official' as published; "
            "'clear' as published but for a running mean of predictions as its consistency target. Arguments that are "
            "given go before those of the preset.",
            "choices": PRESETS,
        },
    )
    config_name: str | None = field(default=None, metadata={"help": "Config, if not that of the model."})
    tokenizer_name: str | None = field(default=None, metadata={"help": "Tokenizer, if not that of the model."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where to store models and data from the Hub."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the model."})
    token: str | None = field(default=None, metadata={"help": "Token for the Hub, if not that of `hf auth login`."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with a model on the Hub."})

    def hub_args(self) -> dict[str, Any]:
        names = ("cache_dir", "token", "trust_remote_code")
        return {"revision": self.model_revision, **{name: getattr(self, name) for name in names}}

    def __post_init__(self):
        check_choices(self)
        if self.peft_method is None:
            self.peft_method = "none" if self.method == "turn" else "lora"
        if self.method in ("clear", "both") and self.peft_method == "none":
            raise ValueError(
                f"--method {self.method} routes samples around PEFT modules, so it needs some: --peft_method "
                f"{'|'.join(PEFT_METHODS)}."
            )


def parse(argv: list[str]) -> tuple[ModelArguments, DataTrainingArguments, NoisyTrainingArguments]:
    """The arguments of a command line, or of the JSON file that it names."""
    argument_classes = (ModelArguments, DataTrainingArguments, NoisyTrainingArguments)
    aliases = {"routing": "clear_routing"}
    defaults_of = functools.partial(run_defaults, methods=METHODS)
    return parse_arguments(argument_classes, argv, defaults_of, aliases)


def main():
    # See all possible arguments by passing the --help flag to this script, or pass the path to a json file with them.
    argv = sys.argv[1:]
    if not argv:
        argv = EMBEDDED_DEFAULT
        print(f"No arguments given, which is short for\n    python run_glue_noisy.py {' '.join(argv)}\n")
    model_args, data_args, training_args = parse(argv)
    if training_args.should_save:
        check_folder(training_args.output_dir, "--output_dir")

    # Setup logging
    logging.basicConfig(
        format="%(asctime)s - %(levelname)s - %(name)s - %(message)s",
        datefmt="%m/%d/%Y %H:%M:%S",
        handlers=[logging.StreamHandler(sys.stdout)],
    )
    log_level = training_args.get_process_log_level()
    logger.setLevel(log_level)
    datasets.utils.logging.set_verbosity(log_level)
    transformers.utils.logging.set_verbosity(log_level)

    if model_args.method != "both":
        results = {model_args.method: run(model_args, data_args, training_args)}
    else:
        results = {}
        for method in BOTH:  # what is in the way of the second run shows before the first
            folder = os.path.join(training_args.output_dir, method)
            check_output_dir(folder, paths_read(model_args, data_args, training_args), option="--output_dir")
        for method in BOTH:
            own_args = copy.copy(training_args)
            own_args.output_dir = os.path.join(training_args.output_dir, method)
            results[method] = run(dataclasses.replace(model_args, method=method), data_args, own_args)
    if training_args.should_log:
        titles = {name: METHODS[name][0] for name in results}
        print(summary(results, titles, data_args.source, model_args.peft_method, data_args, training_args))
    return results


@samples_left_out()  # of pushes to the Hub, which a plain Trainer would make of the whole folder
@alone_in_output_dir  # refuses a second run in it before anything is changed
def run(
    model_args: ModelArguments, data_args: DataTrainingArguments, training_args: NoisyTrainingArguments
) -> dict[str, float]:
    """Trains and tests one method; returns what OUTPUT_DIR/all_results.json holds."""
    # As they were given: `Trainer` and we fill in some
    arguments = run_arguments(training_args, model_args, data_args, transition_matrix=data_args.transition_matrix)

    # Set seed before initializing model.
    set_seed(training_args.seed)

    # Get the datasets, with noise in the training labels
    raw_datasets, label_names, noise = load_data(model_args, data_args, training_args)

    # Load pretrained model and tokenizer
    if model_args.model_name_or_path is None:
        model_args.model_name_or_path = demo_backbone("--model_name_or_path")
    model, tokenizer = load_model(model_args, label_names, is_trained=not training_args.do_train)

    # Preprocessing the raw_datasets
    tokenized_datasets = preprocess(raw_datasets, tokenizer, model, data_args, training_args)
    eval_dataset, predict_dataset = tokenized_datasets.get("validation"), tokenized_datasets.get("test")

    # Initialize our Trainer
    trainer = initialize_trainer(model, tokenizer, tokenized_datasets, model_args, data_args, training_args)

    # Detecting last checkpoint, once all that it may be of has been read and checked
    last_checkpoint = None
    if training_args.do_train:
        fingerprints = {"training": tokenized_datasets["train"], "validation": eval_dataset}
        last_checkpoint = detect_last_checkpoint(
            training_args,
            arguments,
            overwrite=training_args.overwrite_output_dir,
            has_probe=model_args.method == "turn",
            options=("--output_dir", "--overwrite_output_dir"),
            data={name: fingerprint_of(trainer, data) for name, data in fingerprints.items() if data is not None},
            weights=weights_of(trainer.model),
            read=paths_read(model_args, data_args, training_args),
            check=training_args.check_resuming,
        )
    else:
        begin_without_training(training_args, paths_read(model_args, data_args), "--output_dir")
    if last_checkpoint is not None and training_args.resume_from_checkpoint is None:
        logger.warning(
            f"Resuming the run in {training_args.output_dir} from {last_checkpoint}"
            + (" (a finished run is only evaluated again)" if last_checkpoint != training_args.output_dir else "")
            + ". To start again, add --overwrite_output_dir."
        )

    # Training
    if training_args.do_train:
        logger.info(f"*** {model_args.method}: training on {len(trainer.train_dataset)} samples ***")
        train(trainer, last_checkpoint, noise)

        # Clean probabilities, and how well they find the wrong labels
        path = os.path.join(training_args.output_dir, "clean_probabilities.parquet")
        evidence = label_evidence(trainer)
        metrics = save_clean_probabilities(trainer, raw_datasets["train"], path, ROW, evidence)
        if metrics:
            trainer.log_metrics("detection", metrics)
            trainer.save_metrics("detection", metrics)

        # Suspect labels with their texts; samples taken for validation are scored, too
        held_out = eval_dataset if eval_dataset is not None and ROW in eval_dataset.column_names else None
        train_dataset = raw_datasets["train"]
        save_label_issues(trainer, evidence, train_dataset, held_out, ROW, data_args.text_names)

    # Evaluation
    if training_args.do_eval and eval_dataset is not None:
        metrics = trainer.evaluate(eval_dataset)
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)

    # Prediction
    if training_args.do_predict and predict_dataset is not None:
        metrics = predict(trainer, predict_dataset, label_names)
        metrics |= accuracy_over_epochs(trainer.state.log_history, training_args.clear_warmup_epochs)
        trainer.log_metrics("test", metrics)
        trainer.save_metrics("test", metrics)

    if training_args.do_train:
        tags = data_args.dataset_name or (None if data_args.task_name is None else "glue")
        kwargs = {"finetuned_from": model_args.model_name_or_path, "tasks": "text-classification"}
        save_card(trainer, label_names, **kwargs, dataset_tags=tags)
    if trainer.is_world_process_zero():
        note_outputs(training_args.output_dir, trains=training_args.do_train)
    return results_in(training_args.output_dir)


def load_data(
    model_args: ModelArguments, data_args: DataTrainingArguments, training_args: NoisyTrainingArguments
) -> tuple[DatasetDict, list[str], dict[str, float]]:
    """The splits `train`, `validation` and `test` (if there are such), with noise; the names of the classes; and the
    realized noise."""
    hub_args = {"cache_dir": model_args.cache_dir, "token": model_args.token}
    if data_args.overwrite_cache:
        hub_args["download_mode"] = DownloadMode.FORCE_REDOWNLOAD
    name, config_name = data_args.dataset_name, data_args.dataset_config_name
    if data_args.task_name is not None:
        raw_datasets = load_dataset("nyu-mll/glue", data_args.task_name, **hub_args)
        test = "validation_matched" if data_args.task_name == "mnli" else "validation"
        raw_datasets = {"train": raw_datasets["train"], "test": raw_datasets[test]}
    elif name is not None and os.path.isdir(name):
        raw_datasets = read_folder(name, data_args.columns, config_name, **hub_args)
    elif name is not None:
        raw_datasets = load_dataset(name, config_name, **hub_args)
    elif data_args.files:
        raw_datasets = read_files(data_args.files, data_args.columns)
    else:
        raw_datasets = load_questions()

    # Labels: the classes are those of the training data; without any, of the model
    model = model_args.model_name_or_path
    trained = []
    if model is not None:
        trained = trained_classes(model, has_config=model_args.config_name is None, **model_args.hub_args())
    training_args.check_splits(raw_datasets, data_args.validation_split_percentage > 0, model, trained)
    known = None if "train" in raw_datasets else trained
    raw_datasets, label_names = data_args.labelled_texts(raw_datasets, data_args.source, known)

    # Noise, in all training samples, whichever of them this run is going to use; then what people have corrected
    noise = {}
    if "train" in raw_datasets:
        train_dataset = raw_datasets["train"].add_column(ROW, range(len(raw_datasets["train"])))
        train_dataset = data_args.corrected(data_args.add_noise_to(train_dataset))
        if data_args.max_train_samples is not None and data_args.max_train_samples < len(train_dataset):
            train_dataset = train_dataset.shuffle(seed=training_args.seed).select(range(data_args.max_train_samples))
        noise = realized_noise(train_dataset)

        # Splits
        before = train_dataset if data_args.max_train_samples is None else None
        if "validation" not in raw_datasets and data_args.validation_split_percentage > 0:
            share = data_args.validation_split_percentage / 100
            train_dataset, raw_datasets["validation"] = train_validation_split(train_dataset, share, training_args.seed)
        check_classes(train_dataset, before, "Lower --validation_split_percentage, or give a --validation_file.")
        raw_datasets["train"] = train_dataset
    for split, limit in (("validation", data_args.max_eval_samples), ("test", data_args.max_predict_samples)):
        if split in raw_datasets and limit is not None:
            left_out = len(raw_datasets[split]) - limit
            if left_out > 0 and ROW in raw_datasets[split].column_names:
                logger.warning(f"--max_eval_samples: {left_out} training samples are in no table of label issues.")
            raw_datasets[split] = raw_datasets[split].select(range(min(limit, len(raw_datasets[split]))))

    # The noise goes by the order of the data, training by that of the model
    in_order = order_of_classes(label_names, trained, model, is_trained=not training_args.do_train)
    return (raw_datasets if in_order == label_names else renumber(raw_datasets, in_order)), in_order, noise


def load_model(model_args: ModelArguments, label_names: list[str], is_trained: bool = False):
    name, hub_args = model_args.model_name_or_path, model_args.hub_args()
    base = base_model(name)  # of an adapter
    config = AutoConfig.from_pretrained(
        model_args.config_name or base,
        id2label=dict(enumerate(label_names)),
        label2id={name: i for i, name in enumerate(label_names)},
        **hub_args,
    )
    tokenizer = AutoTokenizer.from_pretrained(model_args.tokenizer_name or name, **hub_args)
    model, loaded = AutoModelForSequenceClassification.from_pretrained(
        base, config=config, ignore_mismatched_sizes=True, output_loading_info=True, **hub_args
    )
    set_padding(tokenizer, model.config)
    if base != name:
        return load_adapter(model, name, is_trainable=True), tokenizer
    if is_trained:
        check_head(loaded, name, len(label_names))
    return model, tokenizer


def preprocess(
    raw_datasets: DatasetDict,
    tokenizer: Any,
    model: Any,
    data_args: DataTrainingArguments,
    training_args: NoisyTrainingArguments,
) -> DatasetDict:
    max_length = longest_input(model, tokenizer, data_args.max_seq_length)

    def preprocess_function(examples):
        # Tokenize the texts
        return tokenizer(
            *(examples[name] for name in TEXTS if name in examples),
            padding="max_length" if data_args.pad_to_max_length else False,
            max_length=max_length,
            truncation=True,
        )

    with training_args.main_process_first(desc="dataset map pre-processing"):
        return raw_datasets.map(preprocess_function, batched=True, desc="Running tokenizer on dataset")


def initialize_trainer(
    model: Any,
    tokenizer: Any,
    tokenized_datasets: DatasetDict,
    model_args: ModelArguments,
    data_args: DataTrainingArguments,
    training_args: NoisyTrainingArguments,
) -> Trainer:
    train_dataset, eval_dataset, predict_dataset = (
        tokenized_datasets.get(name) for name in ("train", "validation", "test")
    )
    predict_dataset = labelled_part(predict_dataset)
    if data_args.test_each_epoch and predict_dataset is None:
        raise ValueError("--test_each_epoch needs a test set with labels: --test_file.")
    test_dataset = predict_dataset if data_args.test_each_epoch else None
    if training_args.do_train:
        eval_dataset = datasets_of_each_epoch(training_args, eval_dataset, test_dataset)
    else:
        training_args.eval_strategy = "no"
    compute_metrics = metrics_of(Accuracy(), *([] if data_args.task_name is None else [Glue(data_args.task_name)]))
    check_best_metric(training_args, compute_metrics, several=isinstance(eval_dataset, dict))
    set_seed(training_args.seed)  # the head and LoRA start alike for every method
    peft_config = model_args.peft_config(task_type="SEQ_CLS")
    if training_args.do_train and peft_config is not None and not isinstance(model, PeftModel):
        model = get_peft_model(model, peft_config)
    trainer = (METHODS[model_args.method][1] if training_args.do_train else Trainer)(
        model=model,
        args=training_args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        compute_metrics=compute_metrics,
        processing_class=tokenizer,
        data_collator=default_data_collator if data_args.pad_to_max_length else DataCollatorWithPadding(tokenizer),
    )
    add_callbacks(trainer, predict_dataset)
    return trainer


def train(trainer: Trainer, last_checkpoint: str | None, noise: dict[str, float]) -> None:
    train_result = trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint or last_checkpoint)
    is_new = trainer.state.global_step > steps_of(last_checkpoint)  # else its loss and time are those of the run before
    metrics = {**(train_result.metrics if is_new else {}), "train_samples": len(trainer.train_dataset), **noise}
    for entry in trainer.state.log_history if trainer.args.report_memorization else ():  # the last epoch's stay
        metrics.update({name: value for name, value in entry.items() if name.startswith("memorization_")})
    trainer.save_model()  # Saves the tokenizer too for easy upload
    trainer.log_metrics("train", metrics)
    if is_new or "train_samples" not in results_in(trainer.args.output_dir):
        trainer.save_metrics("train", metrics)
    trainer.save_state()


if __name__ == "__main__":
    sys.exit(in_words(main, os.path.basename(__file__), only_ours=True))
