"""Labels and texts stay as they are written, and the file that is named is the one that is read."""

import csv
import json
import logging
import os
import re

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict
from helpers.texts import rows, write
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hf_clear.data import check_file, labelled_texts, read_files, read_folder, renumber
from hf_clear.noise import load_transition_matrix
from hf_clear.runs import save_predictions

often = settings(max_examples=300, deadline=None, derandomize=True)
# No surrogates, which are no text, and no NUL, which is refused.
any_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
words = st.sampled_from(["001", "1.0", "1e3", "True", "NaN", "null", "-1", "0", "10", "9", " good", "good ", "Good"])


@pytest.fixture(scope="module", autouse=True)
def no_fingerprints():
    """Which take most of the time of a small data set."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.arrow_dataset.generate_fingerprint", lambda dataset: "fingerprint")
        yield


def read_labels(folder, labels, test=None):
    """Written to csv by Python's `csv`, read back, encoded."""
    files = {}
    for split, column in {"train": labels, "test": test}.items():
        if column is not None:
            files[split] = folder / f"{split}.csv"
            with open(files[split], "w", newline="", encoding="utf-8") as file:
                csv.writer(file, quoting=csv.QUOTE_ALL).writerows(
                    [("text", "label"), *(("x", label) for label in column)]
                )
    return labelled_texts(read_files(files, ["text", "label"]))


# ---- Labels ----


@often
@given(st.lists(any_text | words | st.integers().map(str), min_size=2, max_size=12))
@example(["10", "9", "1"])
@example(["-1", "0", "1"])
@example(["1", "01", "1.0"])
@example(["a\r\nb", 'a"b', "a,b", "a\tb"])
@example(["\ufeff", "a"])
def test_a_class_for_each_text(tmp_path_factory, labels):
    folder = tmp_path_factory.getbasetemp()
    numbers = all(re.fullmatch("0|-?[1-9][0-9]*", label) for label in labels if label)
    try:
        splits, names = read_labels(folder, labels)
    except ValueError as error:
        nothing = [label for label in labels if label.strip().lower() in ("", "nan", "null")]
        assert nothing and "label is missing" in str(error) or len(set(labels)) == 1 and "single class" in str(error)
        return
    assert [names[number] for number in splits["train"]["label"]] == labels
    assert set(names) == set(labels) and len(names) == len(set(labels))
    in_64_bits = numbers and all(-(2**63) <= int(label) < 2**63 for label in labels)
    assert names == sorted(names, key=int if in_64_bits else None)
    save_predictions([[i == number for i in range(len(names))] for number in splits["train"]["label"]], names,
                     folder / "p.txt")  # fmt: skip
    header, *lines = (folder / "p.txt").read_text("utf-8").splitlines()
    shown = [line.split("\t")[1] for line in lines]
    assert header == "index\tprediction" and all(len(line.split("\t")) == 2 for line in lines)
    assert [json.loads(name) if name.startswith('"') else name for name in shown] == labels


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["1.0", "2.0", "10.0"], ["1.0", "10.0", "2.0"]),
        (["001", "1", "01"], ["001", "01", "1"]),
        (["True", "False"], ["False", "True"]),
        (["1e3", "1000"], ["1000", "1e3"]),
        (["2", "10", "-1"], ["-1", "2", "10"]),
        (["nan", "None", "a"], ["None", "a", "nan"]),
    ],
)
def test_a_csv_file_has_no_types(tmp_path, labels, names):
    assert read_labels(tmp_path, labels)[1] == names


def test_types_of_json_and_parquet(tmp_path):
    for labels, names in (([1.0, 2.0, 10.0], ["1", "2", "10"]), ([1, -1, 0], ["-1", "0", "1"])):
        for suffix in ("jsonl", "parquet"):
            path = write(rows(3).assign(label=labels), tmp_path / f"train.{suffix}")
            splits, found = labelled_texts(read_files({"train": path}))
            assert found == names and [float(found[i]) for i in splits["train"]["label"]] == labels
    # As they were numbered always: texts go by their characters.
    path = write(rows(3).assign(label=["10", "9", "1"]), tmp_path / "texts.jsonl")
    (tmp_path / "texts.jsonl").write_text('{"text": "x", "label": "10"}\n{"text": "x", "label": "9"}\n')
    assert labelled_texts(read_files({"train": path}))[1] == ["10", "9"]


def test_look_alikes_are_told_apart_with_one_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        _, names = read_labels(tmp_path, [" good", "good ", "Good", "bad", "1", "1.0", "01"])
    assert len(names) == 7 and len(caplog.records) == 1
    assert "' good' and 'Good' and 'good '" in caplog.text and "'01' and '1' and '1.0'" in caplog.text
    caplog.clear()
    read_labels(
        tmp_path, ["red", "red\u200b", "caf\u00e9", "cafe\u0301"]
    )  # a blank without width; an accent of its own
    assert r"'red' and 'red\u200b'" in caplog.text and r"'cafe\u0301' and 'caf\xe9'" in caplog.text
    caplog.clear()
    read_labels(tmp_path, ["0.5", "1.5", "2.5"])
    assert "The labels are numbers such as 0.5 and 2.5: each of the 3 is a class" in caplog.text
    caplog.clear()
    assert read_labels(tmp_path, ["good", "nan", "None"])[1] == ["None", "good", "nan"]
    assert "Labels that look missing are taken for classes: 'None', 'nan'. If" in caplog.text


def test_a_blank_in_a_header_shows(tmp_path):
    (tmp_path / "train.csv").write_text("text, label\nx,a\ny,b\n")
    with pytest.raises(ValueError, match=r"no column 'label' .*There are: text, ' label'\. Did you mean ' label'\?"):
        labelled_texts(read_files({"train": tmp_path / "train.csv"}))
    (tmp_path / "train.csv").write_text("Text,labels\nx,a\ny,b\n")
    with pytest.raises(ValueError, match="no column 'text' .*Did you mean 'Text'"):
        labelled_texts(read_files({"train": tmp_path / "train.csv"}))


# ---- Test data without labels ----


@pytest.mark.parametrize(
    ("labels", "test", "expected"),
    [
        (["a", "b"], ["b", "", "-1", "a"], [1, -1, -1, 0]),
        (["0", "1"], ["-1", "-1"], [-1, -1]),
        (["-1", "0"], ["-1", "0", ""], [0, 1, -1]),
        (["1", "2"], ["2.0", "", "1.0"], [1, -1, 0]),  # as pandas writes a column with gaps
        (["a", "b"], ["", ""], [-1, -1]),
    ],
)
def test_unlabelled(tmp_path, labels, test, expected):
    assert read_labels(tmp_path, labels, test)[0]["test"]["label"][:] == expected


def test_unlabelled_is_test_data_alone(tmp_path, caplog):
    splits = {"train": Dataset.from_pandas(rows(6)), "test": Dataset.from_pandas(rows(4).drop(columns="label"))}
    assert labelled_texts(splits)[0]["test"]["label"][:] == [-1] * 4
    assert "The test data have no column 'label': they get predictions, and no accuracy" in caplog.text
    with pytest.raises(ValueError, match="The validation data have no column 'label'"):
        labelled_texts({"train": splits["train"], "validation": splits["test"]})
    with pytest.raises(ValueError, match="Row 1 of the validation data .*: the label is missing"):
        labelled_texts({**splits, "validation": Dataset.from_dict({"text": ["x"] * 2, "label": ["red", None]})})
    with pytest.raises(ValueError, match="Row 0 of the test data .* '-100', which no training sample has"):
        labelled_texts({**splits, "test": Dataset.from_dict({"text": ["x"], "label": ["-100"]})})


def test_splits_that_number_their_classes_otherwise():
    train, test = Dataset.from_dict({"text": ["x", "y"]}), Dataset.from_dict({"text": ["x", "y", "z"]})
    train = train.add_column("label", [0, 1], feature=ClassLabel(names=["no", "yes"]))
    test = test.add_column("label", [0, 1, -1], feature=ClassLabel(names=["yes", "no"]))
    splits, names = labelled_texts({"train": train, "test": test})
    assert names == ["no", "yes"] and splits["test"]["label"][:] == [1, 0, -1]
    splits = DatasetDict(splits)
    splits["train"] = splits["train"].add_column("true_label", [-100, 0])
    turned = renumber(splits, ["yes", "no"])
    assert turned["train"]["label"][:] == [1, 0] and turned["train"]["true_label"][:] == [-100, 1]
    assert turned["test"]["label"][:] == [0, 1, -1] and turned["test"].features["label"].names == ["yes", "no"]
    assert turned["train"].column_names == splits["train"].column_names


# ---- Columns that are not used ----


def test_columns_that_are_not_used_may_be_of_any_type(tmp_path):
    odd = [1, "a", None, [1, "b"], {"x": {"y": 10**30}}]
    lines = [json.dumps({"text": f"x{i}", "label": "ab"[i % 2], "odd": odd[i]}) for i in range(5)]
    (tmp_path / "lines.jsonl").write_text("\n".join(lines))
    (tmp_path / "list.json").write_text("[" + ",\n".join(lines) + "]")
    with pytest.raises(
        ValueError, match="lines.jsonl: .* column 'odd' has values of several types: row 1 .*'a', a str"
    ):
        read_files({"train": tmp_path / "lines.jsonl"})
    table = pa.table(
        {
            "text": [f"x{i}" for i in range(5)],
            "label": pa.array(list("ababa")).dictionary_encode(),
            "bytes": [b"\xff"] * 5,
            "map": pa.array([[("k", 1)]] * 5, pa.map_(pa.string(), pa.int32())),
            "decimal": pa.array([None] * 5, pa.decimal128(5, 2)),
            "struct": [{"a": [1]}] * 5,
            "span": pa.array([1] * 5, pa.duration("s")),
        }
    )
    pq.write_table(table, tmp_path / "train.parquet")
    for name in ("lines.jsonl", "list.json", "train.parquet"):
        splits = read_files({"train": tmp_path / name}, ["text", "label"])
        splits, names = labelled_texts(splits)
        assert names == ["a", "b"] and splits["train"]["text"][:] == [f"x{i}" for i in range(5)]
    with pytest.raises(ValueError, match="no column 'txt' .*There are: text, label, odd. Did you mean 'text'"):
        labelled_texts(read_files({"train": tmp_path / "list.json"}, ["txt", "label"]), ["txt"])


def test_class_labels_in_parquet(tmp_path):
    data = Dataset.from_dict({"text": ["x", "y"], "other": [1, 2]})
    data = data.add_column("label", [1, 0], feature=ClassLabel(names=["yes", "no"]))
    data.to_parquet(tmp_path / "train.parquet")
    assert labelled_texts(read_files({"train": tmp_path / "train.parquet"}, ["text", "label"]))[1] == ["yes", "no"]


def test_rows_of_other_lengths(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\nx,1,a\ny,2,b\n")  # pandas would take the texts for an index
    with pytest.raises(ValueError, match="train.csv: can't be read as csv .*same columns"):
        read_files({"train": tmp_path / "train.csv"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('"x"\n', "line 1 is no object"),
        ('{"text": "\\ud800", "label": 1}\n', "column 'text' has no one type"),
        ("[" * 100_000, "is damaged"),
        ('{"text": "x", "label": 1}\n[1]\n', "line 2 is no object"),
        ('[{"text": "x"}, 3]', r"row 1 \(counted from 0\) is no object"),
    ],
)
def test_json_that_is_none(tmp_path, content, message):
    (tmp_path / "train.json").write_text(content)
    with pytest.raises(ValueError, match=f"train.json: can't be read as json: .*{message}"):
        read_files({"train": tmp_path / "train.json"})


# ---- Names of files ----

odd_names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12)
pieces = st.lists(st.sampled_from(list("*?[]{}!~#%: ,.-\n\\'\"$é") + ["e\u0301", "**", "::", "zip://"]), min_size=1)
pieces = pieces.map(lambda parts: "".join(parts).replace("/", "")[:40])


@often
@given(odd_names | pieces, st.sampled_from(["csv", "json", "parquet"]))
@example("run[1]", "csv")
@example("zip:::x", "csv")
@example("-x", "json")
@example(os.fsdecode(b"\xff\xfe"), "csv")
def test_the_file_that_is_named_is_read(tmp_path_factory, name, suffix):
    folder = tmp_path_factory.getbasetemp() / "names"
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.{suffix}"
    frame = pd.DataFrame({"text": [repr(name)] * 2, "label": ["a", "b"]})
    with open(path, "wb") as file:
        if suffix == "parquet":
            frame.to_parquet(file)
        elif suffix == "csv":
            frame.to_csv(file, index=False)
        else:
            frame.to_json(file, orient="records", lines=True)
    try:
        (folder / "decoy.csv").write_text("text,label\ndecoy,a\n")
        assert read_files({"train": str(path)})["train"]["text"][0] == repr(name)
        before = os.getcwd()
        os.chdir(folder)
        try:  # relative, where "-" and "~" come first
            assert read_files({"train": path.name})["train"]["text"][0] == repr(name)
        finally:
            os.chdir(before)
    finally:
        path.unlink()
    with pytest.raises(ValueError, match="there is no such file"):
        check_file(str(path))


def test_what_is_no_file(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "nowhere.csv").symlink_to(tmp_path / "gone.csv")
    (tmp_path / "link.csv").symlink_to(write(rows(3), tmp_path / "train.csv"))
    for name, message in (("folder", "is a folder"), ("pipe", "no regular file"), ("nowhere", "leads nowhere")):
        with pytest.raises(ValueError, match=message):
            read_files({"train": tmp_path / f"{name}.csv"})
    for address in ("file://" + str(tmp_path / "train.csv"), "~/train.csv", str(tmp_path / "*.csv")):
        with pytest.raises(ValueError, match="there is no such file"):
            read_files({"train": address})
    assert len(read_files({"train": tmp_path / "link.csv"})["train"]) == 3


def test_what_is_read_is_what_is_there_now(tmp_path):
    path, stamps = tmp_path / "train.csv", (1_700_000_000, 1_700_000_000)
    for label in ("a", "b"):
        path.write_text(f"text,label\nx,{label}\n")
        os.utime(path, stamps)
        assert read_files({"train": path})["train"]["label"][:] == [label]
        assert read_folder(tmp_path)["train"]["label"][:] == [label]


def test_a_folder_by_its_name(tmp_path):
    for name, label in (("run1", "decoy"), ("run[1]", "001"), ("a::b", "x")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train-0.csv").write_text(f"text,label\nx,{label}\n")
        (tmp_path / name / "train-1.csv").write_text(f"text,label\ny,{label}\n")
        (tmp_path / name / "test.csv").write_text("text,label\nz,1.0\n")
    splits = read_folder(tmp_path / "run[1]")
    assert splits["train"]["label"][:] == ["001", "001"] and splits["test"]["label"][:] == ["1.0"]
    assert read_folder(tmp_path / "a::b")["train"]["text"][:] == ["x", "y"]
    (tmp_path / "run[1]" / "train-2.txt").write_text("for `datasets`")
    with pytest.raises(ValueError, match="take this name for a pattern"):
        read_folder(tmp_path / "run[1]")


def test_a_matrix_by_its_name(tmp_path):
    (tmp_path / "m1.csv").write_text("1,0\n0,1\n")
    (tmp_path / "m[1].csv").write_text("0.5,0.5\n0,1\n")
    assert load_transition_matrix(tmp_path / "m[1].csv")[0, 0] == 0.5


def test_a_whole_number_with_and_without_a_fraction_is_one_class(tmp_path):
    """pandas writes integers of a column with gaps as floats: in one of the files, say."""
    (tmp_path / "train.csv").write_text("text,label\na,1.0\nb,2.0\n")
    (tmp_path / "test.csv").write_text("text,label\na,2\nb,1\nc,-1.0\nd,\n")
    splits = read_files({name: tmp_path / f"{name}.csv" for name in ("train", "test")})
    splits, names = labelled_texts(splits)
    assert (names, splits["test"]["label"][:]) == (["1.0", "2.0"], [1, 0, -1, -1])
