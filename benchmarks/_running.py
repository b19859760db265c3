"""Runs cells, several at once, each in a process of its own or in one of a few that stay, and keeps their results."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TextIO

from _settings import Cell

_CELL = "==== "  # before a cell's name, in the log of a process that runs several


def run(cells: list[Cell], args: argparse.Namespace) -> list[Cell]:
    """Runs the cells that have no line in results.jsonl yet, the first ones first; returns those that failed, or were
    not begun in time."""
    path = args.output / "results.jsonl"
    done = {Cell.of_line(line) for line in read_results(path)}
    todo = [cell for cell in cells if cell not in done]
    print(f"{len(cells)} cells, {len(cells) - len(todo)} of them done before, {args.jobs} at once", flush=True)
    failed, late, writing = [], [], threading.Lock()
    end = math.inf if args.minutes is None else time.monotonic() + 60 * args.minutes
    with Workers(args) as workers, ThreadPoolExecutor(args.jobs) as pool:

        def run_one(cell: Cell) -> dict[str, Any] | None:
            if time.monotonic() >= end:
                return None
            line = workers.run(cell) if args.reuse_processes else run_in_process(cell, args)
            with writing:  # here: what ends after an interrupt is kept, too
                append_line(path, line)
            return line

        running = {pool.submit(run_one, cell): cell for cell in todo}
        try:
            for number, future in enumerate(as_completed(running), start=1):
                name = running[future]
                try:
                    line = future.result()
                except RuntimeError as error:
                    failed.append(running[future])
                    print(f"[{number}/{len(todo)}] {name} FAILED: {error}", file=sys.stderr, flush=True)
                    continue
                if line is None:
                    late.append(running[future])
                    continue
                print(f"[{number}/{len(todo)}] {name}: {line['accuracy']:.3f}", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if late:
        print(f"{len(late)} cells were not begun within {args.minutes:g} minutes, {late[0]} first.", file=sys.stderr)
    return failed + late


def run_in_process(cell: Cell, args: argparse.Namespace) -> dict[str, Any]:
    """[`cells.run_cell`] in a process of its own, which ends when this one does.

    Raises:
        RuntimeError: if it fails, with the end of its log.
    """
    log = log_of(str(cell), args)
    with open(log, "w") as file, started(json.dumps(dataclasses.asdict(cell)), args, file) as process:
        result = process.stdout.read()
        process.wait()  # before its standard input closes
    if process.returncode != 0:
        raise RuntimeError(f"exit status {process.returncode}, see {log}\n{end_of(log)}")
    return json.loads(result)


class Workers(contextlib.AbstractContextManager):
    """Processes that run one cell after another, one for each of the threads that ask: nothing is imported again. They
    end with the context, at the latest with this process."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self._own = threading.local()
        self._started: list[subprocess.Popen[str]] = []

    def __exit__(self, *error: Any) -> None:
        for process in self._started:
            with process, contextlib.suppress(BrokenPipeError):
                process.stdin.close()

    def run(self, cell: Cell) -> dict[str, Any]:
        """[`cells.run_cell`] in the process of this thread.

        Raises:
            RuntimeError: if it fails, with the end of the process's log. Another cell gets a new process.
        """
        if getattr(self._own, "process", None) is None:
            self._own.log = log_of(f"worker {threading.get_native_id()}", self.args)
            with open(self._own.log, "a") as file:
                self._own.process = started("-", self.args, file)
            self._started.append(self._own.process)
        process = self._own.process
        with open(self._own.log, "a") as file:
            file.write(f"{_CELL}{cell}\n")
        result = ""
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(dataclasses.asdict(cell)) + "\n")
            process.stdin.flush()
            result = process.stdout.readline()
        if not result.endswith("\n"):
            self._own.process = None
            raise RuntimeError(f"exit status {process.wait()}, see {self._own.log}\n{end_of(self._own.log)}")
        return json.loads(result)


def started(cell: str, args: argparse.Namespace, log: TextIO) -> subprocess.Popen[str]:
    """The process of [`cells`](cells.py), with pipes."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(args.threads))
    environment = {
        **os.environ,
        **threads,
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0],
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [sys.executable, str(Path(__file__).with_name("cells.py")), cell, str(args.data)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
    return subprocess.Popen(command, env=environment, text=True, **pipes)


def log_of(name: str, args: argparse.Namespace) -> Path:
    log = args.output / "logs" / f"{name.replace('/', '_')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    return log


def end_of(log: Path) -> str:
    """Of the last cell that it is about."""
    return "\n".join(log.read_text(errors="replace").rpartition(_CELL)[2].splitlines()[-5:])


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
