"""The files of a checkpoint: a list with their checksums, and the look at them before a run goes on."""

from __future__ import annotations

import json
import logging
import os
import re
import zipfile
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..files import write_atomically
from ..files.checksums import ALGORITHM, content_checksum, file_checksum
from ..files.states import damaged, missing

logger = logging.getLogger(__name__)

MANIFEST_NAME = "checksums.json"
# What `Trainer` reads if it is there, whatever else there is: `model.safetensors` goes before a model in parts.
_ALWAYS_READ = ("model.safetensors", "adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "scaler.pt")
_ON_PURPOSE = f"if it was changed on purpose, delete {MANIFEST_NAME}"  # as a callback may: `on_save` comes later
_MOST_BYTES = 2**24  # of the list: a hundred thousand files
_FORMAT = "hf_clear.checksums.v1"
# What no run goes on from: a user may edit or delete it. In folders below, which a sharded run writes, there is nothing
# of that kind.
_NOT_READ = (
    *("README.md", "training_args.bin", "clear_config.json", "label_names.json", "generation_config.json"),
    *("tokenizer*", "vocab*"),
    *("merges.txt", "*.model", "special_tokens_map.json", "added_tokens.json", "chat_template*"),
    *("preprocessor_config.json", "processor_config.json", "image_processor*", "feature_extractor*"),
)
_OF_TRAINING = ("optimizer*", "scheduler.pt", "scaler.pt", "rng_state*", TRAINER_STATE_NAME, "*_state.safetensors")


def is_checkpoint_name(name: str) -> bool:
    return re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-\d+", name) is not None


def read_on_resume(num_processes: int) -> Callable[[str], bool]:
    """Whether a run on so many processes reads a file of a checkpoint: of the random states, only its own."""
    own = {f"rng_state_{rank}.pth" for rank in range(num_processes)} if num_processes > 1 else {"rng_state.pth"}
    return lambda name: name in own or not fnmatch(name, "rng_state*.pth")


def holds_weights(name: str) -> bool:
    """Whether it is of the model, and not of its training."""
    return not any(fnmatch(name.split("/")[0], pattern) for pattern in _OF_TRAINING)


def write_manifest(folder: str | os.PathLike) -> None:
    """Notes sizes and checksums of all files that a run can go on from, in `checksums.json`.

    Args:
        folder (`str`): a checkpoint, written in full.
    """
    folder = Path(folder)
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if not any(fnmatch(name, pattern) for pattern in _NOT_READ if "/" not in name):
            files[name] = {"size": path.stat().st_size, "checksum": file_checksum(path)}
    content = {"format": _FORMAT, "algorithm": ALGORITHM, "files": files, "checksum": _checksum_of(files)}
    write_atomically(folder / MANIFEST_NAME, (json.dumps(content, indent=2) + "\n").encode())


def check_resumed(checkpoint: str | os.PathLike, num_processes: int, with_best: bool) -> None:
    """[`check_files`] for what a run on `num_processes` reads from a checkpoint when it goes on, and for the weights of
    the best one so far, which is loaded at the end. Nothing happens if the folder is no checkpoint: an `output_dir` may
    hold a model and a `trainer_state.json`, too."""
    folder = Path(checkpoint)
    has_optimizer = any(path.name.startswith(("optimizer", "global_step")) for path in folder.glob("*"))
    if not (has_optimizer or is_checkpoint_name(folder.name) or (folder / MANIFEST_NAME).is_file()):
        return
    check_files(folder, read_on_resume(num_processes))
    if not (folder / TRAINER_STATE_NAME).is_file():  # of a node without a common file system
        return
    if not has_optimizer:
        logger.warning(
            f"{folder} was saved without optimizer, scheduler and random states (`save_only_model=True`): training "
            "goes on with new ones, and won't end as the run that was stopped would have."
        )
    best = TrainerState.load_from_json(os.fspath(folder / TRAINER_STATE_NAME)).best_model_checkpoint
    if with_best and best is not None and os.path.isdir(best) and not os.path.samefile(best, folder):
        check_files(best, holds_weights)


def check_files(folder: str | os.PathLike, is_needed: Callable[[str], bool]) -> None:
    """Makes sure that a checkpoint holds what was saved. One without `checksums.json`, of an earlier version or of
    `Trainer` itself, can only be looked at: what it needs is there and is no fragment; a warning says so.

    Args:
        folder (`str`): the checkpoint.
        is_needed (`Callable[[str], bool]`): of a file's name, relative to `folder`.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is not as it was saved. Both name the file, and say what to do.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return  # an error of `Trainer`'s
    if not (folder / MANIFEST_NAME).is_file():
        _check_unlisted(folder, is_needed)
        return
    listed = _read_manifest(folder / MANIFEST_NAME)
    for path in (folder / name for name in _ALWAYS_READ if name not in listed):
        if path.is_file() and is_needed(path.name):
            raise damaged(path, f"it was not saved with the checkpoint; {_ON_PURPOSE}")
    for name, noted in listed.items():
        path = folder / name
        if not is_needed(name):
            continue
        if not path.is_file():
            raise missing(path, f"{MANIFEST_NAME} of the checkpoint lists it")
        size = path.stat().st_size
        if size != noted["size"]:
            raise damaged(path, f"it has {size} bytes, and {noted['size']} when it was saved; {_ON_PURPOSE}")
        if file_checksum(path) != noted["checksum"]:
            raise damaged(path, f"its checksum is not the one it was saved with; {_ON_PURPOSE}")


def _read_manifest(path: Path) -> dict[str, dict]:
    if path.stat().st_size > _MOST_BYTES:
        raise damaged(path, f"it has more than {_MOST_BYTES} bytes")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        files = content["files"]
        is_one = (content["format"], content["algorithm"]) == (_FORMAT, ALGORITHM)
        is_one = is_one and content["checksum"] == _checksum_of(files) and all(map(_is_entry, files.items()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(path, f"it is no list of files: {error!r}") from error
    if not is_one:
        raise damaged(path, f"it was changed, or is no list of files as {_FORMAT} has it")
    return files


def _is_entry(entry: tuple[str, dict]) -> bool:
    name, noted = entry
    is_inside = not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts
    return is_inside and type(noted["size"]) is int and type(noted["checksum"]) is str


def _check_unlisted(folder: Path, is_needed: Callable[[str], bool]) -> None:
    is_whole = any(folder.glob("*_state.safetensors"))  # else saved without optimizer, or by another trainer
    if is_whole and is_needed(TRAINER_STATE_NAME):
        is_sharded = any(path.is_dir() and any(path.iterdir()) for path in folder.glob("global_step*"))  # by DeepSpeed
        needed = (TRAINER_STATE_NAME, "rng_state*.pth") + (() if is_sharded else ("optimizer*", "scheduler.pt"))
        for pattern in needed:
            if not any(folder.glob(pattern)):
                raise missing(folder / pattern, "every checkpoint with an optimizer has one")
    known = {path for pattern in _OF_TRAINING for path in folder.glob(pattern) if path.is_file()}
    for path in sorted(path for path in known if is_needed(path.name)):
        try:
            if path.suffix in (".pt", ".pth") and (wrong := zipfile.ZipFile(path).testzip()):
                raise ValueError(f"its part {wrong} has another checksum")
            if path.name == TRAINER_STATE_NAME:
                TrainerState.load_from_json(os.fspath(path))
        except (zipfile.BadZipFile, ValueError, TypeError, RecursionError) as error:
            raise damaged(path, str(error)) from error
    logger.warning(
        f"{folder} has no {MANIFEST_NAME}: it was written by an earlier version of hf_clear or by another trainer, or "
        "the file was lost. Whether the other files are as they were saved can't be told."
    )


def _checksum_of(files: dict) -> str:
    return content_checksum(json.dumps(files, sort_keys=True).encode())
