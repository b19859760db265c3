"""What makes a run the same run: a folder's checkpoints are gone on with by the same run alone."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from transformers import TrainingArguments
from transformers.trainer_utils import get_last_checkpoint
from xxhash import xxh3_64_hexdigest

from ..checkpoints.mixin import recover_checkpoints
from ..identity.fingerprint import Fingerprint
from ..identity.training import (
    FINE_TUNING_SETTINGS,
    SELECTION_SETTINGS,
    TRAINING_SETTINGS,
    as_json,
    say_settings,
    with_its_weights,
)
from ..probe_args import MEMORY_SETTINGS
from ..sample_store import STATE_NAME, SampleStore
from ..training_args import ClearArguments
from ..turn.state import STATE_NAME as TURN_STATE
from ..turn.state import TurnState
from ..turn.training_args import TurnArguments
from .outputs import (
    READ,
    RESULTS,
    arguments_of_training,
    check_output_dir,
    delete_outputs,
    note_outputs,
    outputs_in,
    write_arguments,
)

# The training arguments that make a run another run, besides model and data.
RUN_ARGUMENTS = [
    *TRAINING_SETTINGS,
    *dict.fromkeys(f.name for arguments in (ClearArguments, TurnArguments) for f in dataclasses.fields(arguments)),
]
MAY_CHANGE = ("token", "cache_dir", "overwrite_cache", *MEMORY_SETTINGS)
PROBE_MAY_CHANGE = (*SELECTION_SETTINGS, *FINE_TUNING_SETTINGS)  # TURN's probe doesn't depend on them
_DATA = "data"  # in the file, beside the arguments
_WEIGHTS = "model_weights"
_FILES = {"training": "train_file", "validation": "validation_file"}  # what they hold counts, not their names


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
    return as_json({**arguments, **{name: getattr(training_args, name, None) for name in RUN_ARGUMENTS}, **more})


def detect_last_checkpoint(
    training_args: TrainingArguments,
    arguments: dict[str, Any],
    overwrite: bool = False,
    has_probe: bool = False,
    options: Sequence[str] = ("`output_dir`", "`overwrite=True`"),
    data: Mapping[str, Fingerprint] | None = None,
    weights: Mapping[str, Mapping[str, str]] | None = None,
    read: Mapping[str, str] | None = None,
    check: Callable[[str | None], None] = lambda checkpoint: None,
) -> str | None:
    """The checkpoint to resume from.

    Notes the arguments of this run for the next one, in `run_arguments.json`. If there is nothing to resume from,
    deletes the results of an earlier run: `Trainer.save_metrics` would add to them.

    Call it on every process, right before training: after all that may fail was read and made.

    Args:
        training_args (`TrainingArguments`): its `output_dir` is looked at. With `resume_from_checkpoint`, data and
            weights are compared with the run that the checkpoint is of, but not the arguments.
        arguments (`dict[str, Any]`): of this run, see [`run_arguments`]. A "token" is not written to the file.
        overwrite (`bool`, *optional*): start again; what an earlier run left in the folder (`OUTPUTS`) is deleted.
        has_probe (`bool`, *optional*): the run begins with TURN's probe, which is something to go on with too.
        options (`Sequence[str]`, *optional*): what a user calls the output folder and `overwrite`, for messages.
        data (`Mapping[str, Fingerprint]`, *optional*): by name, such as "training"; see
            [`~hf_clear.identity.fingerprint.fingerprint`].
        weights (`Mapping`, *optional*): of the model before training, [`~hf_clear.identity.training.weights_of`].
        read (`Mapping[str, str]`, *optional*): the paths that arguments name, [`paths_read`]: they are never deleted.
        check (`Callable`, *optional*): is called with the checkpoint before anything is deleted; raises an exception if
            a run can't go on from it.

    Returns:
        `str`, *optional*: the last checkpoint in `output_dir`; that folder itself if there is a probe but no
        checkpoint; None if there is neither.

    Raises:
        ValueError: if what is there comes from a run with other arguments, data or weights; if the run would overwrite
            or delete what no run has written, or what an argument names. Nothing is deleted then.
    """
    with training_args.main_process_first(local=False):  # the others see what it leaves
        folder, named = cast(str, training_args.output_dir), training_args.resume_from_checkpoint
        named = None if str(named).lower() in ("none", "false", "") else str(named)
        named = folder if named is not None and named.lower() == "true" else named
        may_stay = []
        if overwrite and named is not None:
            read = {**(read or {}), "--resume_from_checkpoint": named}
        elif named is not None:  # a trainer without a script may have written these
            may_stay = [name for name in outputs_in(folder) if os.path.isdir(os.path.join(folder, name))]
        check_output_dir(folder, read or {}, may_stay, options[0])
        identity: dict[str, Any] = {_DATA: {name: fingerprint.as_json() for name, fingerprint in (data or {}).items()}}
        if weights is not None:
            identity[_WEIGHTS] = xxh3_64_hexdigest(json.dumps(weights, sort_keys=True).encode())
        last_checkpoint = None
        if not overwrite:
            if training_args.should_save:
                recover_checkpoints(folder)
            last_checkpoint = get_last_checkpoint(folder) if os.path.isdir(folder) else None
            may_change: tuple[str, ...] = MAY_CHANGE
            if last_checkpoint is None and has_probe and os.path.isfile(os.path.join(folder, TURN_STATE)):
                last_checkpoint = folder
                may_change += PROBE_MAY_CHANGE
            going_on_from = last_checkpoint if named in (None, folder) else named
            if going_on_from is not None:
                compared = {name: value for name, value in arguments.items() if named is None}
                compared |= {_WEIGHTS: identity[_WEIGHTS]} if weights is not None else {}
                _compare(going_on_from, folder, data or {}, compared, may_change, options)
        check(last_checkpoint)
        if training_args.should_save:
            if overwrite or last_checkpoint is None:
                delete_outputs(folder, None if overwrite else RESULTS)
            noted = {name: value for name, value in arguments.items() if name != "token"}
            write_arguments(folder, noted | {name: value for name, value in identity.items() if value})
    return last_checkpoint


def begin_without_training(training_args: TrainingArguments, read: Mapping[str, str], option: str) -> None:
    """Makes sure that results can be written to `output_dir`, and notes that they are a run's. See
    [`~hf_clear.runs.check_output_dir`] for arguments and errors; call it on every process."""
    folder = cast(str, training_args.output_dir)
    with training_args.main_process_first(local=False):
        check_output_dir(folder, read, option=option, trains=False)
        if training_args.should_save:
            note_outputs(folder, trains=False, ends=False)


def _compare(
    checkpoint: str,
    folder: str,
    data: Mapping[str, Fingerprint],
    arguments: Mapping[str, Any],
    may_change: Sequence[str],
    options: Sequence[str],
) -> None:
    """With the run that a checkpoint is of.

    Raises:
        ValueError: if it was another one.
    """
    earlier = arguments_of_training(checkpoint) or arguments_of_training(os.path.dirname(os.path.normpath(checkpoint)))
    if earlier is None:  # of a trainer without a script: it compares by itself
        return
    known = {name: value for name, value in arguments.items() if name in earlier or name not in RUN_ARGUMENTS}
    changed = {name: (earlier.get(name), value) for name, value in known.items() if earlier.get(name) != value}
    before = earlier.get(_DATA, {})
    may_change = [*may_change, *(name for kind, name in _FILES.items() if kind in before and kind in data)]
    may_change += () if arguments.get("test_each_epoch") else ("test_file", "max_predict_samples")
    changed = {name: values for name, values in changed.items() if name not in may_change}
    changed = {name: values for name, values in changed.items() if name not in READ or not _is_one_path(*values)}
    found = ["another model before training"] if changed.pop(_WEIGHTS, None) else []
    found += [say_settings(changed, "other arguments")] if changed else []
    for name, fingerprint in data.items():
        if name in before:
            labels = _labels_of(checkpoint) if name == "training" else None
            differences = fingerprint.differences(before[name], labels)
            found += [f"other {name} data: {' and '.join(differences)} changed"] if differences else []
        elif before:
            found.append(f"no {name} data")
    found += [f"{name} data" for name in before if data and name not in data]
    if found:
        # Which samples validate is drawn by the labels.
        is_drawn = bool(arguments.get("validation_split_percentage")) and arguments.get(_FILES["validation"]) is None
        only_labels = found[0].startswith("other training data: the labels") and all(
            " data: " in say and (is_drawn or "inputs" not in say) for say in found
        )
        if only_labels and len(found) > 1:
            found[-1] += " (the validation set is drawn by the labels, so that one which was corrected moves others)"
        raise ValueError(
            f"{folder} holds checkpoints or a probe of a run with {' and '.join(found)}. Choose another {options[0]}, "
            f"or start again in this one with {options[1]}.{with_its_weights(checkpoint) if only_labels else ''}"
        )


def _is_one_path(*names: Any) -> bool:
    """Whether these are names of one file or folder."""
    return all(isinstance(name, str) and os.path.exists(name) for name in names) and os.path.samefile(*names)


def _labels_of(checkpoint: str) -> np.ndarray | None:
    """Of the training samples, as far as the state in a checkpoint knows them; else -100."""
    path, of_turn = os.path.join(checkpoint, STATE_NAME), os.path.join(checkpoint, TURN_STATE)
    store = SampleStore.load(path) if os.path.isfile(path) else None
    store = TurnState.load(Path(of_turn)).sample_store if os.path.isfile(of_turn) else store
    return None if store is None else store.labels.numpy()


def steps_of(checkpoint: str | None) -> int:
    """The number of steps in a checkpoint's name; 0 for no checkpoint, and for a folder with a probe alone."""
    name = os.path.basename(checkpoint or "")
    return int(name.removeprefix("checkpoint-")) if name.startswith("checkpoint-") else 0
