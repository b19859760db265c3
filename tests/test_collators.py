"""A row of a batch is the sample that it says, or the collator is refused."""

import collections
import random

import datasets
import numpy as np
import pytest
import torch
from helpers.toy import NUM_LABELS, collate, tiny_bert, toy_dataset
from helpers.trainers import lora_model
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import (
    BatchEncoding,
    DataCollatorForLanguageModeling,
    DataCollatorForMultipleChoice,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

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


# ---- The collators of transformers ----

TOKENIZER = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(models.WordLevel({f"w{i}": i for i in range(60)}, unk_token="w1")),
    pad_token="w0",
    mask_token="w2",
)


def texts(label):
    rows = toy_dataset(8).remove_columns("labels")
    return [{**row, **({} if label is None else {"labels": label(row, i)})} for i, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("collator", "items"),
    [
        (DataCollatorWithPadding(TOKENIZER), texts(lambda row, i: i % 4)),
        (DataCollatorForTokenClassification(TOKENIZER), texts(lambda row, i: [t % 4 for t in row["input_ids"]])),
        (DataCollatorForSeq2Seq(TOKENIZER), texts(lambda row, i: row["input_ids"][2:])),
        (DataCollatorForLanguageModeling(TOKENIZER, mlm=False), texts(None)),
        (DataCollatorForLanguageModeling(TOKENIZER), texts(None)),
        (DataCollatorForLanguageModeling(TOKENIZER, seed=3), texts(None)),
        (default_data_collator, [{"pixel_values": np.full((3, 4, 4), i), "label": i % 4} for i in range(8)]),
    ],
    ids=["padding", "token classification", "seq2seq", "causal LM", "masked LM", "own seed", "default"],
)
@pytest.mark.parametrize("kind", [dict, BatchEncoding, collections.UserDict], ids=lambda kind: kind.__name__)
def test_the_index_travels_through_the_collators_of_transformers(collator, items, kind):
    """All else is as without it to the last bit, random masks too; items are not touched."""
    if kind is not dict and collator is default_data_collator:
        items = [{"input_ids": [i] * 4, "label": i % 4} for i in range(8)]
    items = [kind(item) for item in items]
    if hasattr(collator, "generator"):
        collator.generator = None
    torch.manual_seed(5)
    random.seed(5)
    stock = [collator([kind(item) for item in items]) for _ in range(2)]
    end = torch.get_rng_state()
    if hasattr(collator, "generator"):
        collator.generator = None
    torch.manual_seed(5)
    random.seed(5)
    pairing = Pairing(collator, NAMES)
    ours = IndexCollator(pairing, ())
    for expected in stock:
        batch = ours(list(zip(range(10, 18), items)))
        assert batch.pop(SAMPLE_INDEX).tolist() == list(range(10, 18))
        assert batch.keys() == expected.keys() and all(torch.equal(batch[name], expected[name]) for name in batch)
    assert pairing.travels and torch.equal(end, torch.get_rng_state())
    assert all(SAMPLE_INDEX not in item for item in items)


def appending(items):
    for item in items:
        item["input_ids"].append(2)
        item["attention_mask"].append(1)
    return collate([{**item, "labels": item.pop("labels")} for item in items])


@pytest.mark.parametrize("kind", [dict, BatchEncoding], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "collator", [DataCollatorForMultipleChoice(TOKENIZER), appending], ids=["choices", "appending"]
)
def test_a_collator_may_change_the_items_that_it_is_given(collator, kind):
    """Every batch is that of fresh items, and labels are held against it all the same."""

    def items():
        rows = texts(lambda row, i: i % 4)
        if collator is not appending:
            rows = [
                {name: row[name] if name == "labels" else [row[name], row[name][:4]] for name in row} for row in rows
            ]
        return [kind(row) for row in rows]

    expected, pairing = collator(items()), Pairing(collator, NAMES)
    ours = IndexCollator(pairing, NAMES, 4)
    for _ in range(2):
        batch = ours([*enumerate(items())])
        assert batch.pop(SAMPLE_INDEX).tolist() == list(range(8))
        assert batch.keys() == expected.keys() and all(torch.equal(batch[name], expected[name]) for name in batch)
    pairing.collator = lambda items: collator(items[::-1])
    with pytest.raises(ValueError, match="should be sample"):
        ours([*enumerate(items())])


def test_rows_of_fixed_keys_and_of_items_that_are_no_dicts():
    """Tuples, objects; a collator that would make an input of the index."""
    images, classes = torch.randn(12, 3, 4, 4), [i % 3 for i in range(12)]
    item = collections.namedtuple("item", ["pixels", "label"])

    def stack(items):
        return {"pixel_values": torch.stack([x for x, _ in items]), "labels": torch.tensor([y for _, y in items])}

    def numbers(items):
        table = [[float(value) for name, value in item.items() if name != "labels"] for item in items]
        return {"x": torch.tensor(table), "labels": torch.tensor([item["labels"] for item in items])}

    def swap(items):  # from some sample on
        order = sorted(range(len(items)), key=lambda i: items[i][0].mean() if len(items) == 6 else i)
        return stack([items[i] for i in order])

    def of(collator, items, start=0):
        return IndexCollator(Pairing(collator, NAMES), NAMES, 3)([*enumerate(items, start)])

    for kind in (tuple, lambda pair: item(*pair)):
        assert of(stack, map(kind, zip(images, classes)), 7)[SAMPLE_INDEX].tolist() == list(range(7, 19))
    flat = [{"a": float(i), "b": i / 2, "labels": i % 3} for i in range(6)]
    assert of(numbers, flat)["x"].shape == (6, 2)
    with pytest.raises(ValueError, match=r"(?s)Row \d of a batch should be sample \d.*`.*swap`.*SAMPLE_INDEX"):
        of(swap, [*zip(images[:6], [1] * 5 + [2])])


# ---- Training ----


def dropping(items):
    kept = [item for item in items if item["input_ids"][1] % 5]
    return collate(kept)


def dropping_and_telling(items):
    kept = [item for item in items if item["input_ids"][1] % 5]
    return let_through(collate(kept), kept)


def sorting(items):
    return collate(sorted(items, key=lambda item: len(item["input_ids"])))


@pytest.mark.parametrize(
    "settings", [{}, {"clear_loss_source": "online"}, {"clear_ensemble_source": "epoch", "dataloader_num_workers": 1}]
)
def test_samples_that_a_collator_drops_are_missing_and_no_evidence(training_arguments, settings, caplog):
    data = toy_dataset(24)
    dropped = [i for i, tokens in enumerate(data["input_ids"]) if tokens[1] % 5 == 0]
    assert 2 < len(dropped) < 8
    trainer = ClearTrainer(
        lora_model(),
        training_arguments(clear_warmup_epochs=1, **settings),
        train_dataset=data,
        data_collator=dropping_and_telling,
    )
    trainer.train()
    store = trainer.sample_store
    missing = torch.zeros(24, dtype=torch.bool)
    missing[dropped] = True
    assert torch.equal(store.losses.isnan(), missing) and torch.equal(store.labels == -100, missing)
    assert store.labels[~missing].tolist() == [i % NUM_LABELS for i in range(24) if i not in dropped]
    assert f"never returned {len(dropped)} of 24" in caplog.text
    expected = per_sample_losses(trainer)  # with the model as it is after training
    assert np.array_equal(np.isnan(expected), missing.numpy())
    logs = [entry for entry in trainer.state.log_history if "non_finite_losses" in entry]
    assert {entry["non_finite_losses"] for entry in logs} == {len(dropped)}


@pytest.mark.parametrize(
    ("collator", "message"),
    [
        (sorting, "`sorting`.*SAMPLE_INDEX"),
        (dropping, r"`dropping` made \d rows of \d samples.*SAMPLE_INDEX"),
    ],
)
def test_a_collator_that_nobody_can_follow_is_refused(training_arguments, turn, collator, message):
    """Before the first step; of samples that are dropped, none may be among the first."""
    data = toy_dataset(24)
    if collator is dropping:
        data = data.select([i for i, tokens in enumerate(data["input_ids"]) if tokens[1] % 5 == 0] * 6)
        data = datasets.concatenate_datasets([toy_dataset(24).select([1, 2]), data])
    clear = ClearTrainer(lora_model(), training_arguments(), train_dataset=data, data_collator=collator)
    with pytest.raises(ValueError, match=message):
        clear.train()
    assert clear.state.global_step == 0
    stock = Trainer(tiny_bert(), training_arguments(TrainingArguments), train_dataset=data, data_collator=collator)
    with pytest.raises(ValueError, match=message):
        per_sample_losses(stock)
    trainer = turn(data)
    trainer.data_collator = collator
    with pytest.raises(ValueError, match=message):
        trainer.train()


def test_a_transform_that_drops_samples(training_arguments):
    def transform(rows):
        kept = [i for i, tokens in enumerate(rows["input_ids"]) if tokens[1] % 5]
        return {name: [values[i] for i in kept] for name, values in rows.items()}

    trainer = ClearTrainer(
        lora_model(),
        training_arguments(remove_unused_columns=False),
        train_dataset=toy_dataset(24).with_transform(transform),
        data_collator=collate,
    )
    with pytest.raises(ValueError, match=r"The data set returned \d items for \d samples"):
        list(trainer.get_train_dataloader())
