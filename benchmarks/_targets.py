"""What a default has to show over all tables, and by how much it does or does not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from _ablations import ABLATIONS
from _loading import NO_NOISE
from _methods import NEED_CLEANLAB, ORACLES
from _peers import ESTIMATORS as KNOWS_RATE
from _summary import TABLE, Table, compare, paired, tables_of


@dataclass
class Target:
    """
    Attributes:
        name (`str`): what is asked for.
        needed (`float`): the number to reach.
        measured (`float`, *optional*): the number that is reached; None if there was nothing to measure.
        missed_in (`list[str]`): the cells that are below, with their numbers.
        of (`int`): over how many cells.
        is_most (`bool`): whether `needed` is the most that it may be, instead of the least.
    """

    name: str
    needed: float
    measured: float | None
    of: int
    missed_in: list[str] = field(default_factory=list)
    is_most: bool = False

    @property
    def margin(self) -> float | None:
        """How far the measured number is on the right side; negative if the target is missed."""
        if self.measured is None:
            return None
        return (self.needed - self.measured) if self.is_most else (self.measured - self.needed)

    def as_row(self) -> dict[str, Any]:
        """The target with the keys that all rows of benchmarks have; met if `ratio` is not above `target`."""
        met = None if self.margin is None else self.margin >= -1e-9
        row = {"name": f"target: {self.name}", "ratio": None if met is None else float(not met), "target": 0.0}
        return {**row, "needed": self.needed, "measured": self.measured, "of": self.of, "missed_in": self.missed_in}


def evaluate(lines: Iterable[dict[str, Any]], method: str) -> list[Target]:
    """The targets for one method, over the tables that it is in: one a cell, of means over seeds."""
    tables = {
        key: table for key, table in tables_of(lines).items() if method in table and key_of(key, "scored_on") == "test"
    }
    return [
        _gap(tables, method),
        _best(tables, method),
        _worst(
            "above plain, or not below it by more than a standard deviation",
            {key: _deviations(table, method) for key, table in tables.items()},
            -1.0,
        ),
        _worst("accuracy after the last epoch minus that of the best", _drops(tables, method), -0.01),
        _worst("accuracy on all of banking77, symmetric 60 %", _accuracies(tables, method), 0.9),
        _worst("AUROC minus cleanlab's", _over_cleanlab(tables, method), 0.0),
        _worst("AUROC on banking77 up to 60 %", _aurocs(tables, method), 0.97),
        _worst("without noise, accuracy minus plain's", _without_noise(tables, method), -0.003),
        _in_that_of_plain(tables, method, "time", "cpu_seconds", 1.05),
        _in_that_of_plain(tables, method, "memory of the process at its peak", "peak_memory", 1.1),
    ]


def report(targets: Iterable[Target], method: str) -> str:
    lines = [f"Targets of `{method}`; shares and medians aside, a number is that of the worst cell", ""]
    lines += ["| target | needed | measured | cells | |", "|---|---|---|---|---|"]
    details = []
    for target in targets:
        sign = "at most" if target.is_most else "at least"
        if target.margin is None:
            state, measured = "not measured", "-"
        else:
            met = target.margin >= -1e-9
            state, measured = "met" if met else f"missed by {-target.margin:.3f}", f"{target.measured:.3f}"
        lines.append(f"| {target.name} | {sign} {target.needed:g} | {measured} | {target.of} | {state} |")
        details += [f"- {target.name}: {cell}" for cell in target.missed_in]
    return "\n".join([*lines, *(["", "Where:", ""] * bool(details)), *details])


# ---- The targets ----


def key_of(key: tuple, name: str) -> Any:
    return key[TABLE.index(name)]


def cell_name(key: tuple) -> str:
    """Without what goes without saying."""
    names = ("data", "noise_type", "noise_rate", "peft_method")
    return " ".join(str(key_of(key, name)) for name in names if key_of(key, name) is not None)


def competitors(table: Table, method: str) -> list[str]:
    """All others but oracles, what knows the true noise rate, ablations, and variants with other settings than their
    preset's."""
    others = {method, *ORACLES, *KNOWS_RATE, *ABLATIONS}
    return [other for other in table if other not in others and ":" not in other]


def _gap(tables: dict[tuple, Table], method: str) -> Target:
    closed = {key: compare(method, table)["gap_closed"] for key, table in tables.items()}
    closed = {key: share for key, share in closed.items() if share is not None}
    mean = float(np.mean(list(closed.values()))) if closed else None
    low = [f"{cell_name(key)}: {share:.2f}" for key, share in sorted(closed.items(), key=lambda item: item[1])]
    shown = [text for text, share in zip(low, sorted(closed.values())) if share < 0.8]
    return Target("mean share of the gap from plain to oracle that is closed", 0.8, mean, len(closed), shown)


def _best(tables: dict[tuple, Table], method: str) -> Target:
    best, lost, counted = 0, [], 0
    for key, table in tables.items():
        leads = {}
        for other in competitors(table, method):
            own, others = paired(table, method, other)
            if len(own):
                leads[other] = float((own - others).mean())
        if not leads:
            continue
        counted += 1
        strongest = min(leads, key=leads.get)
        if leads[strongest] >= 0:
            best += 1
        else:
            lost.append(f"{cell_name(key)}: {strongest} is {-leads[strongest]:.3f} ahead")
    share = best / counted if counted else None
    return Target(f"best of all, in {best} of {counted} cells", 0.75, share, counted, lost)


def _worst(name: str, numbers: dict[tuple, float | None], needed: float) -> Target:
    known = {key: number for key, number in numbers.items() if number is not None}
    missed = [f"{cell_name(key)}: {number:.3f}" for key, number in known.items() if number < needed - 1e-9]
    return Target(name, needed, min(known.values(), default=None), len(known), missed)


def _deviations(table: Table, method: str) -> float | None:
    """By how many standard deviations it is above plain. With one seed, that of the difference of two proportions on
    the test set, which says less: it knows nothing of what another seed changes."""
    own, plain = paired(table, method, "plain")
    if len(own) == 0:
        return None
    if len(own) > 1:
        deviation = float(np.sqrt((own.var(ddof=1) + plain.var(ddof=1)) / 2))
    else:
        tests = next(iter(table[method].values())).get("test_samples") or 1000
        deviation = float(np.sqrt((own[0] * (1 - own[0]) + plain[0] * (1 - plain[0])) / tests))
    return float((own - plain).mean() / max(deviation, 1e-6))


def _mean(table: Table, method: str, name: str) -> float | None:
    values = [line[name] for line in table.get(method, {}).values() if line.get(name) is not None]
    return float(np.mean(values)) if values else None


def _drops(tables: dict[tuple, Table], method: str) -> dict[tuple, float | None]:
    drops = {}
    for key, table in tables.items():
        lines = [line for line in table[method].values() if line.get("peak_accuracy") is not None]
        drops[key] = float(np.mean([line["accuracy"] - line["peak_accuracy"] for line in lines])) if lines else None
    return drops


def _accuracies(tables: dict[tuple, Table], method: str) -> dict[tuple, float | None]:
    wanted = ("banking77", "symmetric", 0.6, "lora")
    names = ("data", "noise_type", "noise_rate", "peft_method")
    return {
        key: _mean(table, method, "accuracy")
        for key, table in tables.items()
        if tuple(key_of(key, name) for name in names) == wanted
    }


def _over_cleanlab(tables: dict[tuple, Table], method: str) -> dict[tuple, float | None]:
    over = {}
    for key, table in tables.items():
        pairs = [paired(table, method, other, name="detection_auroc") for other in NEED_CLEANLAB]
        over[key] = next((float((own - others).mean()) for own, others in pairs if len(own)), None)
    return over


def _aurocs(tables: dict[tuple, Table], method: str) -> dict[tuple, float | None]:
    return {
        key: _mean(table, method, "detection_auroc")
        for key, table in tables.items()
        if key_of(key, "data").startswith("banking77") and 0 < key_of(key, "noise_rate") <= 0.6
    }


def _without_noise(tables: dict[tuple, Table], method: str) -> dict[tuple, float | None]:
    return {
        key: compare(method, table)["over_plain"]
        for key, table in tables.items()
        if key_of(key, "noise_type") == NO_NOISE
    }


def _in_that_of_plain(tables: dict[tuple, Table], method: str, what: str, name: str, needed: float) -> Target:
    """The median over cells and seeds that were run on the same machine class, by the same commit: of others, nobody
    knows how many ran at once. Time is that of the processor on a CPU, which other jobs hardly change; on a GPU, that
    would leave out what it does."""
    ratios = []
    for table in tables.values():
        for seed in set(table.get(method, {})) & set(table.get("plain", {})):
            own, plain = table[method][seed], table["plain"][seed]
            if any(own.get(part) != plain.get(part) for part in ("device", "cpu", "commit")):
                continue
            measured = "seconds" if name == "cpu_seconds" and own.get("device") != "cpu" else name
            if own.get(measured) is not None and plain.get(measured) is not None:
                ratios.append(own[measured] / plain[measured])
    median = float(np.median(ratios)) if ratios else None
    return Target(f"{what} in that of plain, median", needed, median, len(ratios), is_most=True)
