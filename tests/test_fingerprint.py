"""A data set is the same or another, whatever holds it; and a run goes on with the same one alone."""

import logging
import random
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from helpers.toy import collate, tiny_bert, toy_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage
from torch.utils.data import ConcatDataset, StackDataset, Subset, TensorDataset
from transformers import BatchEncoding

from hf_clear import ClearLoraConfig, ClearTrainer, load_adapter
from hf_clear.identity.fingerprint import fingerprint
from hf_clear.identity.row_hashes import hashes_of_array, hashes_of_arrow

# ---- Of tables ----

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
COLUMNS = {
    "string": (pa.string(), TEXTS),
    "integer": (pa.int32(), st.integers(-3, 3)),
    "float": (pa.float32(), st.sampled_from([0.0, 0.5, -1.5])),
    "bool": (pa.bool_(), st.booleans()),
    "binary": (pa.binary(), st.binary(max_size=3)),
    "list": (pa.list_(pa.int32()), st.lists(st.one_of(st.none(), st.integers(0, 3)), max_size=3)),
    "texts": (pa.list_(pa.string()), st.lists(TEXTS, max_size=2)),
    "pair": (pa.list_(pa.float64(), 2), st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=2)),
    "struct": (
        pa.struct([("a", pa.int8()), ("b", pa.list_(pa.string()))]),
        st.fixed_dictionaries({"a": st.integers(0, 2), "b": st.lists(TEXTS, max_size=2)}),
    ),
    "category": (pa.dictionary(pa.int8(), pa.string()), st.sampled_from(["x", "y"])),
}


@st.composite
def tables(draw) -> tuple[dict[str, list], list[int]]:
    size = draw(st.integers(1, 6))
    names = draw(st.lists(st.sampled_from(sorted(COLUMNS)), min_size=1, max_size=3, unique=True))
    of_column = {name: st.lists(st.none() | COLUMNS[name][1], min_size=size, max_size=size) for name in names}
    columns = {name: draw(values) for name, values in of_column.items()}
    return columns, draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))


def table_of(columns: dict[str, list], labels: list[int], cuts: list[int] = ()) -> datasets.Dataset:
    """In as many chunks as there are `cuts`."""
    arrays = {name: pa.array(values, COLUMNS[name][0]) for name, values in columns.items()}
    arrays["labels"] = pa.array(labels, pa.int64())
    whole = pa.table(arrays)
    ends = [0, *sorted(cuts), len(whole)]
    parts = [whole.slice(begin, end - begin) for begin, end in zip(ends, ends[1:])]
    return datasets.Dataset(pa.concat_tables([whole.schema.empty_table(), *parts]), fingerprint="x")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(tables(), st.randoms(use_true_random=False))
def test_how_a_table_is_held_does_not_matter(table, rng: random.Random):
    columns, labels = table
    size = len(labels)
    expected = fingerprint(table_of(columns, labels)).as_json()
    cuts = [rng.randrange(size + 1) for _ in range(3)]
    held = table_of(dict(reversed(columns.items())), labels, cuts)
    order = rng.sample(range(size), size)
    back = np.argsort(order)
    shuffled = held.select(order)
    twice = datasets.concatenate_datasets([held, held])
    for other in (held, shuffled.select(back), twice.select(range(size, 2 * size)), held.with_format("torch")):
        assert fingerprint(other).as_json() == expected
    assert [*shuffled["labels"]] == [labels[row] for row in order]
    assert fingerprint(shuffled).rows == expected["rows"]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(tables(), st.data())
def test_every_change_of_a_table_shows(table, data):
    columns, labels = table
    first = fingerprint(table_of(columns, labels)).as_json()
    size, row = len(labels), data.draw(st.integers(0, len(labels) - 1))
    name = data.draw(st.sampled_from([*columns, "labels", "order", "row"]))
    columns, labels = {own: list(values) for own, values in columns.items()}, list(labels)
    if name == "row":
        columns, labels = {own: values[:row] + values[row + 1 :] for own, values in columns.items()}, labels[:row]
        labels += table[1][row + 1 :]
        said = rf"the number of samples ({size} -> {size - 1})"
    elif name == "order":
        order = data.draw(st.permutations(range(size)))
        columns, labels = {own: [c[i] for i in order] for own, c in columns.items()}, [labels[i] for i in order]
        said = "the order of the samples"
    elif name == "labels":
        labels[row] = (labels[row] + data.draw(st.integers(1, 3))) % 4
        said = f"the labels of 1 of {size} samples (sample {row}: {table[1][row]} -> {labels[row]})"
    else:
        columns[name][row] = data.draw(st.none() | COLUMNS[name][1])
        said = f"the inputs ({name})"
    is_same = repr((columns, labels)) == repr(table)
    found = fingerprint(table_of(columns, labels)).differences(first, np.array(table[1]))
    assert found == ([] if is_same else [said])


def test_files_and_memory_hold_the_same(tmp_path):
    data = toy_dataset(2500)
    expected = fingerprint(data).as_json()
    data.save_to_disk(tmp_path / "data", num_shards=3)
    data.to_parquet(tmp_path / "data.parquet")
    for other in (
        datasets.load_from_disk(tmp_path / "data"),
        datasets.load_from_disk(tmp_path / "data", keep_in_memory=True),
        datasets.Dataset.from_parquet(str(tmp_path / "data.parquet"), cache_dir=str(tmp_path)),
        data.map(lambda row: row, load_from_cache_file=False),
        data.select(range(2499, -1, -1)).flatten_indices().select(range(2499, -1, -1)).flatten_indices(),
        data.cast_column("labels", datasets.ClassLabel(names=["a", "b", "c", "d"])),
    ):
        assert fingerprint(other).as_json() == expected
    numpy = [fingerprint(data.with_format("numpy", columns=own)).inputs for own in (["input_ids"], None)]
    assert [list(own) for own in numpy] == [["input_ids"], ["attention_mask", "input_ids"]]


def test_images_are_not_decoded_and_transforms_do_not_run(tmp_path):
    paths = [str(tmp_path / f"{number}.png") for number in range(3)]
    for number, path in enumerate(paths):
        PillowImage.new("L", (3 + number, 3)).save(path)
    rows = {"image": [Path(paths[0]).read_bytes(), b"no image", b""], "label": [0, 1, 0]}
    images = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())

    def fail(rows):
        raise AssertionError

    first = fingerprint(images.with_transform(fail))
    assert first.not_compared == ["the transform of the data set"] and first.label_values.tolist() == [0, 1, 0]
    rows["image"][1] = b"other image"
    other = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    assert fingerprint(other).differences(first.as_json()) == ["the inputs (image)"]

    files = datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image())
    first = fingerprint(files).as_json()
    (tmp_path / "moved").mkdir()
    moved = [path.replace(str(tmp_path), str(tmp_path / "moved")) for path in paths]
    for path, other in zip(paths, moved):
        Path(path).rename(other)
    files = datasets.Dataset.from_dict({"image": moved}).cast_column("image", datasets.Image())
    assert fingerprint(files).as_json() == first
    PillowImage.new("L", (50, 50)).save(moved[1])
    assert fingerprint(files).differences(first) == ["the inputs (image)"]


# ---- Of torch Datasets ----


class Items(torch.utils.data.Dataset):
    """No item may be read."""

    def __init__(self, **attributes):
        vars(self).update(attributes)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        raise AssertionError


DATA = datasets.Dataset.from_dict({"x": ["a", "b", "c", "d"], "label": [0, 1, 2, 0]})
TEXT = {"input_ids": [[1, 2], [3], [4], [5, 6]]}
KINDS = {
    "encodings and labels": lambda x, y: Items(encodings=BatchEncoding({"input_ids": x}), labels=y, transform=print),
    "tensors of encodings": lambda x, y: Items(
        encodings={"x": torch.tensor([len(i) for i in x])}, labels=torch.tensor(y)
    ),
    "torchvision": lambda x, y: Items(data=np.array([[len(i)] * 3 for i in x], np.uint8), targets=y, classes=["a"] * 9),
    "a list of dictionaries": lambda x, y: Items(rows=[{"x": a, "label": b} for a, b in zip(x, y)]),
    "a frame": lambda x, y: Items(frame=pd.DataFrame({"x": [str(i) for i in x], "label": y})),
    "a table within": lambda x, y: Items(data=datasets.Dataset.from_dict({"x": x, "label": y})),
    "TensorDataset": lambda x, y: TensorDataset(torch.tensor([len(i) for i in x]).float(), torch.tensor(y)),
    "Subset": lambda x, y: Subset(Items(rows=[{"x": a, "labels": b} for a, b in zip(x, y)]), [0, 1, 2, 3]),
    "ConcatDataset": lambda x, y: ConcatDataset(
        [Subset(Items(x=x, labels=y), [0, 1]), Subset(Items(x=x, labels=y), [2, 3])]
    ),
    "StackDataset": lambda x, y: StackDataset(x=Items(x=x), labels=TensorDataset(torch.tensor(y))),
    "a plain list": lambda x, y: [{"x": a, "labels": b} for a, b in zip(x, y)],
}


@pytest.mark.parametrize("kind", KINDS)
def test_torch_datasets_are_compared_by_what_they_hold(kind):
    x, y = TEXT["input_ids"], [0, 1, 2, 0]
    make = KINDS[kind]
    first = fingerprint(make(x, y))
    assert fingerprint(make(x, y)).as_json() == first.as_json() and not first.not_compared
    relabelled = fingerprint(make(x, [0, 1, 1, 0])).differences(first.as_json(), first.label_values)
    assert relabelled == ["the labels of 1 of 4 samples (sample 2: 2 -> 1)"]
    assert "the inputs" in fingerprint(make([[1, 2], [3], [4], [5, 6, 7]], y)).differences(first.as_json())[0]
    order = [3, 1, 2, 0]
    reordered = make([x[i] for i in order], [y[i] for i in order])
    assert fingerprint(reordered).differences(first.as_json()) in (["the order of the samples"], [])
    assert fingerprint(Subset(make(x, y), [0, 1])).num_samples == 2


def test_token_ids_are_the_same_in_any_type():
    """`Dataset.from_dict` stores them narrower than a json file is read."""
    ids = [[101, 7, 102], [101, 102]]
    tables = [
        datasets.Dataset(pa.table({"input_ids": pa.array(ids, pa.list_(kind)), "labels": [0, 1]}))
        for kind in (pa.int16(), pa.int32(), pa.int64())
    ]
    assert len({fingerprint(table).inputs["input_ids"] for table in tables}) == 1


def test_what_can_not_be_compared_is_said():
    nothing = fingerprint(Items(transform=print, cache=[None] * 4, objects=[object()] * 4, root="data"))
    assert nothing.not_compared == ["the inputs of a Items", "the labels of a Items"] and not nothing.inputs
    first = fingerprint(Items(x=[1, 2, 3, 4], labels=[0, 1, 0, 1])).as_json()
    more = Items(x=[1, 2, 3, 4], labels=[0, 1, 0, 1], cache=[1, 2, 3, 4])  # filled since
    assert fingerprint(more).differences(first) == []
    own = [fingerprint(Items(fingerprint=name, order=[3, 2, 1, 0])) for name in ("version 1", "version 2")]
    assert own[1].differences(own[0].as_json()) == ["the inputs (fingerprint)"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.bool, torch.int8])
def test_tensors_of_any_type(dtype):
    tensor = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).to(dtype)
    hashes = hashes_of_array(tensor)
    assert len(set(hashes.tolist())) == 3 and (hashes == hashes_of_array(tensor.t().contiguous().t())).all()


def test_rare_arrow_types_and_what_is_behind_a_null():
    arrays = [
        pa.array([1, None, 3], pa.timestamp("ms")),
        pa.array(["1.5", "2.5", None]).cast(pa.decimal128(5, 2)),
        pa.array([[("a", 1)], [], None], pa.map_(pa.string(), pa.int8())),
        pa.array(["a", "b", None], pa.string_view()),
        pa.array([[1], None, [2, 3]], pa.large_list(pa.int16())),
        pa.array([None, None, None]),
    ]
    for array in arrays:
        assert len(hashes_of_arrow(array)) == 3 and (hashes_of_arrow(array)[1:] == hashes_of_arrow(array[1:])).all()
        assert len(set(hashes_of_arrow(array).tolist())) == (1 if pa.types.is_null(array.type) else 3)
    behind = pa.Array.from_buffers(pa.int32(), 2, [pa.py_buffer(b"\x01"), pa.py_buffer(b"\1\0\0\0\2\0\0\0")])
    assert (hashes_of_arrow(behind) == hashes_of_arrow(pa.array([1, None], pa.int32()))).all()


# ---- Of runs ----


def changed(data: datasets.Dataset, column: str, row: int, value) -> datasets.Dataset:
    values = list(data[column])
    values[row] = value
    return data.remove_columns(column).add_column(column, values, feature=data.features[column])


def test_a_run_goes_on_with_the_same_data_settings_and_model_alone(training_arguments, caplog):
    data = toy_dataset(24)

    def trainer(data=data, model=None, config=None, **arguments) -> ClearTrainer:
        return ClearTrainer(
            tiny_bert() if model is None else model,
            training_arguments(clear_warmup_epochs=1, save_strategy="epoch", **{"num_train_epochs": 2, **arguments}),
            train_dataset=data,
            data_collator=collate,
            peft_config=ClearLoraConfig(task_type="SEQ_CLS", **(config or {"r": 4})),
        )

    trainer().train()
    other_model = tiny_bert()
    other_model.bert.encoder.layer[1].output.dense.weight.data += 1
    refused = {
        r"the labels of 1 of 24 samples \(sample 5: 1 -> 3\).*load_adapter": {"data": changed(data, "labels", 5, 3)},
        r"the inputs \(input_ids\)": {"data": changed(data, "input_ids", 5, [1, 4, 4])},
        "the order of the samples": {"data": data.shuffle(seed=0)},
        r"the number of samples \(24 -> 23\)": {"data": data.select(range(23))},
        r"learning_rate: 0.01 -> 0.02, weight_decay: 0.0 -> 0.1": {"learning_rate": 0.02, "weight_decay": 0.1},
        r"clear_gamma: 0.9 -> 0.5": {"clear_gamma": 0.5},
        r"per_device_train_batch_size: 8 -> 4": {"per_device_train_batch_size": 4},
        r"peft_config.lora_alpha: 8 -> 3": {"config": {"r": 4, "lora_alpha": 3}},
        r"hidden_dropout_prob: 0.1 -> 0.3": {"model": tiny_bert(hidden_dropout_prob=0.3)},
        r"another base model \(weights .*layer.1.output.dense.weight;": {"model": other_model},
    }
    for message, arguments in refused.items():
        with pytest.raises(ValueError, match=f"checkpoint-6 is of a run with .*{message}"):
            trainer(**arguments).train(resume_from_checkpoint=True)
    with caplog.at_level(logging.WARNING):
        transformed = data.with_transform(lambda rows: dict(rows))
        trainer(transformed, num_train_epochs=3, gradient_checkpointing=True).train(resume_from_checkpoint=True)
    assert caplog.text.count("What can't be compared with the run before") == 1
    trainer(data.add_column("note", ["unused"] * 24), num_train_epochs=4).train(resume_from_checkpoint=True)
    last = str(Path(training_arguments().output_dir) / "checkpoint-12")
    loaded = load_adapter(tiny_bert(), last, is_trainable=True)  # as some do before they resume
    arguments = training_arguments(clear_warmup_epochs=1, num_train_epochs=5)
    ClearTrainer(loaded, arguments, train_dataset=data, data_collator=collate).train(resume_from_checkpoint=last)


def test_labels_that_only_items_tell_are_compared_at_the_next_refit(training_arguments):
    class Computed(torch.utils.data.Dataset):
        def __init__(self, shift: int = 0):
            self.items, self.shift = iter(()), shift

        def __len__(self):
            return 24

        def __getitem__(self, index):
            return {**toy_dataset(24)[index], "labels": (index + self.shift * (index == 9)) % 4}

    def trainer(shift: int = 0) -> ClearTrainer:
        return ClearTrainer(
            tiny_bert(),
            training_arguments(clear_warmup_epochs=1, save_strategy="epoch", num_train_epochs=3 if shift else 2),
            train_dataset=Computed(shift),
            data_collator=collate,
            peft_config=ClearLoraConfig(task_type="SEQ_CLS", r=4),
        )

    trainer().train()
    with pytest.raises(ValueError, match="Sample 9 has the label 2, and had 1 in the run that this one goes on with"):
        trainer(shift=1).train(resume_from_checkpoint=True)
