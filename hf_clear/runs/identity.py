"""What makes a run the same run: a folder's checkpoints are gone on with by the same run alone."""

from __future__ import annotations

import dataclasses
import glob
import json
import os
import shutil
from collections.abc import Sequence
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from ..checkpoints import INCOMPLETE, recover_checkpoints
from ..files import write_atomically
from ..training_args import ClearArguments
from ..turn.state import STATE_NAME as TURN_STATE
from ..turn.training_args import TurnArguments

ARGUMENTS_FILE = "run_arguments.json"
# What a run leaves in its output_dir, and is deleted where a run starts again.
OUTPUTS = [
    *("checkpoint-*", INCOMPLETE, "*_results.json", "*_results.txt", "clean_probabilities.parquet", "label_names.json"),
    *("adapter_config.json", "adapter_model*", "model*.safetensors*", "config.json", "clear_config.json"),
    *("README.md", ARGUMENTS_FILE, "trainer_state.json", "training_args.bin", TURN_STATE),
]
# The training arguments that make a run another run, besides model and data.
RUN_ARGUMENTS = [
    *("learning_rate", "lr_scheduler_type", "optim", "weight_decay", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "seed", "label_smoothing_factor", "max_grad_norm", "warmup_steps", "bf16", "fp16"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "train_sampling_strategy"),
    *dict.fromkeys(f.name for arguments in (ClearArguments, TurnArguments) for f in dataclasses.fields(arguments)),
]
MAY_CHANGE = ("token", "cache_dir", "overwrite_cache")
PROBE_MAY_CHANGE = ("turn_threshold", "turn_balance", "turn_estimator")  # TURN's probe doesn't depend on them


def run_arguments(training_args: TrainingArguments, *others: Any, **more: Any) -> dict[str, Any]:
    """The arguments that make a run what it is, as JSON holds them.

    Args:
        training_args (`TrainingArguments`): with the arguments of CleaR and TURN, [`NoisyTrainingArguments`]; those in
            `RUN_ARGUMENTS` count.
        others (dataclasses): model and data arguments; all fields count.
        more: further ones, such as what a file holds that an argument names.

    Returns:
        `dict[str, Any]`: for [`detect_last_checkpoint`].
    """
    arguments = {name: value for other in others for name, value in dataclasses.asdict(other).items()}
    arguments |= {name: getattr(training_args, name) for name in RUN_ARGUMENTS}
    return json.loads(json.dumps({**arguments, **more}, default=str))


def detect_last_checkpoint(
    training_args: TrainingArguments,
    arguments: dict[str, Any],
    overwrite: bool = False,
    has_probe: bool = False,
    options: Sequence[str] = ("`output_dir`", "`overwrite=True`"),
) -> str | None:
    """The checkpoint to resume from.

    Notes the arguments of this run for the next one, in `run_arguments.json`. If there is nothing to resume from,
    deletes the results of an earlier run: `Trainer.save_metrics` would add to them.

    Call it on every process, before training.

    Args:
        training_args (`TrainingArguments`): its `output_dir` is looked at. With `resume_from_checkpoint` the arguments
            are not compared.
        arguments (`dict[str, Any]`): of this run, see [`run_arguments`]. A "token" is not written to the file.
        overwrite (`bool`, *optional*): start again; what an earlier run left in the folder (`OUTPUTS`) is deleted.
        has_probe (`bool`, *optional*): the run begins with TURN's probe, which is something to go on with too.
        options (`Sequence[str]`, *optional*): what a user calls the output folder and `overwrite`, for messages.

    Returns:
        `str`, *optional*: the last checkpoint in `output_dir`; that folder itself if there is a probe but no
        checkpoint; None if there is neither.

    Raises:
        ValueError: if what is there comes from a run with other arguments.
    """
    folder = training_args.output_dir
    path = os.path.join(folder, ARGUMENTS_FILE)
    if overwrite and training_args.should_save:
        delete_outputs(folder)
    with training_args.main_process_first(local=False):
        if training_args.should_save:
            recover_checkpoints(folder)
    last_checkpoint = get_last_checkpoint(folder) if os.path.isdir(folder) else None
    may_change = MAY_CHANGE
    if last_checkpoint is None and has_probe and os.path.isfile(os.path.join(folder, TURN_STATE)):
        last_checkpoint = folder
        may_change += PROBE_MAY_CHANGE
    if last_checkpoint is not None and training_args.resume_from_checkpoint is None:
        earlier = {}
        if os.path.isfile(path):
            with open(path) as file:
                earlier = json.load(file)
        changed = [n for n in arguments if n not in may_change and earlier.get(n) != arguments[n]]
        if changed:
            raise ValueError(
                f"{folder} holds checkpoints or a probe of a run with other arguments ({', '.join(changed)}). Choose "
                f"another {options[0]}, or start again in this one with {options[1]}."
            )
    if training_args.should_save:
        noted = {name: value for name, value in arguments.items() if name != "token"}
        write_atomically(path, (json.dumps(noted, indent=2, sort_keys=True) + "\n").encode())
        if last_checkpoint is None:
            delete_outputs(folder, ["*_results.json"])
    return last_checkpoint


def delete_outputs(folder: str, outputs: Sequence[str] = tuple(OUTPUTS)) -> None:
    """Deletes what a run leaves in its folder: files and folders by patterns of their names; others stay."""
    for path in [path for name in outputs for path in glob.glob(os.path.join(glob.escape(folder), name))]:
        (shutil.rmtree if os.path.isdir(path) else os.remove)(path)


def steps_of(checkpoint: str | None) -> int:
    """The number of steps in a checkpoint's name; 0 for no checkpoint, and for a folder with a probe alone."""
    name = os.path.basename(checkpoint or "")
    return int(name.removeprefix("checkpoint-")) if name.startswith("checkpoint-") else 0
