"""What a collator's randomness hangs on, so that it can be called again as if for the first time."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch


class CollatorState:
    """The generators of Python, numpy and torch (CPU), and what the collator itself holds: attributes, and generators
    among them. Not those of CUDA, which a worker of a dataloader must not touch."""

    def __init__(self, collator: Callable):
        self._python, self._numpy, self._torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
        self._attributes = [(owner, dict(vars(owner))) for owner in _owners(collator)]
        self._generators = [(g, _state_of(g)) for _, own in self._attributes for g in own.values() if _is_generator(g)]

    def restore(self) -> None:
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        for owner, attributes in self._attributes:
            vars(owner).clear()
            vars(owner).update(attributes)
        for generator, state in self._generators:
            _set_state(generator, state)

    def generators_at(self, other: CollatorState) -> bool:
        """Whether all generators stand where they stood when `other` was taken."""
        (kind, keys, position, *rest), (kind2, keys2, position2, *rest2) = self._numpy, other._numpy
        return (
            self._python == other._python
            and (kind, position, rest) == (kind2, position2, rest2)
            and np.array_equal(keys, keys2)
            and torch.equal(self._torch, other._torch)
            and len(self._generators) == len(other._generators)
            and all(_same_state(a, b) for (_, a), (_, b) in zip(self._generators, other._generators))
        )


def _owners(collator: Callable) -> Iterator[Any]:
    """The objects whose attributes a collator may change: itself, the object of a method, what a closure or a partial
    holds."""
    held: list[Any] = [collator]
    seen = set()
    while held:
        one = held.pop()
        if id(one) in seen or isinstance(one, (type, torch.nn.Module)):
            continue
        seen.add(id(one))
        if isinstance(one, functools.partial):
            held += [one.func, *one.args, *one.keywords.values()]
        elif hasattr(one, "__func__"):  # a method
            held.append(one.__self__)
        elif hasattr(one, "__code__"):  # a function
            held += [cell.cell_contents for cell in one.__closure__ or () if _is_filled(cell)]
        elif callable(one) and isinstance(getattr(one, "__dict__", None), dict):
            yield one
    return


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _is_generator(value: Any) -> bool:
    return isinstance(value, (torch.Generator, np.random.Generator, np.random.RandomState, random.Random))


def _state_of(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)


def _same_state(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    return repr(first) == repr(second)
