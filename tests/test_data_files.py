"""Data files that are damaged, hostile or odd: each works, or is refused with a reason before training."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset
from test_run_glue_noisy import rows, script, write  # noqa: F401
from transformers import Trainer

WORKS = None


def data(content: str | bytes, extension: str = "csv", *arguments: str):
    """A training file as it is written here."""

    def build(tmp_path: Path) -> list[str]:
        path = tmp_path / f"train.{extension}"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return ["--train_file", str(path), *arguments]

    return build


def table(change, *arguments: str):
    """Texts that can be learned from, after a change."""
    return lambda tmp_path: ["--train_file", write(change(rows(30)), tmp_path / "train.parquet"), *arguments]


def labels_of(values, *arguments: str):
    return table(lambda frame: frame.assign(label=[values[i % len(values)] for i in frame.index]), *arguments)


def texts_of(values):
    return table(lambda frame: frame.assign(text=[values[i % len(values)] for i in frame.index]))


def many_classes(tmp_path: Path) -> list[str]:
    frame, names = rows(30), [f"class {i}" for i in range(10_000)]
    dataset = Dataset.from_dict({"text": frame["text"]})
    dataset = dataset.add_column("label", list(range(0, 9999, 334)), feature=ClassLabel(names=names))
    dataset.to_parquet(tmp_path / "train.parquet")
    return ["--train_file", str(tmp_path / "train.parquet"), "--validation_split_percentage", "0"]


def lines(*rows, times: int = 10) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows * times)


CSV = "text,label\n" + "red1 filler1,a\nblue1 filler2,b\n" * 10
DATA_FILES = {
    "Latin-1": (data(CSV.encode() + b"caf\xe9,a\n"), "train.csv, line 22: byte 4 of the line, 0xe9, is no UTF-8"),
    "Latin-1 in JSON": (
        data(b'{"text": "caf\xe9", "label": 1}\n', "json"),
        "train.json, line 1: byte 14 .*is no UTF-8",
    ),
    "UTF-16": (data(CSV.encode("utf-16")), "train.csv, line 1: byte 1 of the line, 0xff, is no UTF-8"),
    "UTF-8 with a byte order mark": (data(b"\xef\xbb\xbf" + CSV.encode()), WORKS),
    "Windows line ends": (data(CSV.replace("\n", "\r\n")), WORKS),
    "NUL": (data(CSV + "re\0d1,a\n"), "train.csv, line 22: there is a NUL character"),
    "nothing but NUL": (data(b"\0" * 1000), "train.csv, line 1: there is a NUL character"),
    "NUL in JSON": (
        data(lines({"text": "re\0d1", "label": 1}), "json"),
        "Row 0 of the train data .*'text': there is a NUL character",
    ),
    "NUL in parquet": (texts_of(["red1", "re\0d1"]), "Row 1 of the train data .*'text': there is a NUL character"),
    "a million characters": (data(CSV + "red1 " * 200_000 + ",a\n" + "x" * 1_000_000 + ",b\n"), WORKS),
    "a control character and emoji": (texts_of(["red1 \x07", "\U0001f600 \u202e", "\u0301"]), WORKS),
    "duplicate columns": (data("text,text,label\nx,y,a\nz,z,b\n"), "train.csv has 2 columns 'text'"),
    "duplicate labels": (data("label,text,label\na,y,a\nb,z,b\n"), "train.csv has 2 columns 'label'"),
    "duplicate keys in JSON": (
        data('{"text": "a", "text": "b", "label": 1}\n', "json"),
        "train.json: can't be read as json",
    ),
    "cells too many": (data(CSV + "x,a,b,c\n"), "train.csv: can't be read as csv .*same columns"),
    "an open quote": (data(CSV + '"x,a\n' + CSV), "train.csv: can't be read as csv"),
    "JSON cut off": (data(lines({"text": "x", "label": 1}) + '{"te', "json"), "train.json: can't be read as json"),
    "no parquet": (data(b"PAR1 junk PAR1", "parquet"), "train.parquet: can't be read as parquet"),
    "mixed labels": (
        data(lines({"text": "x", "label": 1}, {"text": "x", "label": "a"}), "json"),
        "Row 1 .* the label 'a', a str, and row 0 has 1, a int. Labels have to be all integers or all strings"
        "|Column./label. changed from number to string in row 1.* every column one type",  # datasets 4.0
    ),
    "names, one of which is a number": (data(CSV.replace(",a\n", ",1\n")), WORKS),
    "nan among numbers": (data("text,label\n" + "x,1\ny,2\n" * 9 + "z,nan\n"), r"Row 18 .*label is missing \('nan'\)"),
    "a class called none": (data(CSV.replace(",a\n", ",none\n")), WORKS),
    "NaN": (labels_of([1.0, float("nan")]), "Row 1 .*the label is missing"),
    "blank label": (labels_of(["a", " "]), "Row 1 .*the label is missing"),
    "infinite": (labels_of([1.0, float("inf")]), "1.0, a float"),
    "lists as labels": (labels_of([[1], [2]]), r"the label is \[1\]. It has to be one class"),
    "objects as labels": (labels_of([{"a": 1}, {"a": 2}]), "the label is {'a': 1}. It has to be one class"),
    "bool labels": (labels_of([True, False]), WORKS),
    "beyond 64 bits": (data("text,label\nx,99999999999999999999\ny,1\n"), "train.csv: can't be read as csv"),
    "labels all equal": (labels_of([7]), r"single class \(7\)"),
    "10,000 classes": (many_classes, WORKS),
    "one sample a class": (labels_of(range(30), "--validation_split_percentage", "0"), WORKS),
    "one sample a class, some for validation": (labels_of(range(30)), "No training sample is left of 3 of the 30"),
    "labels are long": (labels_of(["a" * 10_000, "b" * 10_000]), WORKS),
}


@pytest.mark.parametrize("case", DATA_FILES)
def test_data_files(script, tmp_path, monkeypatch, case):  # noqa: F811
    build, message = DATA_FILES[case]
    arguments = [*build(tmp_path), "--max_steps", "2", "--clear_warmup_epochs", "1"]
    if message is WORKS:
        results, out = script(*arguments)
        assert results["clear"]["train_loss"] > 0
        assert pd.read_parquet(out / "clean_probabilities.parquet").clean_probability.between(0, 1).all()
        return

    monkeypatch.setattr(Trainer, "training_step", None)
    with pytest.raises(ValueError, match=message):
        script(*arguments)
    assert not os.path.exists(tmp_path / "out" / "all_results.json")
