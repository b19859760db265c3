"""From a file of labelled texts to a table of suspects, a summary, and a report. What `hf-clear audit` does."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers.trainer import TRAINER_STATE_NAME

from .._argument_checks import LARGEST_SEED
from .._names import ISSUES_SHEET, ISSUES_TABLE, REPORT
from .._version import __version__
from ..data import check_file, labelled_texts, read_files
from ..data.labels import TEXTS
from ..data.texts import readings_of, text_columns_among
from ..demo import demo_backbone
from ..files import check_folder, write_atomically
from ..hub.paths import check_model_name
from ..metrics import detection_metrics
from ..report import check_replaceable, save_report
from ..report.exports import check_overwriting, state_of_csv, state_of_parquet, to_csv, to_parquet
from ..report.issue_table import TAKEN
from .features import frozen_features
from .labels import LabelAudit, audit_labels
from .summary import PRECISION_TITLE, precision_table, warnings_of

logger = logging.getLogger(__name__)

FINDINGS = "audit.json"


@dataclass
class AuditArguments:
    """What to audit, and by what."""

    text_column_name: str | None = field(
        default=None, metadata={"help": "Column with the text; two, separated by a comma, for pairs. Default: 'text'."}
    )
    label_column_name: str = field(default="label", metadata={"help": "Column with the label, an integer or a string."})
    clean_label_column_name: str | None = field(
        default=None,
        metadata={"help": "Column with the true label, empty if it is unknown: to measure what is found."},
    )
    output_dir: str = field(
        default="label_audit",
        metadata={"help": f"Folder for {ISSUES_SHEET}, {ISSUES_TABLE}, {FINDINGS} and {REPORT}."},
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Model whose features are used, as it is. Default: all-MiniLM-L6-v2."}
    )
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the model."})
    token: str | None = field(default=None, metadata={"help": "Token for the Hub, if not that of `hf auth login`."})
    max_seq_length: int = field(default=128, metadata={"help": "Longer texts are truncated (in tokens)."})
    batch_size: int = field(default=64, metadata={"help": "Texts in a forward pass."})
    threshold: float = field(
        default=0.5, metadata={"help": "A label is an issue if the probability that it is right is below this."}
    )
    seed: int = field(default=0, metadata={"help": "Of folds and planted errors."})
    disable_tqdm: bool = field(default=False, metadata={"help": "Show no progress bar."})

    def __post_init__(self):
        for name in ("max_seq_length", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} has to be 1 or above; got {getattr(self, name)}.")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"--threshold has to be a probability in [0, 1]; got {self.threshold}.")
        if self.model_revision != "main" and self.model_name_or_path is None:
            raise ValueError(f"--model_revision {self.model_revision} has no model: name it, --model_name_or_path.")
        if self.model_name_or_path is not None:
            check_model_name(self.model_name_or_path, "--model_name_or_path")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise ValueError(f"--seed has to be from 0 to {LARGEST_SEED}; got {self.seed}.")
        if self.text_column_name is not None and not self.text_column_name.strip():
            raise ValueError("--text_column_name is empty: name the column with the text.")


def audit_file(file: str | os.PathLike, args: AuditArguments) -> tuple[LabelAudit, dict[str, str]]:
    """Audits the labels of a file and writes what it finds to `args.output_dir`.

    Args:
        file (`str`): `.csv`, `.json`, `.jsonl` or `.parquet`.
        args ([`AuditArguments`]): its columns, the model, and where to write.

    Returns:
        `tuple[LabelAudit, dict[str, str]]`: what was found, and the files that were written, by what they are.

    Raises:
        ValueError: before any work, if file, columns, texts or labels are not such.
        OSError: before any work, if the folder can't be written to, or something is in the way that is no output of an
            audit.
    """
    check_file(file)
    text_names = args.text_column_name or "text"
    folder = Path(args.output_dir)
    check_writable(folder)
    labelled = [name for name in (args.label_column_name, args.clean_label_column_name) if name is not None]
    wanted = [*labelled, *(name for reading in readings_of(text_names) for name in reading)]
    splits = read_files({"train": file}, wanted)
    columns = text_columns_among(text_names, splits["train"].column_names, "--text_column_name")
    taken = (*columns, *labelled)
    twice = next((name for name in taken if taken.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"The column {twice!r} is named twice: texts, labels, and true labels are different columns.")
    splits, label_names = labelled_texts(
        splits,
        columns,
        args.label_column_name,
        args.clean_label_column_name,
        os.fspath(file),
        {name: f"--{name[:-1]}_name" for name in ("text_columns",)}
        | {"label_column": "--label_column_name", "clean_label_column": "--clean_label_column_name"},
    )
    train = splits["train"]
    texts = train.select_columns([name for name in TEXTS if name in train.column_names])
    hub_args = {} if args.model_name_or_path is None else {"revision": args.model_revision, "token": args.token}
    features = frozen_features(
        texts,
        args.model_name_or_path or demo_backbone("--model_name_or_path"),
        args.max_seq_length,
        args.batch_size,
        not args.disable_tqdm,
        **hub_args,
    )
    # Under their own names, unless the table has a column of that name.
    own_names = {text: own for text, own in zip(TEXTS, columns) if own != text and own not in TAKEN}
    shown = texts.rename_columns(own_names)
    labels = np.array(train["label"])
    audit = audit_labels(
        labels, features=features, texts=shown, label_names=label_names, threshold=args.threshold, seed=args.seed
    )
    if "true_label" in train.column_names:
        audit = dataclasses.replace(audit, measured=_measured(audit, np.array(train["true_label"]), labels))
    findings = findings_of(audit) | {"file": os.fspath(file), "arguments": dataclasses.asdict(args)}
    findings["arguments"].pop("token")
    if audit.measured is not None:
        findings["measured"] = audit.measured
    return audit, _write(folder, audit, findings, label_names)


def check_writable(folder: Path) -> None:
    """Makes sure that an audit can write to the folder, and replaces nothing but files of an audit.

    Raises:
        FileExistsError: if a file is in the way that no audit has written, or that somebody has filled in.
        OSError: if the folder is a file, or can't be written to.
    """
    check_folder(folder, "--output_dir")
    if (folder / TRAINER_STATE_NAME).exists():
        raise FileExistsError(f"{folder} holds a training, whose table stays as it is. Name another --output_dir.")
    check_replaceable(folder / REPORT)
    check_overwriting(folder / ISSUES_SHEET, state_of_csv)
    check_overwriting(folder / ISSUES_TABLE, state_of_parquet)
    path = folder / FINDINGS
    if os.path.lexists(path) and not _is_findings(path):
        raise FileExistsError(f"{path} is there, and is not of an audit. It stays as it is: name another --output_dir.")


def findings_of(audit: LabelAudit) -> dict[str, Any]:
    """What was found, for JSON: null for what is not known."""
    rate, accuracy = audit.noise_rate, audit.accuracy
    return {
        "hf_clear_version": __version__,
        "num_labels": len(audit.table),
        "num_label_issues": len(audit.label_issues),
        "is_supported": audit.is_supported,
        "noise_rate": {name: _number(value) for name, value in dataclasses.asdict(rate).items()},
        "accuracy": {name: _number(value) for name, value in dataclasses.asdict(accuracy).items()},
        "planted_errors": {"num": len(audit.planted.planted), "found": _number(audit.planted.found)},
        "expected_precision": [
            {name: _number(value) for name, value in row.items()} for row in audit.expected_precision
        ],
        "warnings": warnings_of(audit),
    }


def _measured(audit: LabelAudit, true: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """How good the list is, by the truth."""
    index, score = (np.array(audit.table[name]) for name in ("sample_index", "label_score"))
    known = (true[index] >= 0) & np.isfinite(score)
    is_wrong = (true != labels)[index]
    found: dict[str, float] = {"true_labels": int(known.sum())}
    if known.any():
        found["noise_rate"] = float(is_wrong[known].mean())
    return found | detection_metrics(score[known], is_wrong[known])


def _write(folder: Path, audit: LabelAudit, findings: dict[str, Any], label_names: list[str]) -> dict[str, str]:
    written = {
        "all labels, worst first, for a spreadsheet": folder / ISSUES_SHEET,
        "the same": folder / ISSUES_TABLE,
    }
    written["what was found"] = folder / FINDINGS
    to_csv(audit.table, folder / ISSUES_SHEET)
    to_parquet(audit.table, folder / ISSUES_TABLE)
    write_atomically(folder / FINDINGS, (json.dumps(findings, indent=2, ensure_ascii=False) + "\n").encode())
    try:
        save_report(
            folder / REPORT,
            audit.table,
            warnings=[text[0].upper() + text[1:] for text in findings["warnings"]],
            label_names=label_names,
            sections=[(PRECISION_TITLE, precision_table(audit.expected_precision))],
            **of_audit(findings),
        )
        written["report"] = folder / REPORT
    except ImportError as error:
        logger.warning(f"No {REPORT}: {error}")
    return {name: os.fspath(path) for name, path in written.items()}


def of_audit(findings: Mapping[str, Any]) -> dict[str, Any]:
    """What a page says as the audit does ([`~hf_clear.report.save_report`]), from what `audit.json` holds: the range of
    the noise rate, if the audit states one, and the threshold."""
    rate, arguments = findings.get("noise_rate") or {}, findings.get("arguments") or {}
    states_one = findings.get("is_supported") and {"low", "high"} <= set(rate)
    return {
        "noise_rate": (rate["low"], rate["high"]) if states_one else None,
        "threshold": arguments.get("threshold"),
    }


def _is_findings(path: Path) -> bool:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return isinstance(found, dict) and "expected_precision" in found
    except (OSError, ValueError):
        return False


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
