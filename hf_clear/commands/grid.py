"""`hf-clear grid`: trains a grid of data sets, methods, noise and seeds, and compares what came out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..comparison import TrainingResult, read_training_result
from ..files import write_atomically
from ._grid_cells import NO_NOISE, Combination, combinations_of
from ._grid_outputs import check_replaceable, write_outputs

_DONE = "grid.json"


def run(argv: Sequence[str]) -> int:
    parser = _parser()
    args, others = parser.parse_known_args(list(argv))
    combinations = combinations_of(args, others)
    output_dir = Path(args.output_dir)
    check_replaceable(output_dir)
    trainings: list[TrainingResult] = []
    failed = 0
    for number, one in enumerate(combinations, 1):
        print(f"[{number}/{len(combinations)}] {output_dir / one.folder}", file=sys.stderr)
        if not _is_done(output_dir, one):
            command = [sys.executable, "-m", "hf_clear", "train", *one.arguments]
            status = subprocess.run([*command, "--output_dir", os.fspath(output_dir / one.folder)], stdout=sys.stderr)
            if status.returncode == 0:
                _note(output_dir, one)
            if not _is_done(output_dir, one):
                failed += 1
                told = f"failed (exit status {status.returncode}, or no test results)."
                print(f"{output_dir / one.folder}: {told}", file=sys.stderr)
                continue
        folder = output_dir / one.folder
        trainings.append(read_training_result(folder, one.setting, one.method, one.seed, one.details))
    if trainings:
        print(write_outputs(trainings, args.baseline or args.methods[0], output_dir))
    return 1 if failed else 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="hf-clear grid",
        allow_abbrev=False,
        formatter_class=RawDescriptionHelpFormatter,
        description="Trains once for each combination of what is listed, each in a folder of OUTPUT_DIR, and compares "
        "them: means and\nstandard deviations over seeds, a paired bootstrap over test samples, ranks over settings, "
        "curves over epochs.\nA combination that is finished is not trained again. All other arguments are those of "
        "`hf-clear train`:\n--test_each_epoch and --report_memorization give curves.",
        epilog="Example: hf-clear grid --output_dir grid --methods none clear clear:paper --noise_type none symmetric "
        "--noise_rates 0.2 0.4\n--seeds 1 2 3 --train_file train.csv --test_file test.csv --test_each_epoch",
    )
    parser.add_argument("--output_dir", "--output-dir", required=True, help="Folder of all trainings.")
    parser.add_argument(
        "--data_sets",
        "--data-sets",
        nargs="+",
        default=[],
        help="GLUE tasks, folders with data, or data sets of the Hub. Default: what --train_file and the like name.",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["none", "clear"],
        help="none, clear, turn; clear:PRESET with one of --preset. Default: none clear.",
    )
    parser.add_argument("--peft_methods", "--peft-methods", nargs="+", default=[], help="Of --peft_method.")
    parser.add_argument(
        *("--noise_type", "--noise-type", "--noise_types", "--noise-types"),
        nargs="+",
        default=[NO_NOISE],
        help="Of --noise_type; each with all rates, none without.",
    )
    parser.add_argument("--noise_rates", "--noise-rates", nargs="+", type=float, default=[], help="Of --noise_rate.")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42], help="Of --seed and --noise_seed. Default: 42.")
    parser.add_argument("--baseline", help="What the others are compared with. Default: the first of --methods.")
    return parser


def _is_done(output_dir: Path, one: Combination) -> bool:
    """Whether a training with these arguments has come to its end, and was tested."""
    if _read(output_dir / _DONE).get(one.folder) != one.arguments:
        return False
    results = TrainingResult(one.setting, one.method, one.seed, _read(output_dir / one.folder / "all_results.json"))
    return results.score is not None


def _note(output_dir: Path, one: Combination) -> None:
    """That a training has come to its end."""
    done = {**_read(output_dir / _DONE), one.folder: one.arguments}
    write_atomically(output_dir / _DONE, (json.dumps(done, indent=1) + "\n").encode())


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
