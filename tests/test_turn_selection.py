"""Which samples TURN fine-tunes on."""

import numpy as np
import pytest

from hf_clear.turn.selection import select_clean

PROBABILITY = np.array([0.9, 0.8, 0.7, 0.2, 0.61, 0.9, 0.5, 0.1, 0.6, 0.3])
CLASSES = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])


def test_balanced_draws(caplog):
    assert select_clean(PROBABILITY[:7], CLASSES[:7]).tolist() == [0, 1, 2, 4, 5]
    drawn = select_clean(PROBABILITY[:7], CLASSES[:7], balance="min", seed=3)
    assert len(drawn) == 4 and {4, 5} < set(drawn) < {0, 1, 2, 4, 5}
    assert drawn.tolist() == select_clean(PROBABILITY[:7], CLASSES[:7], balance="min", seed=3).tolist()
    others = [select_clean(PROBABILITY[:7], CLASSES[:7], balance="min", seed=seed).tolist() for seed in range(20)]
    assert {tuple(rows[:2]) for rows in others} == {(0, 1), (0, 2), (1, 2)}
    assert len(select_clean(PROBABILITY[:7], CLASSES[:7], balance=1)) == 2
    assert select_clean(PROBABILITY[:7], CLASSES[:7], balance=3).tolist() == [0, 1, 2, 4, 5]  # not more than there are
    assert not caplog.records


def test_a_class_without_a_clean_sample_is_not_dropped(caplog):
    """0.6 is not above 0.6: class 2 has none, and keeps its two best, as many as class 1 has."""
    assert select_clean(PROBABILITY, CLASSES).tolist() == [0, 1, 2, 4, 5, 8, 9]
    assert "No sample of 1 of the 3 classes (label 2)" in caplog.text and "the 2 most" in caplog.text
    assert np.bincount(CLASSES[select_clean(PROBABILITY, CLASSES, balance="min")]).tolist() == [2, 2, 2]


@pytest.mark.parametrize("prefix", ["", "turn_"])
def test_messages_name_the_arguments_that_the_caller_has(prefix):
    for arguments, message in (
        ({"threshold": 1.0}, f"`{prefix}threshold` is a clean probability"),
        ({"balance": "max"}, f"`{prefix}balance` has to be 'min'"),
        ({"threshold": 0.95}, f"Lower `{prefix}threshold`, or"),
    ):
        with pytest.raises(ValueError, match=message):
            select_clean(PROBABILITY, CLASSES, prefix=prefix, **arguments)
