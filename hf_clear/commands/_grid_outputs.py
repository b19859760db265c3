"""The files of a grid: a table of all trainings, tables to read and for a paper, and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..comparison import (
    TrainingResult,
    difference_table,
    draw_curves,
    markdown,
    mean_table,
    rank_table,
    result_table,
    to_latex,
)
from ..files import write_atomically

_CSV, _MARKDOWN, _LATEX, _PICTURE = "grid.csv", "grid.md", "grid.tex", "grid.svg"
_MARK = "hf-clear grid"
# What a file of a grid holds near its beginning.
_MARKS = {_CSV: ("setting,", "method,noise_rate,seed"), _MARKDOWN: (_MARK,), _LATEX: (_MARK,), _PICTURE: (_MARK,)}
_BEGINNING = 4096


def check_replaceable(output_dir: Path) -> None:
    """Makes sure that no file of somebody else would be replaced.

    Raises:
        ValueError: if one would; the message names it.
    """
    for name, marks in _MARKS.items():
        path = output_dir / name
        if path.is_file():
            with open(path, encoding="utf-8", errors="replace") as file:
                beginning = file.read(_BEGINNING)
            found = beginning.startswith(marks) if name == _CSV else any(mark in beginning for mark in marks)
            if not found:
                raise ValueError(f"{path} is there, and is none of a grid. It stays as it is: name another folder.")


def write_outputs(trainings: Sequence[TrainingResult], baseline: str, output_dir: Path) -> str:
    """Writes the files, and returns the tables for reading."""
    tables = {"Mean ± standard deviation over seeds (how many)": mean_table(trainings)}
    notes = []
    differences = difference_table(trainings, baseline)
    if len(differences):
        tables[
            f"Test accuracy, difference to {baseline}: paired bootstrap over test samples, 95 % interval, two-sided p; "
            "it knows nothing of other seeds"
        ] = differences
    elif len({one.method for one in trainings}) > 1:
        notes.append(f"No difference to {baseline} is tested: no labelled test sample has predictions of both.")
    ranks = rank_table(trainings)
    if ranks is not None:
        tables["Mean ranks over settings, by test accuracy (Demšar, 2006, JMLR 7); 1 is the best"] = ranks
    shown = "\n".join(f"{title}\n\n{markdown(table)}" for title, table in tables.items())
    latex = f"% {_MARK}\n" + "\n".join(to_latex(table, title) for title, table in tables.items())
    written = [_CSV, _MARKDOWN, _LATEX]
    write_atomically(output_dir / _CSV, result_table(trainings).to_csv(index=False).encode())
    write_atomically(output_dir / _MARKDOWN, f"<!-- {_MARK} -->\n\n{shown}".encode())
    write_atomically(output_dir / _LATEX, latex.encode())
    try:
        if draw_curves(trainings, output_dir / _PICTURE, description=_MARK):
            written.append(_PICTURE)
        else:
            notes.append("No curves: --test_each_epoch and --report_memorization log what they are of.")
    except ImportError as error:
        notes.append(f"No curves. {error}")
    return "\n".join([shown, *notes, f"Written to {output_dir}: {', '.join(written)}"])
