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
from typing import Any

import pandas as pd

from ..files import write_atomically

_TABLE, _DONE = "grid.csv", "grid.json"
_COLUMNS = "method,noise_rate,seed"
_NUMBERS = ("test_accuracy", "test_peak_accuracy", "test_average_accuracy", "detection_auroc")
_TAKEN = ("__method", "__noise_rate", "__seed", "__noise_seed")


def run(argv: Sequence[str]) -> int:
    parser = ArgumentParser(
        prog="hf-clear grid",
        allow_abbrev=False,
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
    parser.add_argument("--seeds", nargs="+", type=int, default=[42], help="Of --seed and --noise_seed. Default: 42.")
    args, others = parser.parse_known_args(list(argv))
    taken = [other for other in others if other.split("=")[0].replace("-", "_") in _TAKEN]
    if taken:
        raise ValueError(
            f"{taken[0]} is what the grid goes over: list its values in --methods, --noise_rates, --seeds."
        )
    if (args.noise_type == "none") != (not args.noise_rates):
        raise ValueError("--noise_type and --noise_rates go together: name a type and one rate or more, or neither.")
    table_path = Path(args.output_dir) / _TABLE
    if table_path.is_file() and not table_path.read_text(encoding="utf-8", errors="replace").startswith(_COLUMNS):
        raise ValueError(f"{table_path} is there, and is no table of a grid. It stays as it is: name another folder.")
    combinations = list(itertools.product(args.methods, args.noise_rates or [None], args.seeds))
    output_dir, rows, failed = Path(args.output_dir), [], 0
    for number, (method, rate, seed) in enumerate(combinations, 1):
        name = f"{method}_{args.noise_type}_{0 if rate is None else rate:g}_{seed}"
        noise = [] if rate is None else ["--noise_type", args.noise_type, "--noise_rate", str(rate)]
        noise += [] if rate is None else ["--noise_seed", str(seed)]
        given = ["--method", method, "--seed", str(seed), *noise, *others]
        print(f"[{number}/{len(combinations)}] {output_dir / name}", file=sys.stderr)
        results = _results(output_dir, name, given)
        if results is None:
            command = [sys.executable, "-m", "hf_clear", "train", *given, "--output_dir", os.fspath(output_dir / name)]
            status = subprocess.run(command, stdout=sys.stderr).returncode
            if status == 0:
                _note(output_dir, name, given)
            results = _results(output_dir, name, given)
            if results is None:
                failed += 1
                print(f"{output_dir / name}: failed (exit status {status}, or no test results).", file=sys.stderr)
                continue
        found = {column: results[column] for column in _NUMBERS if column in results}
        rows.append({"method": method, "noise_rate": rate or 0.0, "seed": seed, **found})
    if rows:
        table = pd.DataFrame(rows)
        write_atomically(output_dir / _TABLE, table.to_csv(index=False).encode())
        means = table.drop(columns="seed").groupby(["noise_rate", "method"]).mean().round(4)
        print(means.to_string())
        print(f"\nEach training: {output_dir / _TABLE}")
    return 1 if failed else 0


def _results(output_dir: Path, name: str, given: list[str]) -> dict[str, float] | None:
    """Of a training that has come to its end with these arguments."""
    results = _read(output_dir / name / "all_results.json")
    return results if _read(output_dir / _DONE).get(name) == given and "test_accuracy" in results else None


def _note(output_dir: Path, name: str, given: list[str]) -> None:
    """That a training has come to its end."""
    done = {**_read(output_dir / _DONE), name: given}
    write_atomically(output_dir / _DONE, (json.dumps(done, indent=1) + "\n").encode())


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
