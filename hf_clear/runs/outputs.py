"""What a run writes to its folder, and that it deletes nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from xxhash import xxh3_64_hexdigest

from .._names import CLEAN_PROBABILITIES, TEST_PREDICTIONS
from .._version import __version__
from ..checkpoints.mixin import INCOMPLETE
from ..files import write_atomically
from ..sample_store import FINAL_STATE_NAME
from ..turn.state import STATE_NAME as TURN_STATE
from .label_issues import LABEL_ISSUES

ARGUMENTS_FILE = "run_arguments.json"  # says that a folder is a run's
RESULTS = tuple(f"{name}_results.json" for name in ("all", "train", "eval", "test", "detection"))
_CHECKPOINT = r"checkpoint-\d+"
# What a run leaves in its output_dir, and is deleted if a run starts again: regular expressions of whole names.
OUTPUTS = (
    *(_CHECKPOINT, re.escape(INCOMPLETE)),
    *map(re.escape, (*RESULTS, "predict_results.txt", CLEAN_PROBABILITIES, "label_names.json")),
    *map(re.escape, (*LABEL_ISSUES, FINAL_STATE_NAME, TEST_PREDICTIONS)),
    *map(re.escape, ("adapter_config.json", "adapter_model.safetensors", "clear_config.json", "config.json")),
    *(r"model\.safetensors(\.index\.json)?", r"model-\d{5}-of-\d{5}\.safetensors"),
    *map(re.escape, ("README.md", ARGUMENTS_FILE, TRAINER_STATE_NAME, "training_args.bin", TURN_STATE)),
    *map(re.escape, ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")),
    *map(re.escape, ("vocab.txt", "vocab.json", "merges.txt", "chat_template.jinja")),
)
# What a run without training writes.
PREDICTED = ("all_results.json", "eval_results.json", "test_results.json", "predict_results.txt", TEST_PREDICTIONS)
# Arguments that name what a run reads.
READ = (
    *("train_file", "validation_file", "test_file", "transition_matrix_file", "corrections_file", "dataset_name"),
    *("model_name_or_path", "config_name", "tokenizer_name", "deepspeed", "fsdp_config"),
)
_WRITTEN = "outputs"  # in `ARGUMENTS_FILE`: what was there when the run had ended
_WRITTEN_BY = "hf_clear_version"
_BYTES = 2**16


def outputs_in(folder: str | os.PathLike) -> list[str]:
    """The names in a folder that a run may write."""
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return [name for name in names if any(re.fullmatch(pattern, name) for pattern in OUTPUTS)]


def paths_read(*arguments: Any) -> dict[str, str]:
    """The files and folders that arguments name for a run to read: by option, `"--train_file"`.

    Args:
        arguments (dataclasses): of a script.
    """
    read = {}
    for name, own in ((name, getattr(own, name, None)) for own in arguments for name in READ):
        for number, path in enumerate(own if isinstance(own, (list, tuple)) else [own], 1):
            if isinstance(path, str) and os.path.exists(path):
                read[f"--{name}" if number == 1 else f"--{name} (number {number})"] = path
    return read


def check_output_dir(
    folder: str | os.PathLike,
    read: Mapping[str, str],
    but: Iterable[str] = (),
    option: str = "`output_dir`",
    trains: bool = True,
) -> None:
    """Makes sure that a run can write its outputs to a folder: nothing of those names is there that a run did not
    write, and none of them is what an argument names. Changes nothing.

    Args:
        read (`Mapping[str, str]`): what arguments name, see [`paths_read`].
        but (`Iterable[str]`, *optional*): names that may be there nevertheless.
        option (`str`, *optional*): what a user calls the folder, for messages.
        trains (`bool`, *optional*, defaults to `True`): without training, a run writes `PREDICTED` alone, and the model
            that it reads may be in the folder.

    Raises:
        ValueError: if not; the message says what is in the way.
    """
    outputs = [name for name in outputs_in(folder) if trains or name in PREDICTED]
    for name, path in read.items():
        target = os.path.realpath(path)
        if trains and target == os.path.realpath(folder):
            raise ValueError(
                f"{name} {path} is the folder that the run would write to. Choose another {option}: what is read stays "
                "as it is."
            )
        for output in outputs:
            own = os.path.realpath(os.path.join(folder, output))
            if target == own or target.startswith(own + os.sep):
                raise ValueError(
                    f"{name} {path} is, or is in, {os.path.join(folder, output)}, which the run would overwrite or "
                    f"delete. Choose another {option}."
                )
    foreign = [_in_the_way(folder, name) for name in outputs if name not in but and not _is_of_a_run(folder, name)]
    if foreign:
        raise ValueError(
            f"{folder} holds {', '.join(foreign)}, and no run has written {'it' if len(foreign) == 1 else 'them'} as "
            f"{'it is' if len(foreign) == 1 else 'they are'} now. A run would overwrite such files: move them away, or "
            f"choose another {option}. Nothing was changed.{_say_arguments(folder)}"
        )


def delete_outputs(folder: str | os.PathLike, names: Sequence[str] | None = None) -> None:
    """Deletes what runs have written to a folder; call [`check_output_dir`] before.

    Args:
        names (`Sequence[str]`, *optional*): of what; by default all of `OUTPUTS`.
    """
    for name in outputs_in(folder):
        path = os.path.join(folder, name)
        if names is None or name in names:
            (shutil.rmtree if os.path.isdir(path) else os.remove)(path)


def read_arguments(folder: str | os.PathLike) -> dict[str, Any] | None:
    """What [`write_arguments`] wrote; None if no run has."""
    path = os.path.join(folder, ARGUMENTS_FILE)
    if not os.path.isfile(path):
        return None
    try:
        with open(path, encoding="utf-8") as file:
            arguments = json.load(file)
    except (ValueError, RecursionError):
        return None
    return arguments if isinstance(arguments, dict) and _WRITTEN_BY in arguments else None


def arguments_of_training(folder: str | os.PathLike) -> dict[str, Any] | None:
    """[`read_arguments`]; None, too, if no run has trained there."""
    arguments = read_arguments(folder) or {}
    return arguments if arguments.keys() - {_WRITTEN, _WRITTEN_BY} else None


def write_arguments(folder: str | os.PathLike, arguments: Mapping[str, Any]) -> None:
    """Marks a folder as that of a run which is going on."""
    content = json.dumps({**arguments, _WRITTEN_BY: __version__}, indent=2, sort_keys=True) + "\n"
    write_atomically(os.path.join(folder, ARGUMENTS_FILE), content.encode())


def note_outputs(folder: str | os.PathLike, trains: bool = True, ends: bool = True) -> None:
    """Notes what a run has left in its folder, at its end: what is changed from then on is somebody else's.

    Args:
        trains (`bool`, *optional*, defaults to `True`): without training, a run notes `PREDICTED` alone: at its
            beginning, too, since there may be no run in the folder. Call [`check_output_dir`] before.
        ends (`bool`, *optional*, defaults to `True`): False at the beginning.
    """
    arguments = read_arguments(folder)
    names = [name for name in outputs_in(folder) if name != ARGUMENTS_FILE and (trains or name in PREDICTED)]
    written = {name: _content(os.path.join(folder, name)) for name in names} if ends else dict.fromkeys(PREDICTED)
    if not trains:
        before = {} if arguments is None else arguments.get(_WRITTEN)
        arguments = None if before is None else arguments or {}  # a training that was killed: all there is its own
        written = {**(before or {}), **written}
    if arguments is not None:
        write_arguments(folder, arguments | {_WRITTEN: written})


def _is_of_a_run(folder: str | os.PathLike, name: str) -> bool:
    path, arguments = os.path.join(folder, name), read_arguments(folder)
    is_folder = os.path.isdir(path)
    if os.path.islink(path) or arguments is None or is_folder != (name == INCOMPLETE or _is_checkpoint(name)):
        return False
    written = arguments.get(_WRITTEN)
    if name in (ARGUMENTS_FILE, INCOMPLETE) or not isinstance(written, dict):  # the run didn't come to its end
        return True
    if is_folder:
        return name in written and set(_content(path)) <= set(written[name] or ())
    return name in written and written[name] in (None, _content(path))  # None: a run is about to write it


def _in_the_way(folder: str | os.PathLike, name: str) -> str:
    """A name; of a checkpoint that a run has written, that of a file which came later."""
    path, written = os.path.join(folder, name), (read_arguments(folder) or {}).get(_WRITTEN) or {}
    if not _is_checkpoint(name) or os.path.islink(path) or not os.path.isdir(path) or not written.get(name):
        return name
    return os.path.join(name, min(set(_content(path)) - set(written[name])))


def _say_arguments(folder: str | os.PathLike) -> str:
    """That what a run has written can't be told from what it has not."""
    is_there = os.path.isfile(os.path.join(folder, ARGUMENTS_FILE))
    if not is_there or read_arguments(folder) is not None:
        return ""
    return f" ({ARGUMENTS_FILE}, in which runs note what they have written, is damaged or not of a run.)"


def _is_checkpoint(name: str) -> bool:
    return re.fullmatch(_CHECKPOINT, name) is not None


def _content(path: str) -> str | list[str]:
    """A file's size, and a hash of its beginning and end; the files in a folder."""
    if os.path.isdir(path):
        files = (os.path.join(parent, name) for parent, _, names in os.walk(path) for name in names)
        return sorted(os.path.relpath(file, path) for file in files)
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        content = file.read(_BYTES)
        file.seek(max(0, size - _BYTES))
        content += file.read(_BYTES)
    return f"{size} {xxh3_64_hexdigest(content)}"
