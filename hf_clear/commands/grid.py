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

from .._names import NO_NOISE
from ..comparison import TrainingResult, read_training_result
from ..files import check_folder, write_atomically
from ._grid_cells import Combination, combinations_of
from ._grid_outputs import check_replaceable, write_outputs

_DONE = "grid.json"


def run(argv: Sequence[str]) -> int:
    parser = _parser()
    args, others = parser.parse_known_args(list(argv))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("A grid starts its trainings itself, one after the other: call it without a launcher.")
    output_dir = Path(args.output_dir)
    check_folder(output_dir, "--output_dir")
    combinations = combinations_of(args, others)
    check_folder(output_dir, "--output_dir")
    check_replaceable(output_dir)
    _noted(output_dir)
    trainings: list[TrainingResult] = []
    missing = []
    for number, one in enumerate(combinations, 1):
        print(f"[{number}/{len(combinations)}] {output_dir / one.folder}", file=sys.stderr)
        try:
            trainings.append(_trained(output_dir, one))
        except RuntimeError as error:
            missing.append(f"{one.method} in {one.setting!r}, seed {one.seed}: {error}")
            print(f"{output_dir / one.folder}: {error}", file=sys.stderr)
    if not trainings:
        print(f"There is nothing to compare. Tables in {output_dir}, if there are any, are of before.", file=sys.stderr)
        return 1
    name = args.baseline or args.methods[0]
    baseline = next(one.method for one in combinations if one.method.partition(" (")[0] == name)
    print(write_outputs(trainings, baseline, output_dir, missing))
    return 1 if missing else 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="hf-clear grid",
        allow_abbrev=False,
        formatter_class=RawDescriptionHelpFormatter,
        description="Trains once for each combination of what is listed, each in a folder of OUTPUT_DIR, and compares "
        "them: means and\nstandard deviations over seeds, a paired bootstrap over test samples, ranks over settings, "
        "curves over epochs.\nA combination that is finished is not trained again, unless its arguments or the files "
        "that it reads have changed.\nAll other arguments are those of `hf-clear train`: --test_each_epoch and "
        "--report_memorization give curves.",
        epilog="Example: hf-clear grid --output_dir grid --methods none clear clear:paper --noise_types none symmetric "
        "--noise_rates 0.2 0.4\n--seeds 1 2 3 --train_file train.csv --test_file test.csv --test_each_epoch",
    )
    parser.add_argument("--output_dir", "--output-dir", required=True, help="Folder of all trainings.")
    parser.add_argument(
        "--data_sets",
        "--data-sets",
        nargs="+",
        default=[],
        help="Folders with data, GLUE tasks, or data sets of the Hub. Default: what --train_file and the like name.",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["none", "clear"],
        help="none, clear, turn; clear:PRESET with one of --preset. Default: none clear.",
    )
    parser.add_argument("--peft_methods", "--peft-methods", nargs="+", default=[], help="Of --peft_method.")
    parser.add_argument(
        *("--noise_types", "--noise-types", "--noise_type", "--noise-type"),
        nargs="+",
        default=[NO_NOISE],
        help="Of --noise_type; each with all rates, none without.",
    )
    parser.add_argument("--noise_rates", "--noise-rates", nargs="+", type=float, default=[], help="Of --noise_rate.")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42], help="Of --seed and --noise_seed. Default: 42.")
    parser.add_argument("--baseline", help="What the others are compared with. Default: the first of --methods.")
    return parser


def _trained(output_dir: Path, one: Combination) -> TrainingResult:
    """What a training has left; trains, if it is not there.

    Raises:
        RuntimeError: if there is nothing to compare.
    """
    asked = {"arguments": one.arguments, "checksums": one.checksums}
    noted = _noted(output_dir).get(one.folder)
    if noted != {**asked, "is_finished": True}:
        # A training of this grid with other arguments would be resumed. It is there until one with these has ended.
        anew = noted is not None and (noted.get("anew", False) or any(noted.get(name) != asked[name] for name in asked))
        _note(output_dir, one.folder, {**asked, "is_finished": False, "anew": anew})  # until it is, nobody reads it
        command = [sys.executable, "-m", "hf_clear", "train", *one.arguments, "--output_dir"]
        command += [os.fspath(output_dir / one.folder), *(["--overwrite_output_dir"] if anew else [])]
        status = subprocess.run(command, stdout=sys.stderr).returncode
        if status != 0:
            raise RuntimeError(f"failed (exit status {status}).")
        _note(output_dir, one.folder, {**asked, "is_finished": True})
    try:
        result = read_training_result(output_dir / one.folder, one.setting, one.method, one.seed, one.details)
    except (ValueError, OSError) as error:
        raise RuntimeError(f"its results can't be read ({error}).") from error
    if result.score is None:
        raise RuntimeError("there are no results on labelled test data.")
    return result


def _noted(output_dir: Path) -> dict[str, dict[str, Any]]:
    """What was trained with which arguments, by folder.

    Raises:
        ValueError: if the file is none of a grid.
    """
    path = output_dir / _DONE
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(one, dict) and "arguments" in one for one in found.values()):
        raise ValueError(f"{path} is there, and is none of a grid. It stays as it is: name another folder.")
    return found


def _note(output_dir: Path, folder: str, noted: dict[str, Any]) -> None:
    write_atomically(output_dir / _DONE, (json.dumps({**_noted(output_dir), folder: noted}, indent=1) + "\n").encode())
