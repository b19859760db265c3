"""Tables from the lines of results.jsonl."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from _jobs import AVERAGED_EPOCHS
from _loading import DATA_SETS
from _methods import ORACLES, PEERS
from _settings import Cell

# What the rows of a table share; what comes after SHARED_WITH_PEERS, methods without PEFT don't have.
SHARED_WITH_PEERS = ("model", "data", "noise_type", "noise_rate", "scored_on")
TABLE = (*SHARED_WITH_PEERS, "peft_method", "epochs", "learning_rate", "bf16")
BASELINES = ("plain", *PEERS)
MEASURED = ("peak_accuracy", "average_accuracy", "detection_auroc", "estimated_noise_rate", "seconds")
LEAST_GAP = 0.01  # between plain and oracle: of less, no share is a number worth reading
Table = dict[str, dict[int, dict[str, Any]]]  # lines by method and seed


def tables_of(lines: Iterable[dict[str, Any]]) -> dict[tuple, Table]:
    """A table for each data set, noise, PEFT method, number of epochs and learning rate; the peers are in all those of
    their data set and noise."""
    tables: dict[tuple, Table] = {}
    for line in sorted(lines, key=lambda line: line["method"] in PEERS):
        cell = Cell.of_line(line)
        own, is_peer = tuple(getattr(cell, name) for name in TABLE), line["method"] in PEERS
        shared = len(SHARED_WITH_PEERS)
        same = [key for key in tables if key[:shared] == own[:shared]] if is_peer else []
        for key in same or [own]:
            tables.setdefault(key, {}).setdefault(line["method"], {})[line["seed"]] = line
    return tables


def summarize(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for every method of a table, the best first."""
    rows, tables = [], tables_of(lines)
    for key in sorted(tables, key=json.dumps):
        of_table = [compare(method, tables[key]) for method in tables[key]]
        for row in sorted(of_table, key=lambda row: -row["accuracy"]):
            named = {**dict(zip(TABLE, key)), "method": row["method"]}
            named["bf16"] = "bf16" if named["bf16"] else None
            name = " ".join(str(part) for part in named.values() if part is not None)
            rows.append({"name": name, "target": None, **dict(zip(TABLE, key)), **row})
    return rows


def compare(method: str, table: Table) -> dict[str, Any]:
    """The numbers of a row. A comparison is over the seeds that all of its methods have, their number is beside it; it
    is None if there is no such seed, or hardly a gap between plain and oracle."""
    lines = list(table[method].values())
    accuracies = np.array([line["accuracy"] for line in lines])
    row = {"method": method, "seeds": len(accuracies), "accuracy": float(accuracies.mean())}
    row["std"] = float(accuracies.std(ddof=1)) if len(accuracies) > 1 else None
    for name in MEASURED:
        known = [line[name] for line in lines if line.get(name) is not None]
        row[name] = float(np.mean(known)) if known else None
    sizes = {(line.get("train_samples"), line.get("test_samples")) for line in lines}
    row["train_samples"], row["test_samples"] = sizes.pop() if len(sizes) == 1 else (None, None)
    row["commits"] = sorted({line["commit"] for line in lines if line.get("commit")})
    row["settings_differ"] = sorted(
        name
        for name in set().union(*(line.get("settings") or {} for line in lines))
        if len({json.dumps((line.get("settings") or {}).get(name)) for line in lines}) > 1
    )
    for other in BASELINES:
        own, others = paired(table, method, other)
        row[f"over_{other}"] = float((own - others).mean()) if len(own) and other != method else None
        row[f"over_{other}_seeds"] = len(own)
    own, plain = paired(table, method, "plain")
    row["ratio"] = float(own.mean() / plain.mean()) if len(own) else None
    for oracle in ORACLES:
        own, plain, end = paired(table, method, "plain", oracle)
        row["gap_closed_seeds"], row["gap_to"] = len(own), oracle
        if len(own):
            break
    wide = len(own) and (end - plain).mean() >= LEAST_GAP
    row["gap_closed"] = float((own - plain).sum() / (end - plain).sum()) if wide else None
    return row


def paired(table: Table, *methods: str, name: str = "accuracy") -> np.ndarray:
    """What some methods measured for the seeds that all of them have: `[number of methods, number of seeds]`."""
    known = [{seed for seed, line in table.get(method, {}).items() if line.get(name) is not None} for method in methods]
    seeds = sorted(set.intersection(*known))
    return np.array([[table[method][seed][name] for seed in seeds] for method in methods])


def caption(row: dict[str, Any]) -> str:
    """What a table is about, with the number of samples if lines tell it."""
    rate = "" if row["noise_rate"] is None else f" {row['noise_rate']:.0%}"
    text = f"{row['data']}, {row['noise_type']} noise{rate}, {row['model']}"
    if row["peft_method"] is not None:
        text += f", {row['peft_method']}, {row['epochs']} epochs, learning rate {row['learning_rate']:g}"
        text += ", bf16" * row["bf16"]
    if row["train_samples"] is not None:
        base, _, is_drawn = row["data"].partition("@")
        drawn = " (drawn once for all)"
        scored_on = f"{row['test_samples']} {row['scored_on']} samples"
        if base in DATA_SETS and DATA_SETS[base].test_samples is not None and row["scored_on"] == "test":
            scored_on += drawn
        text += f"; {row['train_samples']} training samples{drawn if is_drawn else ''}, accuracy on {scored_on}"
    return text


def markdown(rows: list[dict[str, Any]]) -> str:
    columns = {**{f"over_{other}": "+.3f" for other in BASELINES}, "gap_closed": ".0%"}
    more = {"peak_accuracy": ".3f", "average_accuracy": ".3f", "detection_auroc": ".3f", "seconds": ".0f"}
    titles = {
        "gap_closed": "gap closed",
        "peak_accuracy": "best epoch",
        "average_accuracy": f"mean of the last {AVERAGED_EPOCHS} epochs",
        "detection_auroc": "AUROC",
    }
    names = [titles.get(name, name.replace("_", " ")) for name in (*columns, *more)]
    lines = []
    for _, of_table in itertools.groupby(rows, key=lambda row: [row[name] for name in TABLE]):
        of_table = list(of_table)
        lines += ["", caption(next((row for row in of_table if row["method"] not in PEERS), of_table[0])), ""]
        lines += [f"| {' | '.join(['method', 'seeds', 'test accuracy', *names])} |", "|" + "---|" * (len(names) + 3)]
        for row in of_table:
            spread = "(1 seed)" if row["std"] is None else f"± {row['std']:.3f}"
            cells = [row["method"], str(row["seeds"]), f"{row['accuracy']:.3f} {spread}"]
            for name, digits in {**columns, **more}.items():
                cells.append("-" if row[name] is None else format(row[name], digits))
                seeds = row.get(f"{name}_seeds", row["seeds"])
                if row[name] is not None and seeds < row["seeds"]:
                    cells[-1] += f" ({seeds} of {row['seeds']} seeds)"
            lines.append(f"| {' | '.join(cells)} |")
        for row in of_table:
            if row["settings_differ"]:
                names_of = ", ".join(row["settings_differ"])
                lines += ["", f"{row['method']}: its seeds were not run with the same {names_of}."]
    return "\n".join(lines)


def learning_rates(lines: Iterable[dict[str, Any]]) -> str:
    """Accuracy on validation by learning rate: a row each, a column for each data set and noise, the mean over those
    that all rates have, and which is best."""
    columns: dict[tuple, dict[float, list[float]]] = {}
    for line in lines:
        if line.get("scored_on") == "validation":
            key = tuple(line[name] for name in ("data", "noise_type", "noise_rate", "peft_method", "epochs", "method"))
            columns.setdefault(key, {}).setdefault(line["learning_rate"], []).append(line["accuracy"])
    rates = sorted({rate for column in columns.values() for rate in column})
    whole = [column for column in columns.values() if len(column) == len(rates)]
    titles = [" ".join(str(part) for part in key if part is not None) for key in columns]
    table = [f"| learning rate | {' | '.join(titles)} | mean |", "|" + "---|" * (len(titles) + 2)]
    means = {rate: float(np.mean([np.mean(column[rate]) for column in whole])) for rate in rates if whole}
    for rate in rates:
        cells = [
            f"{np.mean(column[rate]):.3f} ({len(column[rate])})" if rate in column else "-"
            for column in columns.values()
        ]
        cells.append(f"{means[rate]:.3f}" if rate in means else "-")
        table.append(f"| {rate:g} | {' | '.join(cells)} |")
    best = f"Best mean: {max(means, key=means.get):g}." if means else "No setting has all learning rates yet."
    return "\n".join(["Accuracy on held-out noisy labels after the last epoch (number of seeds)", "", *table, "", best])
