"""Files: damaged, hostile or odd ones are read as they are meant, or refused with what to do."""

import json
from pathlib import Path

import pytest
from helpers.texts import rows, write

from hf_clear.data import check_file, labelled_texts, read_files

WORKS = None


@pytest.mark.parametrize("extension", ["csv", "json", "jsonl", "parquet"])
def test_every_format(tmp_path, extension):
    frame = rows(30)
    splits = read_files({name: write(frame, tmp_path / f"{name}.{extension}") for name in ("train", "test")})
    assert list(splits) == ["train", "test"]
    for split in splits.values():
        assert split["text"][:] == list(frame["text"]) and split["label"][:] == list(frame["label"])


def test_the_words_for_nothing_are_texts(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\nnull,a\nNA,b\nNone,\n")
    train = read_files({"train": tmp_path / "train.csv"})["train"]
    assert train["text"][:] == ["null", "NA", "None"] and train["label"][:] == ["a", "b", None]


def test_no_such_file_and_no_such_format():
    with pytest.raises(ValueError, match=r"^nowhere.csv: there is no such file"):
        read_files({"train": "nowhere.csv"})
    with pytest.raises(ValueError, match=r"^--train_file nowhere.csv: there is no such file"):
        check_file("nowhere.csv", "--train_file")
    with pytest.raises(ValueError, match=r"test_data_files.py: the name has to end in \.csv, \.json"):
        read_files({"train": __file__})


def test_files_of_two_formats(tmp_path):
    files = {"train": write(rows(3), tmp_path / "train.csv"), "test": write(rows(3), tmp_path / "test.json")}
    with pytest.raises(ValueError, match="one format, not csv and json"):
        read_files(files)


def data(content: str | bytes, extension: str = "csv"):
    """A file as it is written here."""

    def build(folder: Path) -> Path:
        path = folder / f"train.{extension}"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return build


def texts(*values: str):
    frame = rows(30)
    return lambda folder: write(
        frame.assign(text=[values[i % len(values)] for i in frame.index]), folder / "train.parquet"
    )


def lines(*rows, times: int = 10) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows * times)


CSV = "text,label\n" + "red1 filler1,a\nblue1 filler2,b\n" * 10
FILES = {
    "empty": (data(""), "train.csv is empty"),
    "a header alone": (data("text,label\n"), "train.csv: there are no rows to read"),
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
    "NUL in parquet": (texts("red1", "re\0d1"), "Row 1 of the train data .*'text': there is a NUL character"),
    "a million characters": (data(CSV + "red1 " * 200_000 + ",a\n" + "x" * 1_000_000 + ",b\n"), WORKS),
    "a control character and emoji": (texts("red1 \x07", "\U0001f600 \u202e", "\u0301"), WORKS),
    "duplicate columns": (data("text,text,label\nx,y,a\nz,z,b\n"), "train.csv has 2 columns 'text'"),
    "duplicate labels": (data("label,text,label\na,y,a\nb,z,b\n"), "train.csv has 2 columns 'label'"),
    "duplicate keys in JSON": (
        data('{"text": "a", "text": "b", "label": 1}\n', "json"),
        "train.json: can't be read as json",
    ),
    "cells too many": (data(CSV + "x,a,b,c\n"), "train.csv: can't be read as csv .*same columns"),
    "semicolons": (data("text;label\na, b;c\n"), "Its header has semicolons and no comma: save it with commas"),
    "tabs": (data("text\tlabel\na, b\tc\n"), "Its header has tabs and no comma"),
    "an open quote": (data(CSV + '"x,a\n' + CSV), "train.csv: can't be read as csv"),
    "JSON cut off": (data(lines({"text": "x", "label": 1}) + '{"te', "json"), "train.json: can't be read as json"),
    "no parquet": (data(b"PAR1 junk PAR1", "parquet"), "train.parquet: can't be read as parquet"),
    "mixed labels": (
        data(lines({"text": "x", "label": 1}, {"text": "x", "label": "a"}), "json"),
        "train.json: can't be read as json: column 'label' has values of several types: row 1 .* 'a', a str, and row 0",
    ),
    "names, one of which is a number": (data(CSV.replace(",a\n", ",1\n")), WORKS),
    "nan among numbers": (data("text,label\n" + "x,1\ny,2\n" * 9 + "z,nan\n"), r"Row 18 .*label is missing \('nan'\)"),
    "a class called none": (data(CSV.replace(",a\n", ",none\n")), WORKS),
    "beyond 64 bits": (data("text,label\n" + "x,99999999999999999999\ny,1\n" * 10), WORKS),
}


@pytest.mark.parametrize("case", FILES)
def test_files(tmp_path, case):
    build, message = FILES[case]
    path = build(tmp_path)
    if message is WORKS:
        splits, label_names = labelled_texts(read_files({"train": path}))
        assert len(splits["train"]) in (20, 22, 30) and len(label_names) in (2, 3)
        return
    with pytest.raises(ValueError, match=message):
        labelled_texts(read_files({"train": path}))
