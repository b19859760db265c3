"""Files that are either complete or not there, and how those of others are read."""

from .atomic import (
    check_folder,
    check_inside,
    flush_folder,
    make_temporary,
    remove_temporaries,
    reserve,
    write_atomically,
    write_folder,
)

__all__ = [
    "check_folder",
    "check_inside",
    "flush_folder",
    "make_temporary",
    "remove_temporaries",
    "reserve",
    "write_atomically",
    "write_folder",
]
