"""The trial of a collator before its first batch: does a row go where its item goes?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from ._pairing import REMEDY, Pairing, can_carry, name_of
from ._rows import all_match, copied, fields_of, parts_of, same, same_row, scalar
from ._state import CollatorState

_SAMPLES = 4  # few: for collators that take long
_TRIALS = 8  # until it is taken for granted that samples give no clue
_SEEDS = 2  # states of the random generators that are tried, if a collator is random

Rows = dict[tuple[int, int], Any]  # of a field, by the place of the item and how often it came before


def try_out(pairing: Pairing, items: Sequence[Any], indices: Sequence[int]) -> None:
    """Collates a few items again and again, in several orders and from the same random state, and finds out whether the
    index travels, whether each row goes where its item goes, and what of items and batches can be compared from now on.
    The state of random generators, and the collator's own, are as before afterwards.

    Raises:
        ValueError: if rows stay when items move (a collator that sorts), or are made of several items (that mixes,
            flattens), or if none of it can be told.
    """
    start = CollatorState(pairing.collator)
    try:
        places = _chosen(items, pairing.label_names)
        _Trial(pairing, [items[place] for place in places], [indices[place] for place in places], start).run()
    finally:
        start.restore()


class _Trial:
    def __init__(self, pairing: Pairing, items: list[Any], indices: list[int], start: CollatorState):
        self.pairing = pairing
        self.items = items
        self.indices = indices
        self.start = start
        self.end = start  # where the last call left the generators
        self.is_random = False  # whether a call draws random numbers
        self.is_replayable = True  # whether two calls from the same state give the same batch
        self.clues: set[str] = set()  # fields that show where an item is

    def run(self) -> None:
        pairing, items = self.pairing, self.items
        pairing.label_part = _label_part(items, pairing.label_names)
        order = list(range(len(items)))
        pairing.travels = False
        plain, first_end = self.plain(order, must_fit=False), self.end
        self.is_random = not first_end.generators_at(self.start)
        self.is_replayable = same(dict(plain), dict(self.plain(order, must_fit=False)))
        pairing.travels = all(map(can_carry, items)) and self._lets_through(order, plain)
        if not pairing.travels:
            self.plain(order)  # refuses another number of rows
        pairing.compared, pairing.is_strict = None, False
        if not pairing.travels or Counter(self.call(order)[1]) == Counter(order):
            self._find_what_compares(plain)
        for seed in range(_SEEDS if self.is_random else 1):
            if seed:
                self.start = self.end  # another state
                pairing.collator(self._fresh(order))
            self._move_items(order)
        nothing_to_go_by = not self.clues and not self.is_replayable and pairing.label_part is None
        if nothing_to_go_by and len(items) > 1:
            raise ValueError(
                f"Nobody can tell which row of a batch is which sample: the collator {name_of(pairing.collator)} makes "
                f"another batch of the same samples each time, and items and batches have nothing in common. {REMEDY}"
            )
        pairing.num_trials += 1
        pairing.is_tried = bool(self.clues) or pairing.num_trials == _TRIALS  # batches of one sample, or of equal ones

    # ---- Calls ----

    def plain(self, order: Sequence[int], must_fit: bool = True) -> Mapping[str, Any]:
        self.start.restore()
        items = self._fresh(order)
        batch = self.pairing.without_index(items) if must_fit else self.pairing.plain(items)
        self.end = CollatorState(self.pairing.collator)
        return batch

    def call(self, order: Sequence[int]) -> tuple[Mapping[str, Any], list[int]]:
        """The batch of the items in this order, and the place of the item that each row is."""
        if not self.pairing.travels:
            return self.plain(order), list(order)
        self.start.restore()
        found = self.pairing.with_index(self._fresh(order), order)
        self.end = CollatorState(self.pairing.collator)
        return found or (self.plain(order), list(order))

    def _fresh(self, order: Sequence[int]) -> list[Any]:
        """Items as the data set gave them: a collator may have changed those of the call before."""
        return [copied(self.items[place], is_deep=True) for place in order]

    def _lets_through(self, order: list[int], plain: Any) -> bool:
        """Whether the index comes back, and leaves all else as it is without."""
        self.start.restore()
        end = self.end
        found = self.pairing.with_index(self._fresh(order), order)
        if found is None or not isinstance(plain, Mapping) or found[0].keys() != plain.keys():
            return False
        if not self.is_replayable:
            return True
        return same(dict(found[0]), dict(plain)) and CollatorState(self.pairing.collator).generators_at(end)

    # ---- What is looked at ----

    def _find_what_compares(self, plain: Mapping[str, Any]) -> None:
        """A part of the items that comes back as a field of the batch, if there is one."""
        names, fields = self.pairing.label_names, fields_of(plain, len(self.items))
        parts = [parts_of(item) for item in self.items]
        best = 0
        for part in parts[0]:
            values = [of_item.get(part) for of_item in parts]
            if part == self.pairing.label_part or any(value is None for value in values):
                continue
            for name, field in fields.items():
                if name in names and getattr(field, "ndim", 1) == 1:
                    continue
                found = all_match(field, values).count(True)
                if found > best and _differ(values):
                    best, self.pairing.compared = found, (part, name)
        self.pairing.is_strict = best == len(self.items) and not self.is_random and self.is_replayable

    def _move_items(self, order: list[int]) -> None:
        """Rows have to go where items go. What is random by the place in the batch can't be equal in another place:
        then two neighbours change places, and the rows of the others have to stay as they are."""
        before, places = self.call(order)
        end = self.end
        self._check_classes(before, places)
        rows = _by_item(before, places)
        moves = [[1, 0]] if len(order) == 2 else [[2, 0, 1, *order[3:]], _swapped(order, len(order) - 2)]
        follows, stays = dict.fromkeys(rows, True), dict.fromkeys(rows, True)
        for moved in moves if len(order) > 1 else []:
            batch, places = self.call(moved)
            self._check_classes(batch, places)
            now = _by_item(batch, places)
            for name, own in rows.items():
                shared = own.keys() & now.get(name, {}).keys()
                follows[name] &= name in now and all(same_row(own[key], now[name][key]) for key in shared)
                stays[name] &= name in now and same(list(own.values()), list(now[name].values()))
        differing = {name for name, own in rows.items() if _differ(list(own.values()))}
        self.clues |= {name for name in differing if follows[name]}
        lost = {name for name in differing if not follows[name]} if self.is_replayable else set()
        labels = {name for name in lost if name in self.pairing.label_names and _is_flat(rows[name])}
        fixed = {name for name in lost if stays[name]}
        changed = lost - fixed
        inputs = {name for name in differing - lost if name not in self.pairing.label_names}
        if labels or (fixed and not inputs and not changed):
            self._refuse(labels or fixed, "does not move with it: it sorts or shuffles samples")
        if changed and not self.is_random:
            self._refuse(changed, "changes with the others: it mixes or shuffles samples")
        if changed:
            self._move_neighbours(order, rows, changed, end)
            self.clues |= changed

    def _move_neighbours(self, order: list[int], rows: dict[str, Rows], changed: set[str], end: CollatorState) -> None:
        for place in range(len(order) - 2, 0, -1):
            batch, places = self.call(_swapped(order, place))
            # If an item takes more random numbers than its neighbour, those after them get others.
            others = set(order) - {place, place + 1} if self.end.generators_at(end) else set(order[:place])
            now = _by_item(batch, places)
            for name in changed & now.keys():
                shared = [key for key in rows[name].keys() & now[name].keys() if key[0] in others]
                if not all(same_row(rows[name][key], now[name][key]) for key in shared):
                    self._refuse({name}, "changes with the others: it mixes or shuffles samples")

    def _check_classes(self, batch: Mapping[str, Any], places: Sequence[int]) -> None:
        items, indices = [self.items[place] for place in places], [self.indices[place] for place in places]
        self.pairing.check_classes(batch, items, indices)

    def _refuse(self, names: set[str], what: str) -> None:
        raise ValueError(
            f"Nobody can tell which row of a batch is which sample: the collator {name_of(self.pairing.collator)} was "
            f"given {len(self.items)} samples in several orders, and the row of a sample in {sorted(names)} {what}. "
            f"{REMEDY}"
        )


def _chosen(items: Sequence[Any], label_names: Sequence[str]) -> list[int]:
    """The places of a few items, of several labels if there are any."""
    part = _label_part(items, label_names)
    if len(items) <= _SAMPLES or part is None:
        return list(range(min(len(items), _SAMPLES)))
    first: dict[Any, int] = {}
    for place, item in enumerate(items):
        first.setdefault(scalar(parts_of(item).get(part)), place)
    places = list(first.values())[:_SAMPLES]
    places += [place for place in range(len(items)) if place not in places][: _SAMPLES - len(places)]
    return sorted(places)


def _label_part(items: Sequence[Any], names: Sequence[str]) -> Hashable | None:
    """The part of an item that is its label: one of the names, or the last number of a tuple."""
    parts = [parts_of(item) for item in items]
    last_first = reversed(parts[0]) if isinstance(items[0], tuple) else ()
    for part in (*names, *last_first):
        if all(scalar(of_item.get(part)) is not None for of_item in parts):
            return part
    return None


def _by_item(batch: Mapping[str, Any], places: Sequence[int]) -> dict[str, Rows]:
    seen: Counter[int] = Counter()
    keys = []
    for place in places:
        keys.append((place, seen[place]))
        seen[place] += 1
    return {name: dict(zip(keys, field)) for name, field in fields_of(batch, len(places)).items()}


def _differ(values: list[Any]) -> bool:
    return any(not same(values[0], value) for value in values[1:])


def _is_flat(rows: Rows) -> bool:
    return getattr(next(iter(rows.values())), "ndim", 0) == 0


def _swapped(order: list[int], place: int) -> list[int]:
    return [*order[:place], order[place + 1], order[place], *order[place + 2 :]]
