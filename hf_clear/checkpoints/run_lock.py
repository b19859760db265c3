"""One run at a time in an output folder."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout
from transformers import TrainingArguments

from ..files import remove_temporaries, write_atomically

Result = TypeVar("Result")
logger = logging.getLogger(__name__)

# `Trainer` uploads nothing that begins with "_".
LOCK_NAME = "_run.lock"
HOLDER_NAME = "_run.lock.json"  # who holds it, for a message; the lock itself is the kernel's
_held: dict[tuple[int, int, str], int] = {}  # how often, by process (a fork holds nothing), thread and folder
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextlib.contextmanager
def alone_in(output_dir: str | os.PathLike, args: TrainingArguments, writes: bool = True) -> Iterator[None]:
    """Within this context, no other run can enter it for the same folder, and what killed runs left there under
    temporary names is removed. Entered on every process of a run; the main one holds a lock, which ends with it,
    however it ends. A thread can enter it again.

    Args:
        output_dir (`str`): created if need be.
        args (`TrainingArguments`): of the run.
        writes (`bool`, *optional*, defaults to `True`): whether the run can't do without writing to the folder.

    Raises:
        RuntimeError: on every process, if another run is in it. The message says which.
        OSError: on every process, if the run writes and can't.
    """
    with contextlib.ExitStack() as stack:
        error = None
        if args.process_index == 0:
            try:
                stack.enter_context(_locked(Path(output_dir), writes))
            except (OSError, RuntimeError) as caught:
                error = caught
        if args.world_size > 1:
            error = broadcast_object_list([error])[0]
        if error is not None:
            raise error
        yield


def alone_in_output_dir(run: Callable[..., Result]) -> Callable[..., Result]:
    """[`alone_in`] around a function that has `TrainingArguments` among its arguments, for their `output_dir`."""

    @functools.wraps(run)
    def run_alone(*args: Any, **kwargs: Any) -> Result:
        arguments = next(value for value in (*args, *kwargs.values()) if isinstance(value, TrainingArguments))
        with alone_in(cast(str, arguments.output_dir), arguments):
            return run(*args, **kwargs)

    return run_alone


@contextlib.contextmanager
def _locked(folder: Path, writes: bool) -> Iterator[None]:
    key = os.getpid(), threading.get_ident(), os.path.realpath(folder)
    if key in _held:
        _held[key] += 1
        try:
            yield
        finally:
            _held[key] -= 1
        return
    is_new = not folder.exists()
    lock = _acquire(folder, writes)
    _held[key] = 1
    try:
        if lock is not None:
            remove_temporaries(folder)
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S %Z")}
            with contextlib.suppress(OSError):
                write_atomically(folder / HOLDER_NAME, json.dumps(holder).encode())
        yield
    finally:
        del _held[key]
        if lock is not None:
            for name in (HOLDER_NAME, LOCK_NAME):  # while it is held: who has opened it meanwhile looks again
                with contextlib.suppress(OSError):
                    (folder / name).unlink(missing_ok=True)
            lock.release()
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()  # if nothing was written


def _acquire(folder: Path, writes: bool) -> FileLock | None:
    """Takes the lock of a folder; None if there can't be one."""
    lock = FileLock(folder / LOCK_NAME, timeout=0, thread_local=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        return lock
    except Timeout:
        raise RuntimeError(
            f"Another run is in {folder}: {_holder(folder)}. Two runs would overwrite each other's files: wait for its "
            "end, or choose another `output_dir`."
        ) from None
    except OSError as error:
        if writes and error.errno in _NOT_WRITABLE:
            raise type(error)(
                error.errno, f"The run can't write to its output folder: {error.strerror}", str(folder)
            ) from error
        logger.warning(f"{folder} can't be locked ({error}): nothing keeps a second run out of it.")
        return None


def _holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / HOLDER_NAME).read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process that has just begun"
