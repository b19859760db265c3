"""Errors of commands, said to people: a line with what to do, and no traceback."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Any

SAID = (ValueError, OSError, ImportError)  # what is wrong with arguments or data
_OURS = ("hf_clear", "run_glue_noisy", "__main__")


def in_words(main: Callable[[], Any], name: str, only_ours: bool = False) -> int:
    """Runs a command.

    Args:
        main (`Callable`): what it does. What it returns counts if that is an exit status.
        name (`str`): what the command is called, for messages.
        only_ours (`bool`, *optional*, defaults to `False`): whether to do so with errors that hf_clear itself raises
            alone. Of others, the traceback tells more: in a training, any library may have raised them.

    Returns:
        `int`: the exit status; 0 if all went well, 2 if the arguments or the data can't be used.
    """
    try:
        status = main()
    except SAID as error:
        if isinstance(error, BrokenPipeError) and not only_ours:
            return 1
        if only_ours and not _is_ours(error):
            raise
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    return status if isinstance(status, int) else 0


def _is_ours(error: BaseException) -> bool:
    """Whether code of hf_clear raises it, in its own words."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).partition(".")[0] in _OURS
