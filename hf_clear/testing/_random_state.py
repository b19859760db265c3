"""Whether a call leaves the global random state alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch


@contextmanager
def unchanged_random_state(what: str) -> Iterator[None]:
    """Checks that a block leaves the global random state alone.

    Raises:
        AssertionError: if the block changed the global random state of Python, numpy or torch; `what` did it.
    """
    outside = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(2411_00873)  # a state that no block comes to by a seed of its own
    np.random.seed(2411_00873)
    torch.set_rng_state(torch.Generator().manual_seed(2411_00873).get_state())
    before = _state()
    try:
        yield
        changed = [name for name, state in _state().items() if state != before[name]]
    finally:
        random.setstate(outside[0])
        np.random.set_state(outside[1])
        torch.set_rng_state(outside[2])
    assert not changed, (
        f"{what} changes the global random state of {' and '.join(changed)}: draw from a generator of its own, such as "
        "`np.random.default_rng(0)`."
    )


def _state() -> dict[str, str]:
    name, keys, *rest = cast(tuple[Any, ...], np.random.get_state())
    return {
        "Python": str(random.getstate()),
        "numpy": str((name, keys.tolist(), *rest)),
        "torch": str(torch.get_rng_state().tolist()),
    }
