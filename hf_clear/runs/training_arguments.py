"""The training arguments of both methods, and learning rates that suit."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import torch

from ..routing import ROUTING_STRATEGIES
from ..training_args import ClearTrainingArguments
from ..tuners import PEFT_METHODS
from ..turn.training_args import TurnArguments

FULL_FINE_TUNING = "none"  # as the name of a PEFT method
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
