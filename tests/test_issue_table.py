"""The table of suspect labels: what is in it, and how it looks in other programs."""

import csv
import json
import re

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from helpers.toy import toy_dataset
from hypothesis import given
from hypothesis import strategies as st

from hf_clear import apply_corrections
from hf_clear.report import issue_table, to_argilla, to_cleanlab, to_csv, to_label_studio, to_parquet
from hf_clear.report.issue_table import REASONS
from hf_clear.report.sheets import escaped, is_same_text, unescaped

NAMES = ["-1", "good", "bad"]
NAN = float("nan")


def small_table(**changes) -> datasets.Dataset:
    """Three samples in doubt, two that are not, and one of which nothing is known."""
    arguments = {
        "label_score": [0.2, 0.9, 0.1, 0.1, NAN, 0.8],
        "given_label": [0, 1, 0, 1, 0, 1],
        "predicted_label": [1, 1, 1, 2, -100, 1],
        "suggestion_confidence": [0.7, 0.9, 0.8, 1 / 3, NAN, 0.8],
        "clean_probability": [0.2, 0.9, 0.1, 0.1, NAN, NAN],
        "loss": [2.0, 0.1, 3.0, 4.0, NAN, 9.0],
        "neighbors_disagree": [True, False, False, False, False, False],
        "held_out": [False, False, False, False, False, True],
        "texts": {"text": ["=1+1", "fine", 'a, "b"\nc', "'-x", "007", None]},
        "label_names": NAMES,
    }
    return issue_table(**arguments | changes)


def test_worst_first_with_names_suggestion_and_reasons():
    table = small_table()
    assert table["sample_index"][:] == [3, 2, 0], "of equal scores, the larger loss comes first"
    assert table.column_names == [
        *("sample_index", "text", "given_label", "predicted_label", "is_label_issue", "label_score"),
        *("clean_probability", "suggestion_confidence", "loss", "reasons"),
    ]
    assert table["given_label"][:] == ["good", "-1", "-1"] and table["predicted_label"][:] == ["bad", "good", "good"]
    never = ["high_loss", "disagrees_with_ensemble", "label_never_predicted"]  # nobody is predicted to be "-1"
    assert table["reasons"][:] == [never[:2], never, ["high_loss", "disagrees_with_neighbors", *never[1:]]]

    every = small_table(return_all=True)
    assert every["sample_index"][:] == [3, 2, 0, 5, 1, 4] and every["is_label_issue"][:] == [True] * 3 + [False] * 3
    of = dict(zip(every["sample_index"], every["reasons"]))
    assert of[4] == ["not_scored"] and of[1] == [] and set(sum(of.values(), [])) == set(REASONS)
    assert of[5] == [], "losses of held-out samples are compared with each other"
    assert every[5]["predicted_label"] is None and np.isnan(every[5]["label_score"])
    assert len(small_table(threshold=0.15)) == 2 and len(small_table(threshold=0)) == 0
    assert small_table(threshold=0.85)["sample_index"][:] == [3, 2, 0, 5]


def test_the_most_probable_label_is_no_issue():
    # As a mixture of losses may have it: the label looks wrong, and is what is predicted.
    scores, given, predicted = [0.1, 0.4, 0.3, 0.8], [0, 0, 1, 1], [0, 1, -1, 1]
    assert issue_table(scores, given, predicted)["sample_index"] == [2, 1]  # nobody knows what row 2 is
    assert issue_table(scores, given, predicted, threshold=0.35)["sample_index"] == [2]
    assert issue_table(scores, given, predicted, threshold=0.9)["sample_index"] == [0, 2, 1, 3]  # asked for
    assert issue_table(scores, given)["sample_index"] == [0, 2, 1]


def test_what_is_not_known_is_left_out():
    table = issue_table([0.9, 0.1])
    assert table.to_dict() == {**{"sample_index": [1], "is_label_issue": [True], "label_score": [0.1], "reasons": [[]]}}
    numbers = issue_table([0.1, 0.2], [3, -100], [5, 7], sample_index=[40, 2])
    assert numbers["given_label"][:] == [3, None] and numbers["sample_index"][:] == [40, 2]
    assert issue_table([], [], label_names=NAMES).features["given_label"].dtype == "string"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_score": [0.1, 2] * 3}, r"`label_score\[1\]` is 2: .* probability in \[0, 1\], or NaN"),
        ({"loss": [1.0]}, r"`loss` has to be of shape \[6\], one for each sample; got \[1\]"),
        ({"given_label": list("aabbaa")}, "`given_label` has to hold class numbers, and names come from"),
        ({"given_label": [0.5] * 6}, "has to hold class numbers.* got float64"),  # a regression
        ({"given_label": [0, 1, 7, 0, 0, 0]}, r"`given_label\[2\]` is 7, and there are 3 `label_names`"),
        ({"label_names": ["a", "b", "a"]}, "`label_names` has 'a' twice"),
        (
            {"label_names": ["a", "\n", "b"]},
            r"`label_names\[1\]` is '\\n', which can't be seen: .* Give the class a name",
        ),
        ({"threshold": 50}, r"`threshold` has to be a probability in \[0, 1\].* got 50"),
        ({"texts": {"loss": ["a"] * 6}}, "is called 'loss', as is one of the table.*rename_column"),
        ({"texts": {"text": ["a"] * 5}}, "`texts` has 5 rows, and there are 6 samples"),
    ],
)
def test_bad_input_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        small_table(**changes)


# ---- What a trainer shows of its data ----


class Decoder:
    def decode(self, ids, skip_special_tokens):
        return " ".join(map(str, ids))


def fitted(turn, data, **kwargs):
    """A trainer that has found samples 2 and 5 suspect, without training."""
    from hf_clear.sample_store import SampleStore

    trainer = turn(data, **kwargs)
    store = SampleStore.empty(len(data))
    store.losses.fill_(0.1)
    store.clean_probability[[5, 2]] = torch.tensor([0.1, 0.2])
    store.labels = torch.arange(len(data)) % 4
    store.suggestion, store.suggestion_confidence = (store.labels + 1) % 4, torch.full((len(data),), 0.9)
    store.losses[7], store.fitted_epoch = torch.nan, 0
    trainer.sample_store = store
    return trainer


def test_texts_and_names_of_a_trainer(turn, caplog):
    names = ["red", "green", "blue", "white"]
    data = toy_dataset(12)
    pair = data.add_column("premise", [f"p{i}" for i in range(12)]).add_column("loss", ["x"] * 12)
    pair = pair.add_column("hypothesis", [f"h{i}" for i in range(12)])
    pair = pair.cast_column("labels", datasets.ClassLabel(names=names)).add_column("true_label", [0] * 11 + [-100])
    trainer = fitted(turn, pair)
    table = trainer.label_issues()
    assert table.column_names[:5] == ["sample_index", "premise", "hypothesis", "given_label", "predicted_label"]
    assert table.to_pandas().iloc[0, :5].tolist() == [5, "p5", "h5", "green", "blue"]
    assert "'loss' of the training set is not shown" in caplog.text and "loss of 1 of 12" in caplog.text
    every = trainer.label_issues(return_all=True, columns=["true_label", "premise"])
    assert every["true_label"][:2] == ["red", "red"] and every["sample_index"][-1] == 7 and len(every) == 12
    assert dict(zip(every["sample_index"], every["true_label"]))[11] is None
    with pytest.raises(ValueError, match="no column 'premice'.*Did you mean 'premise'"):
        trainer.label_issues(columns=["premice"])
    with pytest.raises(ValueError, match="A column of the data set is called 'loss'"):
        trainer.label_issues(columns=["loss"])
    del trainer.train_dataset
    trainer.train_dataset = pair.with_transform(lambda batch: 1 / 0)  # is not asked for
    assert trainer.label_issues().to_dict() == table.to_dict()

    words = fitted(turn, data.add_column("tokens", [["a", str(i)] for i in range(12)])).label_issues()
    assert words["tokens"][:] == ["a 5", "a 2"] and words["given_label"][:] == [1, 2], "no names: numbers"
    trainer = fitted(turn, data)
    assert trainer.label_issues().column_names[1] == "given_label"
    trainer.processing_class = Decoder()
    trainer.model.config.id2label = dict(enumerate(names))
    table = trainer.label_issues()
    assert table["decoded_text"][0] == " ".join(map(str, data[5]["input_ids"])) and table["given_label"][0] == "green"
    trainer.model.config.id2label = dict(enumerate("aabb"))  # nobody could tell them apart
    assert trainer.label_issues()["given_label"][:] == [1, 2]
    trainer.model.config.id2label = dict(enumerate(["a", " ", "b", "c"]))  # nobody could correct to the second
    assert trainer.label_issues()["given_label"][:] == [1, 2]
    trainer.train_dataset = [dict(data[i]) for i in range(12)]
    assert len(trainer.label_issues()) == 2
    with pytest.raises(ValueError, match="`columns` names 'text', and the training set is a list"):
        trainer.label_issues(columns=["text"])


# ---- Other programs ----


@given(st.text("'=+-@\t\r\n;＝＠a ", max_size=8))
def test_every_text_has_one_harmless_cell(text):
    """Also where the file is split at semicolons, tabs and line breaks, as some spreadsheets do."""
    cell = escaped(text)
    assert unescaped(cell) == text and is_same_text(cell, text)
    assert not re.match(r"[\t\r\n]", cell)
    assert not any(re.match(r"[=+\-@＝＋－＠]", part) for part in re.split(r"[;\t\r\n]", cell))


def test_csv_for_a_spreadsheet(tmp_path):
    path = tmp_path / "new" / "issues.csv"
    to_csv(small_table(return_all=True), path)
    assert path.read_bytes().startswith(b'\xef\xbb\xbf"sample_index","text","given_label"'), "Excel wants the mark"
    with open(path, encoding="utf-8-sig", newline="") as file:
        header, *rows = csv.reader(file)
    assert header[2:5] == ["given_label", "predicted_label", "corrected_label"]
    assert rows[0] == [*("3", "''-x", "good", "bad", "", "True", "0.1", "0.1", "0.333333", "4.0")] + [
        "high_loss, disagrees_with_ensemble"
    ]
    assert rows[2][1] == "'=1+1" and rows[2][2] == "'-1" and rows[1][1] == 'a, "b"\nc'
    assert rows[-1] == ["4", "007", "'-1", "", "", "False", "", "", "", "", "not_scored"], "unknown is empty"
    to_csv(small_table(), path)  # again: our own, and nobody has written in it
    frame = pd.read_csv(path)
    assert frame.sample_index.tolist() == [3, 2, 0] and frame.corrected_label.isna().all()

    to_csv(issue_table([0.1, 0.2, NAN], [3, 10, -100], [1, -100, 2], return_all=True), path)  # without names
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert frame.given_label.tolist() == ["3", "10", ""] and frame.predicted_label.tolist() == ["1", "", "2"]

    frame.assign(corrected_label=["good", "", ""]).to_csv(path, index=False)
    with pytest.raises(
        FileExistsError, match="issues.csv holds corrections that somebody has filled in.*choose another"
    ):
        to_csv(small_table(), path)
    path.write_text("text,label\na,b\n")
    for write, name in ((to_csv, path), (to_parquet, path)):
        with pytest.raises(FileExistsError, match="is there, and is no table of label issues"):
            write(small_table(), name)
    assert path.read_text() == "text,label\na,b\n" and len(list(tmp_path.rglob("*.*"))) == 1
    with pytest.raises(ValueError, match="no table of label issues: it has no column 'sample_index'"):
        to_csv(small_table().to_pandas().drop(columns="sample_index"), tmp_path / "x.csv")


def test_parquet_is_the_table(tmp_path):
    table = small_table(return_all=True)
    for _ in range(2):
        to_parquet(table, tmp_path / "issues.parquet")
    again = datasets.Dataset.from_parquet(str(tmp_path / "issues.parquet"), cache_dir=str(tmp_path / "cache"))
    assert again.features == table.features
    pd.testing.assert_frame_equal(again.to_pandas(), table.to_pandas())


def test_cleanlab_takes_it():
    classification = pytest.importorskip("cleanlab.classification")
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    features = np.eye(3)[labels] + rng.normal(scale=0.1, size=(90, 3))
    given_label = labels.copy()
    given_label[:9] = (labels[:9] + 1) % 3
    score = np.where(given_label == labels, 0.9, 0.1)
    frame = to_cleanlab(issue_table(score, given_label, labels, label_names=NAMES, return_all=True), NAMES)
    found = classification.CleanLearning(cv_n_folds=3)
    own = found.find_label_issues(features, given_label)
    assert set(own.columns) <= set(frame.columns) and frame.is_label_issue[own.is_label_issue].all()
    assert (own.given_label == frame.given_label).all() and frame.predicted_label.tolist() == labels.tolist()
    model = classification.CleanLearning().fit(features, given_label, label_issues=frame)
    assert (model.predict(features) == labels).all()
    named = to_cleanlab(issue_table(score, given_label, labels, label_names=NAMES, return_all=True))
    assert named.given_label.tolist() == [NAMES[label] for label in given_label]
    with pytest.raises(ValueError, match="not all samples from 0 on.*return_all=True"):
        to_cleanlab(issue_table(score, given_label, labels))
    unlabelled = issue_table(score, given_label, labels, return_all=True).filter(lambda row: row["sample_index"] != 40)
    with pytest.raises(ValueError, match=r"no row for sample 40. .* without a label \(-100\) have none: take them out"):
        to_cleanlab(unlabelled)
    with pytest.raises(ValueError, match="'-1', which is none of `label_names`"):
        to_cleanlab(small_table(return_all=True), ["x"])


def test_annotation_tools(tmp_path):
    """Formats as label-studio-sdk 2.1 and argilla 2.8 were seen to take them."""
    config = to_label_studio(small_table(return_all=True), tmp_path / "tasks.json", [*NAMES, '<"&>'])
    assert '<Text name="text" value="$text"/>' in config and "<Choice value='&lt;\"&amp;&gt;'/>" in config
    assert '<Choices name="corrected_label" toName="text" choice="single"' in config
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert tasks[0]["data"]["text"] == "'-x" and tasks[0]["data"]["sample_index"] == 3 and len(tasks) == 6
    (prediction,) = tasks[0]["predictions"]
    assert prediction["result"][0] == {
        **{"from_name": "corrected_label", "to_name": "text", "type": "choices", "value": {"choices": ["bad"]}}
    }
    assert prediction["score"] == pytest.approx(1 / 3) and "predictions" not in tasks[-1]
    assert tasks[-1]["data"]["label_score"] is None

    to_argilla(small_table(), tmp_path / "records.json")
    record = json.loads((tmp_path / "records.json").read_text())[0]
    assert record["fields"] == {"text": "'-x"} and record["metadata"] == {"sample_index": 3, "given_label": "good"}
    assert record["suggestions"]["corrected_label"]["value"] == "bad"
    with pytest.raises(FileExistsError, match="tasks.json is there, and has not been written by hf_clear"):
        to_argilla(small_table(), tmp_path / "tasks.json")
    with pytest.raises(ValueError, match="no texts to show. Name the columns"):
        to_label_studio(small_table(texts=None), tmp_path / "x.json", NAMES)


def test_every_text_has_a_name_of_its_own_in_label_studio(tmp_path):
    """Names are cut down to letters, digits and underscores: then they must not be those of others."""
    names = ["given label", "a b", "a_b", "a,b", "id", "sample index"]
    rows = {name: [f"{name} of row {row}" for row in range(2)] for name in names}
    table = issue_table([0.2, 0.1], [1, 0], [2, 1], texts=rows, label_names=NAMES)
    config = to_label_studio(table, tmp_path / "tasks.json", NAMES)
    keys = ["given_label_2", "a_b_2", "a_b", "a_b_3", "id_2", "sample_index_2"]
    assert re.findall(r'<Text name="(\w+)" value="\$\1"/>', config) == [*keys, "given_label"]
    first = json.loads((tmp_path / "tasks.json").read_text())[0]
    assert [first["data"][key] for key in keys] == [rows[name][1] for name in names]
    assert first["data"]["given_label"] == "-1" and first["data"]["sample_index"] == 1
    assert f'toName="{keys[0]}"' in config and first["predictions"][0]["result"][0]["to_name"] == keys[0]
    exported = [
        {**task["data"], "id": 7, "corrected_label": "bad"}
        for task in json.loads((tmp_path / "tasks.json").read_text())
    ]
    (tmp_path / "export.json").write_text(json.dumps(exported))
    feature = datasets.ClassLabel(names=NAMES)
    dataset = datasets.Dataset.from_dict({**rows, "label": [1, 0]}).cast_column("label", feature)
    with pytest.raises(ValueError, match="'id' is '7', and row 1 of the data set has 'id of row 1'"):
        apply_corrections(dataset, tmp_path / "export.json")
    assert apply_corrections(dataset.remove_columns("id"), tmp_path / "export.json")["label"][:] == [2, 2]


def test_labels_that_nobody_could_choose_are_refused(tmp_path):
    path = tmp_path / "tasks.json"
    for names, missing in ((NAMES[:2], f"`predicted_label` of the table holds {NAMES[2]!r}"), (NAMES[1:], NAMES[0])):
        with pytest.raises(ValueError, match=f"{missing}.*none of `label_names`: give the names of all classes"):
            to_label_studio(small_table(return_all=True), path, names)
    numbered = small_table(return_all=True, label_names=None)
    with pytest.raises(ValueError, match="holds '[01]', which is none of"):
        to_label_studio(numbered, path, NAMES)
    assert not path.exists()
    to_label_studio(numbered.to_pandas(), path, [0, 1, 2])  # floats, since one is missing
    chosen = [task["predictions"][0]["result"][0]["value"] for task in json.loads(path.read_text())[:-1]]
    assert {choice["choices"][0] for choice in chosen} == {"1", "2"}
