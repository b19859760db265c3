"""`hf-clear train`: the script `run_glue_noisy.py`, which is a module of the wheel."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any


def script() -> Any:
    """The module.

    Raises:
        ImportError: if it is not there.
    """
    try:
        return importlib.import_module("run_glue_noisy")
    except ModuleNotFoundError as error:
        if error.name != "run_glue_noisy":
            raise
        raise ImportError(
            "run_glue_noisy.py is not installed beside hf_clear. Install the package again: pip install hf-clear."
        ) from error


def run(argv: Sequence[str]) -> None:
    module = script()
    before, sys.argv = sys.argv, ["hf-clear train", *argv]
    try:
        module.main()
    finally:
        sys.argv = before
