"""Regular expressions of strangers: matched in bounded time.

Python's `re` tries one way through a pattern after the other, which a pattern such as `(a+)+$` makes exponentially
many. Here all ways are followed at once: a part of a pattern maps the set of positions where it begins in a text (the
bits of an integer) to those where it ends. That tells whether a text matches, which is all that peft asks.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

try:
    from re import _constants as ops  # type: ignore[attr-defined]
    from re import _parser as parser  # type: ignore[attr-defined]
except ImportError:  # Python 3.10
    import sre_constants as ops
    import sre_parse as parser

_LONGEST = 20_000  # characters of a pattern; the longest ones that tools write have about 1,000
_STEPS_A_TEXT = 1_000  # on average; the longest patterns that tools write take about 100
_PARSE_ERRORS = (re.error, OverflowError, RecursionError, ValueError)
_MAY_BACKTRACK = re.compile(r"[*+?{(]")
_CATEGORIES: dict[Any, Callable[[str], bool]] = {
    ops.CATEGORY_DIGIT: str.isdecimal,
    ops.CATEGORY_NOT_DIGIT: lambda c: not c.isdecimal(),
    ops.CATEGORY_SPACE: str.isspace,
    ops.CATEGORY_NOT_SPACE: lambda c: not c.isspace(),
    ops.CATEGORY_WORD: lambda c: c.isalnum() or c == "_",
    ops.CATEGORY_NOT_WORD: lambda c: not (c.isalnum() or c == "_"),
}


class Budget:
    """The steps that may be spent on all patterns of an adapter together."""

    def __init__(self, num_texts: int):
        self.left = _STEPS_A_TEXT * (num_texts + 10)

    def spend(self, steps: int = 1) -> None:
        self.left -= steps
        if self.left < 0:
            raise ValueError("takes too long to match: write it in a simpler way, or as a list of names")


def matcher(
    pattern: str, budget: Budget, before: str = "", after: str = "", full: bool = True
) -> Callable[[str], bool]:
    """A function that says whether `re.fullmatch(before + pattern + after, text)` finds something, in a number of steps
    that `budget` bounds.

    Args:
        before, after (`str`, *optional*): what is put around the pattern, of our own.
        full (`bool`, *optional*, defaults to `True`): `re.fullmatch`; else `re.match`.

    Raises:
        ValueError: if the pattern is none, is too long, refers back to groups (`\\1`) or has possessive or atomic
            parts; in the function, if the budget is spent.
    """
    if len(pattern) > _LONGEST:
        raise ValueError(f"is a pattern of {len(pattern):,} characters, and at most {_LONGEST:,} are matched")
    budget.spend(len(pattern) + 100)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about patterns that Python is going to read in another way
            if not _MAY_BACKTRACK.search(pattern):
                compiled = re.compile(before + pattern + after)
                match = compiled.fullmatch if full else compiled.match

                def matches_plainly(text: str) -> bool:
                    budget.spend()
                    return match(text) is not None

                return matches_plainly
            tree = parser.parse(before + pattern + after)
    except _PARSE_ERRORS as error:
        raise ValueError(f"is no regular expression ({error})") from error

    def matches(text: str) -> bool:
        try:
            ends = _Match(text, tree.state.flags, budget).ends(tree, 1)
        except RecursionError:
            raise ValueError("has too many groups inside of each other") from None
        return ends >> (len(text) if full else 0) != 0

    return matches


class _Match:
    """One text: the set of positions that a part of a pattern leads to from a set of positions."""

    def __init__(self, text: str, flags: int, budget: Budget):
        self.text, self.flags, self.budget = text, flags, budget
        self.all = (1 << (len(text) + 1)) - 1
        self.places_of: dict[str, int] = {}  # by character
        for place, character in enumerate(text):
            self.places_of[character] = self.places_of.get(character, 0) | 1 << place
        self.known: dict[Any, int] = {}  # the positions of the characters that a part accepts

    def ends(self, parts: Any, starts: int) -> int:
        """Where a sequence of parts can end that begins in one of `starts`."""
        for op, of_op in parts:
            if not starts:
                break
            self.budget.spend()
            starts = self._ends_of_part(op, of_op, starts)
        return starts

    def _ends_of_part(self, op: Any, of_op: Any, starts: int) -> int:
        if op in (ops.LITERAL, ops.NOT_LITERAL, ops.ANY, ops.IN):
            return (starts & self._accepted(op, of_op)) << 1
        if op is ops.SUBPATTERN:
            _, added, removed, parts = of_op
            if added or removed:
                raise ValueError("sets flags for a part of it, which is not supported")
            return self.ends(parts, starts)
        if op is ops.BRANCH:
            found = 0
            for parts in of_op[1]:
                found |= self.ends(parts, starts)
            return found
        if op in (ops.MAX_REPEAT, ops.MIN_REPEAT):
            least, most, parts = of_op
            return self._repeated(least, most, parts, starts)
        if op is ops.AT:
            return starts & self._places(of_op)
        if op in (ops.ASSERT, ops.ASSERT_NOT):
            direction, parts = of_op
            if direction < 0:
                seen = self._places_before(direction, parts, starts)
            else:
                seen = self._places_after(parts, starts)
            return seen if op is ops.ASSERT else starts & ~seen
        if op is ops.FAILURE:
            return 0
        raise ValueError("refers back to a group, or has a possessive or atomic part, which is not supported")

    def _repeated(self, least: int, most: int, parts: Any, starts: int) -> int:
        for _ in range(least):
            past, starts = starts, self.ends(parts, starts)
            if starts in (0, past):
                break
        found = fresh = starts
        count = least
        while fresh and (most == ops.MAXREPEAT or count < most):
            fresh = self.ends(parts, fresh) & ~found
            found |= fresh
            count += 1
        return found

    def _places_after(self, parts: Any, starts: int) -> int:
        return sum(1 << place for place in self._bits(starts) if self.ends(parts, 1 << place))

    def _places_before(self, _: int, parts: Any, starts: int) -> int:
        shortest, longest = parts.getwidth()
        if shortest != longest:
            raise ValueError("looks behind for something of no fixed width")
        return starts & sum(self.ends(parts, 1 << place) for place in self._bits((starts >> shortest) & self.all))

    @staticmethod
    def _bits(mask: int) -> list[int]:
        return [place for place in range(mask.bit_length()) if mask >> place & 1]

    def _places(self, where: Any) -> int:
        length = len(self.text)
        if where in (ops.AT_BEGINNING, ops.AT_BEGINNING_STRING):
            return 1
        if where is ops.AT_END_STRING:
            return 1 << length
        if where is ops.AT_END:
            return 1 << length | (1 << length >> 1 if self.text.endswith("\n") else 0)
        is_word = [_CATEGORIES[ops.CATEGORY_WORD](c) for c in self.text]
        sides = zip([False, *is_word], [*is_word, False])
        at_boundary = sum(1 << place for place, (before, after) in enumerate(sides) if before != after)
        return at_boundary if where is ops.AT_BOUNDARY else self.all & ~at_boundary

    def _accepted(self, op: Any, of_op: Any) -> int:
        """The positions of the characters that a part for one character accepts."""
        if op is ops.LITERAL and not self.flags & re.IGNORECASE:
            return self.places_of.get(chr(of_op), 0)
        key = id(of_op) if op is ops.IN else (op, of_op)
        if key not in self.known:
            items = of_op if op is ops.IN else [(op, of_op)]
            self.budget.spend(len(items))
            self.known[key] = sum(places for c, places in self.places_of.items() if self._accepts(items, c))
        return self.known[key]

    def _accepts(self, items: list[tuple[Any, Any]], character: str) -> bool:
        variants = {character}
        if self.flags & re.IGNORECASE:
            variants |= {character.lower(), character.upper()}
        negated = items[0][0] in (ops.NEGATE, ops.NOT_LITERAL)
        return negated != any(self._is(op, of_op, c) for op, of_op in items for c in variants)

    def _is(self, op: Any, of_op: Any, character: str) -> bool:
        if op is ops.ANY:
            return character != "\n" or bool(self.flags & re.DOTALL)
        if op is ops.CATEGORY:
            return _CATEGORIES[of_op](character)
        if op is ops.RANGE:
            return of_op[0] <= ord(character) <= of_op[1]
        return op in (ops.LITERAL, ops.NOT_LITERAL) and ord(character) == of_op
