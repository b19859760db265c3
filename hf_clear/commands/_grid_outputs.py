"""The files of a grid: a table of all trainings, tables to read and for a paper, and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

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


def write_outputs(
    trainings: Sequence[TrainingResult], baseline: str, output_dir: Path, missing: Sequence[str] = ()
) -> str:
    """Writes the files, and returns the tables for reading.

    Args:
        baseline (`str`): the method that others are compared with.
        missing (`Sequence[str]`): what could not be trained, in words: the tables are without it.
    """
    write_atomically(output_dir / _CSV, result_table(trainings).to_csv(index=False).encode())
    tables = {"Mean ± standard deviation over seeds (how many)": mean_table(trainings)}
    differences, notes = _differences(trainings, baseline)
    notes += [f"Missing: {one}" for one in missing]
    if differences is not None:
        tables[
            f"Test accuracy, difference to {baseline}: paired bootstrap over test samples (exact sign-flip test if "
            "fewer than 30 differ), 95 % interval, two-sided p; it knows nothing of other seeds"
        ] = differences
    ranks = rank_table(trainings)
    if ranks is not None:
        tables[f"Mean ranks over settings (Demšar, 2006, JMLR 7), 1 is the best; {ranks.attrs['test']}"] = ranks
    shown = "\n".join([*(f"{title}\n\n{markdown(table)}" for title, table in tables.items()), *notes])
    latex = "\n".join(
        [f"% {_MARK}", *(to_latex(table, title) for title, table in tables.items()), *(f"% {note}" for note in notes)]
    )
    write_atomically(output_dir / _MARKDOWN, f"<!-- {_MARK} -->\n\n{shown}\n".encode())
    write_atomically(output_dir / _LATEX, f"{latex}\n".encode())
    written, picture = [_CSV, _MARKDOWN, _LATEX], output_dir / _PICTURE
    try:
        if draw_curves(trainings, picture, description=_MARK):
            written.append(_PICTURE)
            without = ""
        else:
            without = "No curves: --test_each_epoch and --report_memorization log what they are of."
    except ImportError as error:
        without = f"No curves. {error}"
    if without and picture.is_file():  # of an earlier grid: `check_replaceable` has looked
        picture.unlink()
    return "\n".join([shown, *([without] if without else []), f"Written to {output_dir}: {', '.join(written)}"])


def _differences(trainings: Sequence[TrainingResult], baseline: str) -> tuple[pd.DataFrame | None, list[str]]:
    """Of the settings in which methods can be compared, and why others can't."""
    found, notes = [], []
    for setting in dict.fromkeys(one.setting for one in trainings):
        own = [one for one in trainings if one.setting == setting]
        try:
            found.append(difference_table(own, baseline))
        except ValueError as error:
            notes.append(f"No difference: {error}")
            continue
        lacking = {one.method for one in own} - {baseline} - set(found[-1].index.get_level_values(1))
        if lacking:
            names = ", ".join(sorted(lacking))
            notes.append(f"No difference to {baseline} in {setting!r}, of which both have no tested seed: {names}.")
    found = [table for table in found if len(table)]
    return (pd.concat(found) if found else None), notes
