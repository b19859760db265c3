"""Spreadsheets: texts that they must not run, texts that have been through one, and the csv files that they write."""

from __future__ import annotations

import csv
import re

import pandas as pd

from ..data.files import check_encoding

# What begins a formula in Excel, LibreOffice or Google Sheets (OWASP, "CSV Injection"), full-width forms included.
_FORMULA = "=+\\-@\uff1d\uff0b\uff0d\uff20"
# Where a cell begins: at its first character, and where a program that separates cells by semicolons or tabs splits our
# file, quotes or not. There, a formula may come after apostrophes; at the first character, after a tab or a line break.
_CELL = f"(?:^(?='*[{_FORMULA}\t\r\n])|(?<=[;\t\r\n])(?='*[{_FORMULA}]))"
_ESCAPED = f"(?:^'(?='*[{_FORMULA}\t\r\n])|(?<=[;\t\r\n])'(?='*[{_FORMULA}]))"
_DANGEROUS, _APOSTROPHE = re.compile(_CELL), re.compile(_ESCAPED)
_LONGEST = 20_000  # UTF-16 units of a text that a cell has to hold: Excel cuts at 32,767, apostrophes of ours included


def escaped(text: str) -> str:
    """A text of which no spreadsheet takes anything for a formula: with an apostrophe before what begins like one."""
    return _DANGEROUS.sub("'", text)


def unescaped(cell: str) -> str:
    """The text that [`escaped`] was given."""
    return _APOSTROPHE.sub("", cell)


def writable(text: str) -> str:
    """A text without NUL, which no csv file can hold."""
    return text.replace("\0", "")


def is_same_text(cell: object, text: object) -> bool:
    """Whether a cell holds a text, as far as a spreadsheet leaves texts alone: blanks, line breaks and apostrophes may
    be others, numbers may be written otherwise (`007` as `7`), and what is too long may be cut off."""
    full = "" if text is None else writable(str(text))
    cell, text = _collapsed("" if cell is None else writable(str(cell))), _collapsed(full)
    if cell == text or (text.startswith(cell) and cell.startswith(_collapsed(_beginning(full)))):
        return True
    try:
        return float(cell) == float(text)
    except ValueError:
        return False


def _beginning(text: str) -> str:
    """What a cell holds of a text at least. Spreadsheets count UTF-16 units, of which an emoji has two."""
    if len(text) <= _LONGEST // 2:
        return text
    return text.encode("utf-16-le", "surrogatepass")[: 2 * _LONGEST].decode("utf-16-le", "ignore")


def _collapsed(text: str) -> str:
    return " ".join(text.replace("'", "").split())


def read_sheet(path: str) -> pd.DataFrame:
    """A csv file as a spreadsheet writes it: with commas, semicolons or tabs, and blank rows.

    Returns:
        `pandas.DataFrame`: every cell as text, an empty one as `""`. Its index is the row of the sheet, in which the
        header is row 1. Blank rows are left out.

    Raises:
        ValueError: if it is not in UTF-8, empty, or no table, or two columns have one name.
    """
    check_encoding(path)
    separator = max(",;\t", key=lambda own: _fit_of(_header(path, own)))
    options = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig", "skip_blank_lines": False}
    try:
        frame = pd.read_csv(path, sep=separator, header=None, **options)  # so that rows longer than it are refused
    except (ValueError, pd.errors.ParserError) as error:  # an empty file, too
        raise ValueError(f"{path}: can't be read as csv ({str(error).strip()}).") from error
    frame = frame.fillna("")
    frame.columns = [unescaped(name).strip() for name in frame.iloc[0]]
    twice = frame.columns[frame.columns.duplicated() & (frame.columns != "")]
    if len(twice):
        raise ValueError(f"{path} has two columns {twice[0]!r}. Rename or drop one.")
    frame.index = pd.RangeIndex(1, len(frame) + 1)
    frame = frame.iloc[1:]
    return frame[(frame != "").any(axis=1)]


def _header(path: str, separator: str) -> list[str]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file, delimiter=separator), [])
    except csv.Error:  # such as a cell of 100,000 characters: what is wrong is said when all is read
        return []


def _fit_of(header: list[str]) -> tuple[bool, int]:
    """How well a header is split: names of columns may hold semicolons or tabs, but one column is called so."""
    return "sample_index" in (name.strip() for name in header), len(header)


def read_back(table: pd.DataFrame) -> pd.DataFrame:
    """A table that `pandas.read_csv` has read from a file of `to_csv`, with names and texts as they were."""

    def plain(value: object) -> object:
        return unescaped(value) if isinstance(value, str) else value

    found = {plain(name): column for name, column in table.items()}
    return pd.DataFrame(
        {
            name: column.map(plain) if pd.api.types.infer_dtype(column, skipna=True) == "string" else column
            for name, column in found.items()
        }
    )
