"""Names that others chose (data sets, classes, estimators, folders), for Markdown: as text, never as markup."""

from __future__ import annotations

import re
from typing import Any

_LONGEST = 200  # characters of a name


def escaped(value: Any, longest: int = _LONGEST) -> str:
    """One line of text, of at most so many characters, that Markdown, HTML and tables show as it is."""
    line = _line(value, longest)
    text = "".join(c if c.isalnum() or c in " .,:;/+=()-_%'" else f"&#{ord(c)};" for c in line)
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", "&#95;", text)  # within a word it is no emphasis
    return re.sub(r"^([-+=])|^(\d+)([.)])", _of_start, text).replace("://", "&#58;//").replace("www.", "www&#46;")


def code(value: Any) -> str:
    """[`escaped`], set as code. (A backtick or a `|` would end a code span or a cell of a table.)"""
    line = _line(value, _LONGEST)
    return f"`{line}`" if line and not re.search(r"[`|<&]", line) else f"<code>{escaped(line)}</code>"


def without_html(text: str) -> str:
    """A text of `Trainer`, which holds names as they are: no tag in it is one."""
    return re.sub(r"<(?=[A-Za-z/?])", "&lt;", text)


def _of_start(found: re.Match) -> str:
    """What would begin a list, a rule or a heading at the start of a line."""
    sign, number, end = found.groups()
    return f"&#{ord(sign)};" if sign else f"{number}&#{ord(end)};"


def _line(value: Any, longest: int) -> str:
    """Without line breaks and other control characters, or those that turn the direction of writing around."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"
