"""A row of a batch is the sample that it says, or the collator is refused."""

import collections
import functools
import random

import numpy as np
import pytest
import torch
from helpers.toy import NUM_LABELS, collate, toy_dataset
from helpers.trainers import Dictionaries, lora_model
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BatchEncoding, DataCollatorWithPadding, default_data_collator

import hf_clear
from hf_clear import SAMPLE_INDEX, ClearTrainer, per_sample_losses
from hf_clear.sample_index import IndexCollator
from hf_clear.sample_index._pairing import Pairing

NAMES = ("labels", "label", "label_ids")


def let_through(batch: dict, kept: list) -> dict:
    """What messages tell people to add."""
    if SAMPLE_INDEX in kept[0]:
        batch[SAMPLE_INDEX] = torch.tensor([item[SAMPLE_INDEX] for item in kept])
    return batch


# ---- Any collator that is put together of such parts ----


def drop(items):
    return [item for item in items if not item["broken"]]


def by_length(items):
    return sorted(items, key=lambda item: len(item["input_ids"]))


def by_label(items):
    return sorted(items, key=lambda item: item["labels"])


def shuffle(items):
    return random.sample(items, len(items))


def twice(items):
    return [*items, *items]


def broken_by_first(items):
    return [items[0] if item["broken"] else item for item in items]


def masked(items):
    return [{**item, "input_ids": [t if random.random() < 0.7 else 1 for t in item["input_ids"]]} for item in items]


PARTS = [drop, by_length, by_label, shuffle, twice, broken_by_first, masked]


def mix(batch):
    batch["inputs"] = 0.6 * batch["inputs"] + 0.4 * batch["inputs"].roll(1, 0)
    return batch


def mix_at_random(batch):
    batch["inputs"] = 0.6 * batch["inputs"] + 0.4 * batch["inputs"][torch.randperm(len(batch["inputs"]))]
    return batch


def collator_of(parts, way, mixer):
    """Every row has its sample's number in `truth`, which no collator of ours looks at."""

    def collator(items):
        original = items = list(items)
        for part in parts:
            items = part(items)
        width = max(len(item["input_ids"]) for item in items)
        rows = torch.tensor([item["input_ids"] + [0] * (width - len(item["input_ids"])) for item in items])
        batch = {
            "input_ids" if mixer is None else "inputs": rows if mixer is None else rows.float(),
            "labels": torch.tensor([item["labels"] for item in items]),
            "truth": tuple(item["number"].value for item in items),
        }
        if mixer is not None:
            batch = mixer(batch)
        if way == "wrong" and SAMPLE_INDEX in original[0]:  # in the order that they came in
            batch[SAMPLE_INDEX] = torch.tensor([item[SAMPLE_INDEX] for item in original])
        return let_through(batch, items) if way == "right" else batch

    return collator


class Hidden:
    """Equal to any other: comparing items and batches must not use it."""

    def __init__(self, value):
        self.value = value


class OnlyForTheTest(IndexCollator):
    pass


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    parts=st.lists(st.sampled_from(PARTS), max_size=3),
    way=st.sampled_from(["right", "fixed keys", "wrong"]),
    mixer=st.sampled_from([None, None, None, mix, mix_at_random]),
    size=st.integers(3, 9),
    is_broken=st.sampled_from([0.0, 0.1, 0.4]),
    seed=st.integers(0, 10_000),
)
def test_batches_are_paired_exactly_or_refused(parts, way, mixer, size, is_broken, seed):
    random.seed(seed)
    torch.manual_seed(seed)
    generator = random.Random(seed)
    samples = [
        {
            "input_ids": [generator.randrange(2, 90) for _ in range(generator.randrange(4, 8))],
            "labels": generator.randrange(3),
            "broken": generator.random() < is_broken,
            "number": Hidden(number),
        }
        for number in range(4 * size)
    ]
    if {masked, broken_by_first} <= {*parts} and way != "right":
        return  # another sample of the same label, with other tokens each time: nobody could tell
    collator = IndexCollator(Pairing(collator_of(parts, way, mixer), NAMES), NAMES, 3)
    is_harmless = way == "right" or not ({*parts} - {masked})
    refused = ""
    for start in range(0, len(samples), size):
        indexed = [(number, samples[number]) for number in range(start, start + size)]
        try:
            batch = collator(indexed)
        except ValueError as error:
            assert "collator" in str(error) or "empty" in str(error), error
            refused = True
            break
        assert tuple(batch[SAMPLE_INDEX].tolist()) == batch["truth"]
    if is_harmless and mixer is None and not ({*parts} & {drop, shuffle}):
        assert not refused, refused
