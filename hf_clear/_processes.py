"""One training on several processes: when one of them fails, all end, and each says why.

A process whose neighbors wait for it in a collective operation can't tell them there that it has failed. So it notes
the reason in the store of the process group, where a thread of every other process looks once in a while.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

Result = TypeVar("Result")

# In seconds. All of it together is well below a minute.
_LOOK_EVERY = 0.5
_TELL_FOR = 6.0  # how long a process that failed stays, so that the others learn why
_END_WITHIN = 12.0  # of having learned it

_LOST = (
    "it lost the connection to another process. If that gives no reason, it was killed, perhaps for want of memory: "
    "look at what the launcher says"
)

_watch: _Watch | None = None  # of the method that runs
_num_watches = 0  # one after the other, the same number on every process: it tells their notes apart


def together(method: Callable[..., Result]) -> Callable[..., Result]:
    """For a method of a trainer that all processes call: an exception that leaves it on one of them ends it on all.

    The others write the reason to their stderr. A process that is still in the method 12 seconds later, as it may be
    blocked for good, is ended with exit code 1. Nothing happens on a single process, or if the trainer routes nothing.
    """

    @functools.wraps(method)
    def with_watch(trainer: Any, *args: Any, **kwargs: Any) -> Result:
        if trainer._is_stock:
            return method(trainer, *args, **kwargs)
        with failing_together():
            return method(trainer, *args, **kwargs)

    return with_watch


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """What [`together`] does, as a context. One inside another adds nothing."""
    global _watch, _num_watches
    store = dist.distributed_c10d._get_default_store() if dist.is_available() and dist.is_initialized() else None
    if _watch is not None or store is None or dist.get_world_size() == 1:  # MPI has no store
        yield
        return
    _num_watches += 1
    _watch = _Watch(store, _num_watches)
    try:
        yield
    except BaseException as error:
        told = _watch.tell(error)
        if told is not None:
            raise RuntimeError(told) from error
        raise
    finally:
        _watch.stop()
        _watch = None


def run_on_main(accelerator: Accelerator, what: str, function: Callable[..., Result], *args: Any) -> Result:
    """Runs a function on the main process alone; every process gets its result. It must not be a collective operation.

    Args:
        what (`str`): that the function does, for a message.

    Raises:
        RuntimeError: on the other processes if it raised an exception, which the main process raises itself.
    """
    if accelerator.num_processes == 1:
        return function(*args)
    result, failure, error = None, None, None
    if accelerator.is_main_process:
        try:
            result = function(*args)
        except Exception as raised:
            error, failure = raised, _describe(raised)
    result, failure = broadcast_object_list([result, failure])
    if error is not None:
        raise error
    if failure is not None:
        raise RuntimeError(f"{what} failed on process 0: {failure}")
    return result


def on_every_process(accelerator: Accelerator, value: Any) -> list[Any]:
    """The values that the processes have, in the order of their ranks."""
    return [value] if accelerator.num_processes == 1 else gather_object([value])


class _Watch:
    """The notes of one method that runs on all processes, and the thread that looks for them."""

    def __init__(self, store: dist.Store, number: int):
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._store = dist.PrefixStore(f"hf_clear/{number}", store)
        self._note: dict[str, Any] | None = None  # another process's failure
        self._is_failing = False
        self._stopped = threading.Event()
        own = store.clone() if hasattr(store, "clone") else store  # the main thread may be blocked in its own
        own = dist.PrefixStore(f"hf_clear/{number}", own)
        self._thread = threading.Thread(target=self._look, args=(own,), name="hf_clear failures", daemon=True)
        self._thread.start()

    def tell(self, error: BaseException) -> str | None:
        """Notes why this process failed, unless another did before, and stays until all have read it. Returns what to
        raise in place of the error, if it is only what the failure of another process led to."""
        self._is_failing = True
        is_lost = _is_lost_connection(error)
        reason = f"{_LOST} ({_describe(error)})" if is_lost else _describe(error)
        trace = "".join(traceback.format_exception(error))
        note = self._note or {"rank": self.rank, "is_lost": is_lost, "reason": reason, "traceback": trace}
        try:
            note = json.loads(self._store.compare_set("failure", "", json.dumps(note)))
            self._store.set(f"told {self.rank}", "")
            end = time.monotonic() + _TELL_FOR
            while time.monotonic() < end and not self._store.check([f"told {rank}" for rank in range(self.size)]):
                time.sleep(_LOOK_EVERY / 5)
        except RuntimeError:  # the store is gone, and the process that had it
            pass
        if is_lost and note["is_lost"]:
            _write(f"Process {self.rank} of the training has failed: {reason}")
        return _message(note) if is_lost and not note["is_lost"] else None

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(timeout=5)

    def _look(self, store: dist.Store) -> None:
        try:
            while not store.check(["failure"]):
                if self._stopped.wait(_LOOK_EVERY):
                    return
            note = json.loads(store.get("failure"))
            if note["rank"] == self.rank or self._is_failing:
                return
            self._note = note
            _write(_message(note) + "\n" + note["traceback"])
            store.set(f"told {self.rank}", "")
        except RuntimeError:  # the store is gone: that the process which had it has ended shows in the main thread
            return
        if not self._stopped.wait(_END_WITHIN):
            _write(f"Process {self.rank} waits for process {note['rank']}, which has failed: it is ended.")
            os._exit(1)


def _is_lost_connection(error: BaseException) -> bool:
    """Whether a collective operation failed: by itself, it hardly does."""
    errors = tuple(getattr(dist, name) for name in ("DistError", "DistBackendError") if hasattr(dist, name))
    return isinstance(error, errors) or (type(error) is RuntimeError and "/gloo/" in str(error))


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def _message(note: dict[str, Any]) -> str:
    return f"Process {note['rank']} of the training has failed, which ends it on all: {note['reason']}"


def _write(message: str) -> None:
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    print(message, file=sys.stderr, flush=True)
