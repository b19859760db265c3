"""The training arguments of both methods, and learning rates that suit."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from .._argument_checks import LARGEST_SEED
from ..routing import ROUTING_STRATEGIES
from ..training_args import ClearTrainingArguments
from ..tuners import PEFT_METHODS
from ..turn.state import STATE_NAME as TURN_STATE
from ..turn.training_args import TurnArguments

FULL_FINE_TUNING = "none"  # as the name of a PEFT method
_FULL_FINE_TUNING_LEARNING_RATE = 2e-4
STEPS = ("do_train", "do_eval", "do_predict")  # of a run


def default_learning_rate(peft_method: str) -> float:
    """The learning rate that suits a PEFT method, or `"none"`: full fine-tuning. Chosen on clean data (20 intents of
    BANKING77, 4 epochs).

    Raises:
        ValueError: if there is no such method.
    """
    if peft_method == FULL_FINE_TUNING:
        return _FULL_FINE_TUNING_LEARNING_RATE
    return PEFT_METHODS.find(peft_method).learning_rate


def steps_asked_for(given: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults that `do_train`, `do_eval` and `do_predict` ask for: what is not asked for is not done between the
    epochs, either.

    Args:
        given (`Mapping[str, Any]`): the arguments that are given, by name.

    Raises:
        ValueError: if nothing is to be done.
    """
    said = [given[name] for name in STEPS if name in given]
    if given.get("method") == "both" and said and not given.get("do_train"):
        raise ValueError("--method both compares two trainings: it goes with --do_train.")
    if said and not any(said):
        raise ValueError(f"There is nothing to do: of {', '.join('--' + name for name in STEPS)}, none is on.")
    between = ("eval_strategy", "test_each_epoch", "load_best_model_at_end")
    if said and not given.get("do_eval") and not any(given.get(name) for name in between):
        return {"eval_strategy": "no"}
    return {}


@dataclass
class NoisyTrainingArguments(TurnArguments, ClearTrainingArguments):
    """The arguments of both methods, with defaults that suit LoRA on a small encoder.

    Attributes:
        asked_for (`tuple[str, ...]`): those of `do_train`, `do_eval` and `do_predict` that were given. If none was, all
            are on: a script does what there are data for.
        resumes (`bool`, *optional*): what `resume_from_checkpoint` says if it is True or False, which it is then no
            longer: a run has to go on, or must not. A path stays where it was.

    Raises:
        ValueError: if an argument is out of its range, the output folder is a file, or the checkpoint is none.
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
        default="none",
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

    do_train: bool = field(
        default=False,
        metadata={"help": "Train. Without any of --do_train, --do_eval, --do_predict: all that there are data for."},
    )
    do_eval: bool = field(default=False, metadata={"help": "Score the validation set."})
    do_predict: bool = field(default=False, metadata={"help": "Predict the test set, and score it if it has labels."})
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={
            "help": "A checkpoint to go on from; True: the last one in output_dir, which has to be there; False: go on "
            "from none. Default: from the last one, if there is one."
        },
    )

    def __post_init__(self):
        self.asked_for = tuple(name for name in STEPS if getattr(self, name))
        if not self.asked_for:
            self.do_train = self.do_eval = self.do_predict = True
        said = str(self.resume_from_checkpoint).strip().lower()
        self.resumes = {"true": True, "false": False}.get(said)
        if self.resumes is not None or said in ("", "none"):
            self.resume_from_checkpoint = None
        elif not os.path.isdir(cast(str, self.resume_from_checkpoint)):
            raise ValueError(
                f"--resume_from_checkpoint {self.resume_from_checkpoint}: there is no such folder. Name a checkpoint, "
                "or True for the last one in --output_dir."
            )
        else:
            self._check_checkpoint(cast(str, self.resume_from_checkpoint))
        self._check_numbers()
        super().__post_init__()

    def _check_numbers(self) -> None:
        """Of what `Trainer` takes, or refuses once the model is there. No epoch would give an untrained model."""
        if not self.num_train_epochs > 0 and not self.max_steps > 0:
            raise ValueError(
                f"--num_train_epochs has to be above 0; got {self.num_train_epochs:g}. --do_eval and --do_predict "
                "score a model without training it."
            )
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"--learning_rate has to be above 0; got {self.learning_rate:g}.")
        for name in ("weight_decay", "warmup_steps"):
            value = getattr(self, name)
            if isinstance(value, (int, float)) and not 0 <= value < math.inf:
                raise ValueError(f"--{name} has to be 0 or above; got {value:g}.")
        steps = ("gradient_accumulation_steps", "eval_accumulation_steps")
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", *steps):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} has to be 1 or above; got {value}.")
        for name in ("seed", "data_seed"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= LARGEST_SEED:
                raise ValueError(f"--{name} has to be from 0 to {LARGEST_SEED}; got {value}.")

    @staticmethod
    def _check_checkpoint(folder: str) -> None:
        states = [name for name in (TRAINER_STATE_NAME, TURN_STATE) if os.path.isfile(os.path.join(folder, name))]
        inside = get_last_checkpoint(folder)
        if not states or (states == [TRAINER_STATE_NAME] and inside is not None):
            why = f"It is the folder of a run: name {inside}" if inside else f"There is no {TRAINER_STATE_NAME} in it"
            raise ValueError(f"--resume_from_checkpoint {folder} is no checkpoint. {why}.")

    def check_resuming(self, last_checkpoint: str | None) -> None:
        """Looks whether what `resume_from_checkpoint` asks for can be had.

        Args:
            last_checkpoint (`str`, *optional*): what there is to go on from in `output_dir`.

        Raises:
            ValueError: if it can't.
        """
        if self.resumes is True and last_checkpoint is None:
            raise ValueError(f"--resume_from_checkpoint True: there is no checkpoint in {self.output_dir}.")
        if self.resumes is False and last_checkpoint is not None:
            raise ValueError(
                f"--resume_from_checkpoint False: {self.output_dir} holds {os.path.basename(last_checkpoint)}. To "
                "start again there, add --overwrite_output_dir; or choose another --output_dir."
            )

    def check_splits(
        self, splits: Collection[str], can_validate: bool, model: str | None, classes: Sequence[str]
    ) -> None:
        """Looks whether there are data for what is asked for.

        Args:
            splits (`Collection[str]`): the names of those that there are.
            can_validate (`bool`): whether a validation set is taken from the training set.
            model (`str`, *optional*): what `--model_name_or_path` says.
            classes (`Sequence[str]`): those that it was trained on.

        Raises:
            ValueError: if there are none, or no model to go by without training.
        """
        if self.do_train and "train" not in splits:
            raise ValueError(
                "There are no training data. Name some (--train_file), or say what to do without training: --do_eval, "
                "--do_predict."
            )
        if "do_eval" in self.asked_for and "validation" not in splits and not ("train" in splits and can_validate):
            raise ValueError("--do_eval needs a validation set: --validation_file or --validation_split_percentage.")
        if "do_predict" in self.asked_for and "test" not in splits:
            raise ValueError("--do_predict needs a test set: --test_file.")
        if not self.do_train and model is None:
            raise ValueError(
                "Without --do_train, --model_name_or_path has to name a model that was trained before: the "
                "--output_dir of its run."
            )
        if "train" not in splits and not classes:
            raise ValueError(
                f"{model} doesn't say what its classes are called. Name the training data, too (--train_file): the "
                "classes are then theirs, in sorted order."
            )
