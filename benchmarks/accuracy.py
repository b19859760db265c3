#!/usr/bin/env python
"""Accuracy under label noise: data set x noise x PEFT method x method x seed, several cells at once, resumable.

    python benchmarks/accuracy.py --data ../shared/data --data_sets banking77-20 --noise_rates 0.6 \\
        --methods plain clear clear:clear_warmup=linear_probe oracle logistic_regression cleanlab probe --jobs 2

Methods: `plain` (PEFT alone), `clear` (ClearTrainer; `clear:key=value,key=value` with settings of CleaR), `oracle`
(plain, with as many steps on the samples whose label is right), `turn`; and cheap peers on frozen features, without
PEFT: `logistic_regression` on mean-pooled last hidden states, `cleanlab` (that after its pruning), `probe` (TURN's).

Each cell is a line of OUTPUT/results.jsonl; what has its line is skipped. The seed is that of the noise, too. Needs
`pip install -e ".[benchmarks]"`.
"""

import argparse
import dataclasses
import importlib.util
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from _loading import DATA_SETS, DEMO, model_path
from cells import PEERS, Cell, parse_method

from hf_clear.files import write_atomically
from hf_clear.noise import NOISE_TYPES
from hf_clear.tuners import PEFT_METHODS

COORDINATES = [field.name for field in dataclasses.fields(Cell)]
TABLE = ("model", "data", "noise_type", "noise_rate", "peft_method", "epochs")  # what the rows of a table share
BASELINES = ("plain", *PEERS)
QUICK = {
    **{"data_sets": ["banking77-20"], "noise_rates": [0.6], "seeds": [42], "epochs": 2, "peft_methods": ["lora"]},
    "methods": ["plain", "clear:clear_warmup=linear_probe", "oracle", *PEERS],
    "jobs": 2,
    "output": Path("outputs/accuracy_quick"),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="Folder with the data sets, one folder each.")
    parser.add_argument("--output", type=Path, default=Path("outputs/accuracy"))
    parser.add_argument("--data_sets", nargs="+", default=list(DATA_SETS), choices=DATA_SETS)
    parser.add_argument("--noise_types", nargs="+", default=["symmetric"], choices=NOISE_TYPES)
    parser.add_argument("--noise_rates", nargs="+", type=float, default=[0.2, 0.4, 0.6])
    parser.add_argument("--peft_methods", nargs="+", default=["lora"], choices=PEFT_METHODS)
    parser.add_argument("--methods", nargs="+", default=["plain", "clear", "oracle", *PEERS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--model_name_or_path", default=DEMO, help="Default: all-MiniLM-L6-v2, from the extra `demo`.")
    parser.add_argument("--jobs", type=int, default=1, help="Cells at once. They share the cores, or one GPU.")
    parser.add_argument("--table", action="store_true", help="Run nothing; print what is in results.jsonl.")
    parser.add_argument("--quick", action="store_true", help="A small grid, in minutes; other arguments go before it.")
    parser.add_argument("--json", type=Path, help="Write the rows of the table here, too.")
    if parser.parse_known_args(argv)[0].quick:
        parser.set_defaults(**QUICK)
    args = parser.parse_args(argv)
    failed = []
    if not args.table:
        try:
            cells = grid(args)
        except (ValueError, ImportError) as error:
            parser.error(str(error))
        failed = run(cells, args)
    rows = summarize(read_results(args.output / "results.jsonl"))
    if not rows:
        print(f"There are no results in {args.output}.", file=sys.stderr)
    print(markdown(rows))
    if args.json is not None:
        write_atomically(args.json, (json.dumps(rows, indent=2) + "\n").encode())
    return 1 if failed or not rows else 0


# ---- The grid ----


def grid(args: argparse.Namespace) -> list[Cell]:
    """The cells that the arguments ask for, seed by seed.

    Raises:
        ValueError: where an argument is wrong or a file is missing.
        ImportError: where a package is missing.
    """
    if args.data is None:
        raise ValueError("--data: name the folder with the data sets.")
    for name in args.data_sets:
        for path in (args.data / DATA_SETS[name][0] / file for file in ("train.csv", "test.csv")):
            if not path.is_file():
                raise ValueError(f"--data_sets {name}: there is no {path}.")
    for rate in args.noise_rates:
        if not 0 <= rate <= 1:
            raise ValueError(f"--noise_rates: a rate is a probability, in [0, 1]; got {rate}.")
    for name in ("epochs", "jobs"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} has to be 1 or above; got {getattr(args, name)}.")
    if min(args.seeds) < 0:
        raise ValueError(f"--seeds: a seed is 0 or above; got {min(args.seeds)}.")
    for method in args.methods:
        parse_method(method)
    if "cleanlab" in args.methods and importlib.util.find_spec("cleanlab") is None:
        raise ImportError(
            '--methods cleanlab: cleanlab is not installed. pip install -e ".[benchmarks]", or leave the method out.'
        )
    model_path(args.model_name_or_path)  # the extra `demo` may be missing
    cells = []
    product = itertools.product(args.data_sets, args.noise_types, args.noise_rates, args.peft_methods, args.methods)
    for seed, (data, noise_type, rate, peft_method, method) in itertools.product(args.seeds, list(product)):
        own = (peft_method, args.epochs) if method not in PEERS else (None, None)
        cells.append(Cell(args.model_name_or_path, data, noise_type, rate, seed, *own, method))
    return list(dict.fromkeys(cells))


def run(cells: list[Cell], args: argparse.Namespace) -> list[Cell]:
    """Runs the cells that have no line in results.jsonl yet; returns those that failed."""
    path = args.output / "results.jsonl"
    done = {cell_of(line) for line in read_results(path)}
    todo = [cell for cell in cells if cell not in done]
    print(f"{len(cells)} cells, {len(cells) - len(todo)} of them done before, {args.jobs} at once", flush=True)
    failed = []
    with ThreadPoolExecutor(args.jobs) as pool:
        running = {pool.submit(run_in_process, cell, args): cell for cell in todo}
        try:
            for number, future in enumerate(as_completed(running), start=1):
                name = describe(running[future])
                try:
                    line = future.result()
                except RuntimeError as error:
                    failed.append(running[future])
                    print(f"[{number}/{len(todo)}] {name} FAILED: {error}", file=sys.stderr, flush=True)
                else:
                    append_line(path, line)
                    print(f"[{number}/{len(todo)}] {name}: {line['accuracy']:.3f}", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failed


def run_in_process(cell: Cell, args: argparse.Namespace) -> dict[str, Any]:
    """[`cells.run_cell`] in a process of its own, which ends where this one does.

    Raises:
        RuntimeError: where it fails, with the end of its log.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    environment = {
        "OMP_NUM_THREADS": str(max(1, cores // args.jobs)),
        **os.environ,
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0],
        "TOKENIZERS_PARALLELISM": "false",
    }
    log = args.output / "logs" / f"{describe(cell).replace('/', '_')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(Path(__file__).with_name("cells.py")), json.dumps(dataclasses.asdict(cell))]
    with open(log, "w") as file:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": file}
        process = subprocess.Popen([*command, str(args.data)], env=environment, text=True, **pipes)
        with process:
            result = process.stdout.read()
            process.wait()  # before its standard input closes
    if process.returncode != 0:
        end = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
        raise RuntimeError(f"exit status {process.returncode}, see {log}\n{end}")
    return json.loads(result)


def describe(cell: Cell) -> str:
    return " ".join(str(value) for value in dataclasses.asdict(cell).values() if value is not None)


def cell_of(line: dict[str, Any]) -> Cell:
    return Cell(**{name: line[name] for name in COORDINATES})


def read_results(path: Path) -> list[dict[str, Any]]:
    """The lines of the file, one a cell (the last that it has); a torn one, of a run that was killed, is left out."""
    lines = {}
    for text in path.read_text().splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
            lines[cell_of(line)] = line
        except (ValueError, TypeError, KeyError):
            continue
    return list(lines.values())


def append_line(path: Path, line: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        torn = file.tell() > 0 and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
        file.write(b"\n" * torn + json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


# ---- The table ----


def summarize(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for every method of a table, the best first. There is a table for each data set, noise and PEFT method;
    the peers are in all those of their data set and noise."""
    tables: dict[tuple, dict[str, dict[int, float]]] = {}  # accuracies by method and seed
    for line in sorted(lines, key=lambda line: line["method"] in PEERS):
        own = tuple(line[name] for name in TABLE)
        same = [key for key in tables if key[:-2] == own[:-2]] if line["method"] in PEERS else []
        for key in same or [own]:
            tables.setdefault(key, {}).setdefault(line["method"], {})[line["seed"]] = line["accuracy"]
    rows = []
    for key in sorted(tables, key=json.dumps):
        of_table = [compare(method, tables[key]) for method in tables[key]]
        for row in sorted(of_table, key=lambda row: -row["accuracy"]):
            name = " ".join(str(part) for part in (*key, row["method"]) if part is not None)
            rows.append({"name": name, "target": None, **dict(zip(TABLE, key)), **row})
    return rows


def compare(method: str, methods: dict[str, dict[int, float]]) -> dict[str, Any]:
    """The numbers of a row, from accuracies by method and seed. A comparison is over the seeds that all of its methods
    have, their number is beside it; it is None where there is no such seed, or no gap between plain and oracle."""
    accuracies = np.array(list(methods[method].values()))
    row = {"method": method, "seeds": len(accuracies), "accuracy": float(accuracies.mean())}
    row["std"] = float(accuracies.std(ddof=1)) if len(accuracies) > 1 else None
    for other in BASELINES:
        own, others = paired(methods, method, other)
        row[f"over_{other}"] = float((own - others).mean()) if len(own) and other != method else None
        row[f"over_{other}_seeds"] = len(own)
    own, plain = paired(methods, method, "plain")
    row["ratio"] = float(own.mean() / plain.mean()) if len(own) else None
    own, plain, oracle = paired(methods, method, "plain", "oracle")
    gap = (oracle - plain).sum()
    row["gap_closed"] = float((own - plain).sum() / gap) if gap > 0 else None
    row["gap_closed_seeds"] = len(own)
    return row


def paired(methods: dict[str, dict[int, float]], *names: str) -> np.ndarray:
    """Accuracies of some methods for the seeds that all of them have: `[number of methods, number of seeds]`."""
    seeds = set.intersection(*(set(methods.get(name, {})) for name in names))
    return np.array([[methods[name][seed] for seed in seeds] for name in names])


def markdown(rows: list[dict[str, Any]]) -> str:
    columns = {**{f"over_{other}": "+.3f" for other in BASELINES}, "gap_closed": ".0%"}
    names = ["method", "seeds", "test accuracy", *(name.replace("_", " ") for name in columns)]
    lines = []
    for (model, data, noise_type, rate, peft_method, epochs), of_table in itertools.groupby(
        rows, key=lambda row: [row[name] for name in TABLE]
    ):
        training = "" if peft_method is None else f", {peft_method}, {epochs} epochs"
        lines += ["", f"{data}, {noise_type} noise {rate:.0%}, {model}{training}", ""]
        lines += [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
        for row in of_table:
            spread = "(1 seed)" if row["std"] is None else f"± {row['std']:.3f}"
            cells = [row["method"], str(row["seeds"]), f"{row['accuracy']:.3f} {spread}"]
            for name, digits in columns.items():
                cells.append("-" if row[name] is None else format(row[name], digits))
                if row[name] is not None and row[f"{name}_seeds"] < row["seeds"]:
                    cells[-1] += f" ({row[f'{name}_seeds']} of {row['seeds']} seeds)"
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
