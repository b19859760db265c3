"""Spreadsheets: texts that they must not run, texts that have been through one, and the csv files that they write."""

from __future__ import annotations

import re

import pandas as pd

from ..data.files import check_encoding

# What begins a formula in Excel, LibreOffice or Google Sheets (OWASP, "CSV Injection"), full-width forms included.
_FORMULA = "=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20"
_DANGEROUS, _ESCAPED = re.compile(f"'*[{_FORMULA}]"), re.compile(f"'+[{_FORMULA}]")
_LONGEST = 30_000  # characters, blanks aside, of a cell that may be cut off: Excel does so at 32,767


def escaped(text: str) -> str:
    """A text that no spreadsheet takes for a formula: with an apostrophe before it if it begins like one."""
    return f"'{text}" if _DANGEROUS.match(text) else text


def unescaped(cell: str) -> str:
    """The text that [`escaped`] was given."""
    return cell[1:] if _ESCAPED.match(cell) else cell


def writable(text: str) -> str:
    """A text without NUL, which no csv file can hold."""
    return text.replace("\0", "")


def is_same_text(cell: object, text: object) -> bool:
    """Whether a cell holds a text, as far as a spreadsheet leaves texts alone: blanks, line breaks and apostrophes in
    front may be others, numbers may be written otherwise (`007` as `7`), and what is too long may be cut off."""
    cell, text = (_collapsed("" if value is None else writable(str(value))) for value in (cell, text))
    if cell == text or (len(cell) >= _LONGEST and text.startswith(cell)):
        return True
    try:
        return float(cell) == float(text)
    except ValueError:
        return False


def _collapsed(text: str) -> str:
    return " ".join(text.split()).lstrip("' ")


def read_sheet(path: str) -> pd.DataFrame:
    """A csv file as a spreadsheet writes it: with commas, semicolons or tabs, and blank rows.

    Returns:
        `pandas.DataFrame`: every cell as text, an empty one as `""`. Its index is the row of the sheet, in which the
        header is row 1. Blank rows are left out.

    Raises:
        ValueError: if it is not in UTF-8, empty, or no table, or two columns have one name.
    """
    check_encoding(path)
    with open(path, encoding="utf-8-sig") as file:
        first = file.readline()
    separator = max(",;\t", key=first.count)
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
