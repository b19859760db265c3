"""Rows of a table, time and memory."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

import torch


def row(
    name: str, stock: float, value: float | None, target: float | None, unit: str = "s", **more: Any
) -> dict[str, Any]:
    """A row of a table; `value` is None if what it counts to was never reached."""
    return {
        "name": name,
        "ratio": None if value is None else value / stock,
        "target": target,
        "stock": stock,
        "value": value,
        "unit": unit,
        **more,
    }


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # the peak stays an upper bound
        pass


def memory(name: str) -> float:
    """A line of this process's status on Linux, in MB: what it holds ("VmRSS") or its peak ("VmHWM"). Elsewhere, always
    the peak."""
    path = Path("/proc/self/status")
    if not path.is_file():
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    line = next(line for line in path.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024 / 1e6
