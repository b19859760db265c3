"""Runs one cell of the grid of accuracy.py, in a process of its own,

    python benchmarks/cells.py '{"data": "banking77-20", ...}' ../shared/data

which prints its result as JSON on standard output, and all else on standard error. With `-` in the cell's place, it
runs the cells of its standard input, one a line, and prints a line for each; the first that fails ends it.
"""

import dataclasses
import json
import os
import platform
import queue
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from _jobs import Job
from _loading import load
from _methods import METHODS, parse_method, resolve
from _settings import Cell
from sklearn.metrics import roc_auc_score

PACKAGES = ("hf_clear", "torch", "transformers", "peft", "numpy", "scikit-learn", "cleanlab")
HELD_OUT = 0.1  # of the noisy training set, for cells that are scored on validation


def run_cell(cell: Cell, folder: Path) -> dict[str, Any]:
    """Trains and tests; returns the line of results.jsonl. `folder` holds the data sets."""
    train, test, model, tokenizer = load(cell.data, folder, cell.model, cell.noise_type, cell.noise_rate, cell.seed)
    if cell.scored_on == "validation":  # with noisy labels: nobody has others to choose by
        parts = train.train_test_split(HELD_OUT, seed=cell.seed)
        train, test = parts["train"], parts["test"]
    lengths = np.array([len(tokens) for tokens in test["input_ids"]])
    test = test.select(np.argsort(-lengths, kind="stable"))  # tested after each epoch: the less padding, the faster
    name, settings = parse_method(cell.method)
    settings = resolve(settings, cell.peft_method or "lora")
    with tempfile.TemporaryDirectory() as output_dir:
        job = Job(cell, train, test, model, tokenizer, output_dir)
        measured = METHODS[name].run(job, settings)
    is_noisy, suspicion = job.is_noisy, measured.pop("suspicion", None)
    if suspicion is not None:
        tells = 0 < is_noisy.mean() < 1
        measured["detection_auroc"] = float(roc_auc_score(is_noisy, suspicion)) if tells else None
    return {
        **dataclasses.asdict(cell),
        **dict.fromkeys(("accuracy", "accuracies", "peak_accuracy", "average_accuracy"), None),
        **{"detection_auroc": None, "estimated_noise_rate": None, "settings": settings},
        **measured,
        "realized_noise_rate": float(is_noisy.mean()),
        "train_samples": len(train),
        "test_samples": len(test),
        **surroundings(),
    }


def surroundings() -> dict[str, Any]:
    """What a result depends on besides its cell, and the most memory that the process has taken, in MB."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        **versions,
        "python": platform.python_version(),
        "commit": commit(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "cpu": cpu_model(),
        "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def commit() -> str | None:
    """The commit of the repository that this file is in, with a `+` if tracked files differ; None outside of one."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + "+" * bool(changed.stdout.strip())


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _lines_of_parent(lines: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(1)  # the process that started this one is gone


def _serve(result: TextIO, given: Iterable[str], folder: Path) -> None:
    for text in given:
        result.write(json.dumps(run_cell(Cell(**json.loads(text)), folder)) + "\n")
        result.flush()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w") as result:
        os.dup2(2, 1)
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=_lines_of_parent, args=(lines,), daemon=True).start()
        is_served = sys.argv[1] == "-"
        _serve(result, iter(lines.get, None) if is_served else [sys.argv[1]], Path(sys.argv[2]))
