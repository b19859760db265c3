"""Texts and labels from splits: of any kind, checked and numbered."""

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Value
from helpers.texts import COLORS, rows

from hf_clear.data import check_columns, labelled_texts

WORKS = None


def train_of(frame: pd.DataFrame, **more):
    splits = {"train": Dataset.from_pandas(frame), **{k: Dataset.from_pandas(v) for k, v in more.items()}}
    return splits


def set_cell(column: str, row: int, value):
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame[column] = frame[column].astype(object)
        frame.loc[row, column] = value
        return frame

    return change


def numbered(change):
    return lambda frame: change(frame.assign(label=frame["label"].map(COLORS.index)))


def labels_of(*values):
    return lambda frame: frame.assign(label=[values[i % len(values)] for i in frame.index])


TABLES = {
    "no samples": (lambda f: f.head(0), "^The data set: there are no training samples"),
    "no text column": (lambda f: f.rename(columns={"text": "t"}), "no column 'text' .`text_columns`.*There are: id, t"),
    "no label column": (lambda f: f.drop(columns="label"), "no column 'label' .`label_column`"),
    "one column": (lambda f: f[["label"]], "no column 'text'.*columns have to be separated by commas"),
    "empty text": (set_cell("text", 7, ""), "Row 7 of the train data .* column 'text' is empty"),
    "blank text": (set_cell("text", 7, "  "), "Row 7 of the train data .* column 'text' is empty"),
    "texts are numbers": (lambda f: f.assign(text=f.id), "Row 0 .* 'text' is no text but 0"),
    "missing label": (set_cell("label", 4, None), "Row 4 .* the label is missing"),
    "missing number": (numbered(lambda f: f.assign(label=f.label.where(f.id != 4))), "Row 4 .* the label is missing"),
    "float labels": (numbered(lambda f: f.assign(label=f.label + 0.5)), "Row 0 .*: the label is 0.5, a float"),
    "negative labels": (numbered(lambda f: f.assign(label=f.label - 1)), ["-1", "0", "1"]),
    "one class": (lambda f: f.assign(label="red"), "single class .red."),
    "one number": (labels_of(7), r"single class \(7\)"),
    "NaN": (labels_of(1.0, float("nan")), "Row 1 .*the label is missing"),
    "blank label": (labels_of("a", " "), "Row 1 .*the label is missing"),
    "infinite": (labels_of(1.0, float("inf")), "Row 1 .*: the label is inf, a float"),
    "lists": (labels_of([1], [2]), r"the label is \[1\]. It has to be one class"),
    "objects": (labels_of({"a": 1}, {"a": 2}), "the label is {'a': 1}. It has to be one class"),
    "bools": (labels_of(True, False), ["False", "True"]),
    "long": (labels_of("a" * 10_000, "b" * 10_000), ["a" * 10_000, "b" * 10_000]),
    "one sample a class": (labels_of(*range(30)), [str(i) for i in range(30)]),
    "numbers with gaps": (labels_of(9, 2, 5), ["2", "5", "9"]),
}


@pytest.mark.parametrize("case", TABLES)
def test_tables(case):
    change, expected = TABLES[case]
    splits = train_of(change(rows(30)))
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            labelled_texts(splits)
        return
    labelled, names = labelled_texts(splits)
    assert names == expected and labelled["train"].features["label"].names == names
    given = [str(label) for label in splits["train"]["label"]]
    assert [names[label] for label in labelled["train"]["label"]] == given


def test_ten_thousand_named_classes():
    feature = ClassLabel(names=[f"class {i}" for i in range(10_000)])
    data = Dataset.from_dict({"text": rows(30)["text"]})
    data = data.add_column("label", list(range(0, 9999, 334)), feature=feature)
    labelled, names = labelled_texts({"train": data})
    assert len(names) == 10_000 and labelled["train"]["label"][:] == data["label"][:]


def test_only_the_columns_that_are_named_are_left():
    names = ["row", "true_label", "labels", "token_type_ids", "sample_index", "label_ids"]
    frame = rows(6, label="category", text="label").assign(**{name: "x" for name in names}, other="y")
    splits = train_of(frame, validation=frame, test=frame, unsupervised=frame)
    labelled, _ = labelled_texts(splits, ["label", "other"], "category")
    assert list(labelled) == ["train", "validation", "test"]
    for split in labelled.values():
        assert split.column_names == ["text", "text_pair", "label"]
    assert labelled["train"]["text"][:] == list(frame["label"]) and set(labelled["train"]["text_pair"]) == {"y"}


def test_a_label_that_no_training_sample_has():
    with pytest.raises(ValueError, match="Row 2 of the test data .* 'purple', which no training sample"):
        labelled_texts(train_of(rows(9), test=rows(9).replace({"blue": "purple"})))


def test_arguments_under_the_names_that_a_user_knows():
    with pytest.raises(ValueError, match="no column 'text' .--text_column_name."):
        labelled_texts(train_of(rows(3).drop(columns="text")), options={"text_columns": "--text_column_name"})
    with pytest.raises(ValueError, match="^my.csv: there are no training samples"):
        labelled_texts({"test": Dataset.from_pandas(rows(3))}, source="my.csv")
    with pytest.raises(ValueError, match="The test data have no column 'truth' .--truth."):
        check_columns(Dataset.from_pandas(rows(3)), {"text": "--text", "truth": "--truth"}, "test")


# ---- True labels ----


@pytest.mark.parametrize("kind", [str, lambda name: COLORS.index(name), lambda name: float(COLORS.index(name))])
def test_the_truth_for_some(kind):
    """Given by name, as a number, and as pandas reads a column of numbers with gaps."""
    frame = rows(12)
    label = kind if kind is str else COLORS.index
    truth = [kind(name) if row % 2 == 0 else None for row, name in enumerate(frame["label"])]
    table = frame.assign(label=[label(name) for name in frame["label"]], truth=truth)
    labelled, _ = labelled_texts(train_of(table, test=table), clean_label_column="truth")
    expected = [given if row % 2 == 0 else -100 for row, given in enumerate(labelled["train"]["label"])]
    assert labelled["train"]["true_label"][:] == expected
    assert "true_label" not in labelled["test"].column_names


def test_a_truth_that_numbers_its_classes_otherwise():
    frame = rows(60)
    data = Dataset.from_dict({"text": frame["text"], "label": frame["label"], "truth": frame["label"]})
    data = data.cast_column("label", ClassLabel(names=["red", "green", "blue"]))
    for kind in (ClassLabel(names=["blue", "green", "red"]), Value("string")):
        labelled, _ = labelled_texts({"train": data.cast_column("truth", kind)}, clean_label_column="truth")
        assert labelled["train"]["true_label"][:] == labelled["train"]["label"][:] == data["label"][:]


def test_a_truth_of_no_class():
    with pytest.raises(ValueError, match="Row 0 of the train data .* true label 'purple', which is no label"):
        labelled_texts(train_of(rows(9).assign(truth="purple")), clean_label_column="truth")
    with pytest.raises(ValueError, match="no column 'truth' .`clean_label_column`"):
        labelled_texts(train_of(rows(9)), clean_label_column="truth")
