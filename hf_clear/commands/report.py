"""`hf-clear report OUTPUT_DIR`."""

from __future__ import annotations

import json
import os
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._names import ISSUES_TABLE, REPORT
from ..audit.files import FINDINGS, of_audit
from ..audit.summary import PRECISION_TITLE, precision_table
from ..files import check_folder
from ..report import save_run_report


def run(argv: Sequence[str]) -> None:
    parser = ArgumentParser(
        prog="hf-clear report",
        description="Writes one HTML page about a run of `hf-clear train`, or about an audit: what was found, "
        "pictures, and a table of suspects in which suggestions are accepted. It needs no network to be read.",
    )
    parser.add_argument("output_dir", help="The folder of the run, or of the audit.")
    parser.add_argument("--output", help=f"The page. Default: {REPORT} in the folder.")
    args = parser.parse_args(list(argv))
    folder = Path(args.output_dir)
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder.")
    if not (folder / ISSUES_TABLE).is_file():
        raise ValueError(
            f"{folder} has no {ISSUES_TABLE}, the table of all labels. `hf-clear train` and `hf-clear audit` write it: "
            "name the --output_dir of one of them."
        )
    check_folder(Path(args.output).parent if args.output else folder, "--output")
    findings = _read(folder / FINDINGS)
    cuts = findings.get("expected_precision") or []
    sections = [(PRECISION_TITLE, precision_table(cuts))] if cuts else []
    path = save_run_report(
        folder,
        args.output or folder / REPORT,
        warnings=[text[0].upper() + text[1:] for text in findings.get("warnings") or []],
        sections=sections,
        **of_audit(findings),
    )
    print(os.fspath(path))


def _read(path: Path) -> dict[str, Any]:
    """What a JSON file of a run holds; nothing if there is none.

    Raises:
        ValueError: if it is damaged.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} can't be read as JSON ({error}).") from error
    return found if isinstance(found, dict) else {}
