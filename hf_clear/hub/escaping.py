"""Names that others chose (data sets, classes, estimators, folders), for Markdown: as text, never as markup."""

from __future__ import annotations

import re
from typing import Any

_LONGEST = 200


def escaped(value: Any) -> str:
    """One line of text, of at most 200 characters, that Markdown, HTML and tables show as it is."""
    return "".join(c if c.isalnum() or c in " .,:/+=()-" else f"&#{ord(c)};" for c in _line(value))


def code(value: Any) -> str:
    """[`escaped`], set as code. (A backtick or a `|` would end a code span or a cell of a table.)"""
    line = _line(value)
    return f"`{line}`" if line and not re.search(r"[`|<&]", line) else f"<code>{escaped(line)}</code>"


def without_html(text: str) -> str:
    """A text of `Trainer`, which holds names as they are: no tag in it is one."""
    return re.sub(r"<(?=[A-Za-z/?])", "&lt;", text)


def _line(value: Any) -> str:
    """Without line breaks and other control characters (or those that turn the direction of writing around)."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
