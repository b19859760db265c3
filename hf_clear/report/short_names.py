"""Names of classes in a line, and shortened so that they can still be told apart."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any


def short_names(names: Sequence[Any], longest: int = 24) -> list[str]:
    """Names in one line each, of about `longest` characters or fewer. Of a longer one, the middle is left out; where
    others would look the same then, what it has in common with them is."""
    lines = [one_line(name) for name in names]
    middle = longest // 2
    found = [line if len(line) <= longest else f"{line[:middle]}…{line[middle - longest + 1 :]}" for line in lines]
    _tell_apart(found, lines, range(len(lines)), longest)
    times, seen = Counter(found), Counter[str]()
    for number, name in enumerate(found):  # of names that differ by what isn't printed
        seen[name] += 1
        if times[name] > 1:
            found[number] = f"{name} ({seen[name]})"
    return found


def one_line(name: Any) -> str:
    """Without control characters, or those that turn the direction of writing around."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in str(name)).split())


def _tell_apart(found: list[str], lines: list[str], among: Sequence[int], longest: int) -> None:
    """Replaces those of `found` that are alike though their lines aren't, by the beginning and what follows the part
    that these lines share. Then again, for those that also share what follows."""
    groups: dict[str, list[int]] = {}
    for number in among:
        groups.setdefault(found[number], []).append(number)
    for group in groups.values():
        own = [lines[number] for number in group]
        if len(set(own)) < 2:
            continue
        beginning = longest // 4
        shared = os.path.commonprefix(own)
        word = re.search(r"[^\W_]{0,7}$", shared)  # that differs: its beginning
        start = max(word.start() if word else len(shared), beginning)
        for number in group:
            rest, room = lines[number][start:], longest - beginning - 1
            rest = rest if len(rest) <= room else f"{rest[: room - 1]}…"
            found[number] = f"{lines[number][:beginning]}…{rest}"
        _tell_apart(found, lines, group, longest)
