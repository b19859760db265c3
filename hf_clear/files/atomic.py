"""Files that are either complete or not there."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

_TEMPORARY = ".hf_clear_tmp"
_NEW, _EARLIER, _LOCK = "new", "earlier", "lock"  # in the temporary folder: what comes, what was there, who is at work


def make_temporary(folder: Path, name: str, permissions: int = 0o600) -> tuple[int, str]:
    """A new file in `folder`, open, that [`remove_temporaries`] knows. `Trainer` uploads no file whose name begins with
    "_", should a crash leave it. `permissions` are as of `os.open`, which respects the umask; `tempfile` doesn't."""
    path = os.path.join(folder, f"_{name}.{secrets.token_hex(4)}{_TEMPORARY}")
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), permissions), path


def remove_temporaries(folder: str | os.PathLike) -> None:
    """Removes what [`make_temporary`] made in `folder` for runs that were killed. Only while no other run is in it."""
    for path in Path(folder).glob(f"_*{_TEMPORARY}"):
        if re.fullmatch(rf"_.+\.[a-z0-9_]{{8}}{re.escape(_TEMPORARY)}", path.name) and not path.is_dir():
            with contextlib.suppress(OSError):
                path.unlink()


def write_atomically(path: str | os.PathLike, *content: bytes | memoryview) -> None:
    """Writes to a temporary name in the same folder, flushes to disk and renames: a reader or a crash sees the old file
    or the new one, never a part. Several parts are written one after the other."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = make_temporary(path.parent, path.name, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def write_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary folder beside `path` to write to. If the context ends without an exception, the folder is
    flushed to disk and renamed, and takes the place of what was there; else it is removed. What a process has left that
    was killed while it did so is put back or removed; another process at work is left alone."""
    path = Path(os.path.abspath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f"_{glob.escape(path.name)}.????????{_TEMPORARY}"):
        with contextlib.suppress(Timeout, OSError, NotImplementedError), FileLock(left / _LOCK, timeout=0):
            if (left / _EARLIER).is_dir() and not os.path.lexists(path):
                os.rename(left / _EARLIER, path)
            shutil.rmtree(left)
    with contextlib.ExitStack() as stack:
        staging = stack.enter_context(tempfile.TemporaryDirectory(_TEMPORARY, f"_{path.name}.", path.parent))
        with contextlib.suppress(NotImplementedError):  # without locks, nobody can take this folder for a leftover
            stack.enter_context(FileLock(Path(staging, _LOCK), timeout=0))
        folder, earlier = Path(staging, _NEW, path.name), Path(staging, _EARLIER)
        folder.mkdir(parents=True)
        yield folder
        flush_folder(folder)
        if path.exists():
            os.rename(path, earlier)
        try:
            os.rename(folder, path)
        except BaseException:
            if earlier.exists():
                os.rename(earlier, path)
            raise


def check_folder(path: str | os.PathLike, option: str) -> None:
    """Looks whether a folder, which need not be there yet, can be written to. Changes nothing.

    Args:
        option (`str`): what a user calls it, for the message, such as `"--output_dir"`.

    Raises:
        NotADirectoryError: if it, or what it would be in, is a file.
        PermissionError: if nobody may write there, or not this user.
    """
    folder = Path(os.path.abspath(path))
    there = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
    name = f"{option} {os.fspath(path)}" + f": {there}" * (there != folder)
    if not there.is_dir():
        raise NotADirectoryError(f"{name} is a file. Name a folder.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{name} can't be written to. Name another folder.")


def reserve(path: str | os.PathLike, size: int) -> None:
    """Makes a file of zeros, and sees to it that its `size` in bytes is there on the disk.

    Raises:
        OSError: if it is not.
    """
    with open(path, "wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def flush_folder(folder: str | os.PathLike) -> None:
    """Flushes the files below `folder` to disk: a rename of it is then not ahead of what it holds."""
    for parent, _, names in os.walk(os.fspath(folder)):
        for path in (os.path.join(parent, name) for name in names):
            if not os.path.isfile(path):  # a link to nowhere
                continue
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def check_inside(path: Path) -> None:
    """Makes sure that a file is where it seems to be. The files of a repository in the Hub's cache are links from
    `snapshots/REVISION` to `blobs`, beside it.

    Raises:
        ValueError: if it is a link to somewhere else.
    """
    folder, target = path.parent.resolve(), path.resolve()
    roots = [folder, *(parent.parent / "blobs" for parent in (folder, *folder.parents) if parent.name == "snapshots")]
    if not any(target.is_relative_to(root) for root in roots):
        raise ValueError(f"{path} is a link that leads out of its folder, to {target}. Put the file itself there.")
