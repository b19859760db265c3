"""`hf-clear audit FILE`."""

from __future__ import annotations

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
    args, others = parser.parse_args_into_dataclasses(list(argv))
    datasets.disable_progress_bars()
    audit, written = audit_file(others.file, args)
    print(summary(audit, others.file))
    print("\nWritten:")
    for what, path in written.items():
        print(f"  {path}   {what}")
