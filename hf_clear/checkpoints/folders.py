"""The folders of checkpoints in an `output_dir`: written elsewhere, renamed, deleted, and told from a user's own."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from itertools import count

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import sort_checkpoints

from ..files import flush_folder
from .manifest import MANIFEST_NAME, is_checkpoint_name, write_manifest

logger = logging.getLogger(__name__)

# Where a checkpoint is written to before it gets its name. `Trainer` uploads nothing that begins with "_".
INCOMPLETE = "_incomplete"
_EARLIER = "earlier"  # in that folder, what a checkpoint takes the place of


def recover_checkpoints(run_dir: str) -> None:
    """Gives a checkpoint its name back that a run was about to replace when it was killed."""
    earlier = os.path.join(run_dir, INCOMPLETE, _EARLIER)
    for name in os.listdir(earlier) if os.path.isdir(earlier) else ():
        if is_checkpoint_name(name) and not os.path.exists(os.path.join(run_dir, name)):
            os.rename(os.path.join(earlier, name), os.path.join(run_dir, name))


def own_checkpoints(run_dir: str, use_mtime: bool = False) -> list[str]:
    """Oldest first, and no others: for `Trainer`, a copy that a user called `checkpoint-7-backup` is one too."""

    def is_own(path: str) -> bool:
        return is_checkpoint_name(os.path.basename(path)) and os.path.isfile(os.path.join(path, TRAINER_STATE_NAME))

    return [path for path in sort_checkpoints(run_dir, use_mtime=use_mtime) if is_own(path)]


def _is_foreign(folder: str) -> bool:
    names = set(os.listdir(folder))
    # That file alone is of a checkpoint that `Trainer` saves when it is told to stop (`enable_jit_checkpoint`).
    return not names & {TRAINER_STATE_NAME, MANIFEST_NAME} and not names <= {"checkpoint-is-incomplete.txt"}


def complete_checkpoint(staging: str, name: str, complete: str) -> None:
    """Renames `staging/name` to `complete`, and removes what was there."""
    written = os.path.join(staging, name)
    if os.path.isdir(written):
        write_manifest(written)
        flush_folder(written)
        if os.path.isdir(complete) and _is_foreign(complete):
            names = (f"{complete}.earlier{'' if number == 1 else number}" for number in count(1))
            aside = next(path for path in names if not os.path.exists(path))
            os.rename(complete, aside)
            logger.warning(f"{complete} was there before, and is no checkpoint of a trainer: it is {aside} now.")
        elif os.path.isdir(complete):  # saved twice in a step, or by an earlier run
            os.makedirs(os.path.join(staging, _EARLIER), exist_ok=True)
            os.rename(complete, os.path.join(staging, _EARLIER, name))
        with contextlib.suppress(FileNotFoundError):  # a network file system may show what another node has renamed
            os.rename(written, complete)
    remove_staging(staging)


def delete_checkpoint(checkpoint: str) -> None:
    """Not in place: a part of it would be taken for a checkpoint."""
    staging = os.path.join(os.path.dirname(checkpoint), INCOMPLETE)
    os.makedirs(staging, exist_ok=True)
    os.rename(checkpoint, os.path.join(staging, os.path.basename(checkpoint)))
    remove_staging(staging)


def remove_staging(staging: str) -> None:
    """Deletes the checkpoints in it, and itself if it holds nothing else: what is not ours stays."""
    for name in os.listdir(staging) if os.path.isdir(staging) else ():
        if name == _EARLIER or is_checkpoint_name(name):
            shutil.rmtree(os.path.join(staging, name), ignore_errors=True)
    with contextlib.suppress(OSError):
        os.rmdir(staging)
