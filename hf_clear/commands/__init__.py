"""The console script `hf-clear`: one module a command, which is loaded when it is asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from .errors import in_words

COMMANDS = {
    "audit": "Find wrong labels in a file of texts; no training beyond a linear probe.",
    "report": "Write one HTML page about a run, or about an audit.",
    "train": "Fine-tune a model on noisy labels; the arguments of run_glue_noisy.py.",
    "grid": "Train a grid of data, methods, noise and seeds, and compare what came out.",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv (`Sequence[str]`, *optional*): the command and its arguments; those of the process by default.

    Returns:
        `int`: the exit status; 0 if all went well, 2 if the arguments or the data can't be used.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if argv[0] == "--version":
        from .._version import __version__

        print(__version__)
        return 0
    if argv[0] not in COMMANDS:
        print(f"hf-clear: there is no command {argv[0]!r}.\n\n{_usage()}", file=sys.stderr)
        return 2
    command = importlib.import_module(f".{argv[0]}", __name__)
    return in_words(lambda: command.run(argv[1:]), f"hf-clear {argv[0]}", only_ours=argv[0] == "train")


def _usage() -> str:
    listed = "\n".join(f"  {name:<8}{text}" for name, text in COMMANDS.items())
    return f"usage: hf-clear COMMAND [arguments]\n\n{listed}\n\nhf-clear COMMAND --help says more."
