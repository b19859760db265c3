"""Files that are either complete or not there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Writes to a temporary name in the same folder, flushes to disk and renames: a reader or a crash sees the old file
    or the new one, never a part. (`Trainer` uploads no file whose name begins with "_", should a crash leave it.)"""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"_{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def reserve(path: str | os.PathLike, size: int) -> None:
    """Makes a file of zeros, and sees to it that its `size` in bytes is there on the disk.

    Raises:
        OSError: where it is not.
    """
    with open(path, "wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def flush_folder(folder: str | os.PathLike) -> None:
    """Flushes the files below `folder` to disk: a rename of it is then not ahead of what it holds."""
    for parent, _, names in os.walk(folder):
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
        ValueError: where it is a link to somewhere else.
    """
    folder, target = path.parent.resolve(), path.resolve()
    roots = [folder, *(parent.parent / "blobs" for parent in (folder, *folder.parents) if parent.name == "snapshots")]
    if not any(target.is_relative_to(root) for root in roots):
        raise ValueError(f"{path} is a link that leads out of its folder, to {target}. Put the file itself there.")


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
