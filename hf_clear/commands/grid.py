"""`hf-clear grid`: one training for each of a grid of methods, noise rates and seeds, and one table."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..files import write_atomically

_TABLE = "grid.csv"
_NUMBERS = ("test_accuracy", "peak_accuracy", "average_accuracy", "detection_auroc")


def run(argv: Sequence[str]) -> int:
    parser = ArgumentParser(
        prog="hf-clear grid",
        formatter_class=RawDescriptionHelpFormatter,
        description="Trains once for each combination of what is listed, in OUTPUT_DIR/METHOD_NOISE_RATE_SEED, and "
        "prints the means over seeds.\nA combination that is finished is not trained again. All other arguments are "
        "those of `hf-clear train`.",
        epilog="Example: hf-clear grid --output_dir grid --methods none clear --noise_type symmetric --noise_rates 0.2 "
        "0.4 --seeds 1 2 --train_file train.csv --test_file test.csv",
    )
    parser.add_argument("--output_dir", "--output-dir", required=True, help="Folder of all trainings.")
    parser.add_argument("--methods", nargs="+", default=["none", "clear"], help="Of --method. Default: none clear.")
    parser.add_argument("--noise_type", "--noise-type", default="none", help="Of --noise_type.")
    parser.add_argument("--noise_rates", "--noise-rates", nargs="+", type=float, default=[], help="Of --noise_rate.")
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[42], help="Of --seed, and of --noise_seed. Default: 42."
    )
    args, others = parser.parse_known_args(list(argv))
    for name in ("--method", "--noise_rate", "--seed", "--noise_seed"):
        if any(other == name or other.startswith(f"{name}=") for other in others):
            raise ValueError(f"{name} is what the grid goes over: list its values in {name.rstrip('d')}s and the like.")
    if (args.noise_type == "none") != (not args.noise_rates):
        raise ValueError("--noise_type and --noise_rates go together: name a type and one rate or more, or neither.")
    combinations = list(itertools.product(args.methods, args.noise_rates or [None], args.seeds))
    rows, failed = [], 0
    for number, (method, rate, seed) in enumerate(combinations, 1):
        folder = Path(args.output_dir) / f"{method}_{args.noise_type}_{0 if rate is None else rate:g}_{seed}"
        print(f"[{number}/{len(combinations)}] {folder}", file=sys.stderr)
        results = _results(folder)
        if results is None:
            noise = [] if rate is None else ["--noise_type", args.noise_type, "--noise_rate", str(rate)]
            noise += [] if rate is None else ["--noise_seed", str(seed)]
            command = [sys.executable, "-m", "hf_clear", "train", "--method", method, "--seed", str(seed), *noise]
            status = subprocess.run(
                [*command, "--output_dir", os.fspath(folder), *others], stdout=sys.stderr
            ).returncode
            results = _results(folder)
            if status or results is None:
                failed += 1
                print(f"{folder}: failed with exit status {status}.", file=sys.stderr)
                continue
        found = {name: value for name, value in results.items() if name in _NUMBERS}
        rows.append({"method": method, "noise_rate": rate or 0.0, "seed": seed, **found})
    if rows:
        table = pd.DataFrame(rows)
        write_atomically(Path(args.output_dir) / _TABLE, table.to_csv(index=False).encode())
        means = table.drop(columns="seed").groupby(["noise_rate", "method"]).mean().round(4)
        print(means.to_string())
        print(f"\nEach training: {Path(args.output_dir) / _TABLE}")
    return 1 if failed else 0


def _results(folder: Path) -> dict[str, float] | None:
    """Of a training that is finished."""
    try:
        results = json.loads((folder / "all_results.json").read_text(encoding="utf-8"))
        arguments = json.loads((folder / "run_arguments.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return results if "test_accuracy" in results and arguments.get("outputs") else None
