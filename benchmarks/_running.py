"""Runs cells, several at once, each in a process of its own, and keeps their results."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from _settings import Cell


def run(cells: list[Cell], args: argparse.Namespace) -> list[Cell]:
    """Runs the cells that have no line in results.jsonl yet, the first ones first; returns those that failed."""
    path = args.output / "results.jsonl"
    done = {Cell.of_line(line) for line in read_results(path)}
    todo = [cell for cell in cells if cell not in done]
    print(f"{len(cells)} cells, {len(cells) - len(todo)} of them done before, {args.jobs} at once", flush=True)
    failed = []
    with ThreadPoolExecutor(args.jobs) as pool:
        running = {pool.submit(run_in_process, cell, args): cell for cell in todo}
        try:
            for number, future in enumerate(as_completed(running), start=1):
                name = running[future]
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
    """[`cells.run_cell`] in a process of its own, which ends when this one does.

    Raises:
        RuntimeError: if it fails, with the end of its log.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(args.threads))
    environment = {
        **os.environ,
        **threads,
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0],
        "TOKENIZERS_PARALLELISM": "false",
    }
    log = args.output / "logs" / f"{str(cell).replace('/', '_')}.log"
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


def read_results(path: Path) -> list[dict[str, Any]]:
    """The lines of the file, one a cell (the last that it has); a torn one, of a run that was killed, is left out."""
    lines = {}
    for text in path.read_text().splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
            cell = Cell.of_line(line)
            lines[cell] = {**line, **dataclasses.asdict(cell)}
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
