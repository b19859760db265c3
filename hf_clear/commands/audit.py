"""`hf-clear audit FILE`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, cast

import datasets
from transformers import HfArgumentParser

from ..audit import AuditArguments, audit_file, summary


def run(argv: Sequence[str]) -> None:
    parser = HfArgumentParser(
        cast(Any, AuditArguments),
        prog="hf-clear audit",
        description="Finds wrong labels in a file of texts: features of a pretrained model, a linear probe that has "
        "not seen the label, and a noise model. Says how far to trust the list.",
    )
    parser.add_argument("file", help="csv (with a header), json, jsonl or parquet, in UTF-8.")
    args, others, unknown = parser.parse_args_into_dataclasses(list(argv), return_remaining_strings=True)
    if unknown:
        raise ValueError(_unknown(unknown[0], [name for action in parser._actions for name in action.option_strings]))
    datasets.disable_progress_bars()
    audit, written = audit_file(others.file, args)
    print(summary(audit, others.file))
    print("\nWritten:")
    for what, path in written.items():
        print(f"  {path}   {what}")


def _unknown(given: str, options: Sequence[str]) -> str:
    if not given.startswith("-"):
        return f"{given!r} belongs to no option, and one file is audited at a time."
    name = given.partition("=")[0]
    close = difflib.get_close_matches(name, options, n=1)
    return f"there is no option {name}." + (f" Did you mean {close[0]}?" if close else " `--help` names all.")
