"""The way back: from a table that somebody has corrected to the data set, or to a clear refusal."""

import datasets
import numpy as np
import pandas as pd
import pytest
from helpers.script import script  # noqa: F401
from helpers.texts import COLORS, rows, write

from hf_clear import apply_corrections, load_label_issues
from hf_clear.report import issue_table, to_csv, to_parquet
from hf_clear.report.sheets import escaped
from hf_clear.report.written_classes import WrittenClasses

NAMES = ["-1", "b", "C"]
TEXTS = ["=1+1", "fine", "'-x", 'a\nb,  "q"', "007", "fine"]
LABELS = [0, 1, 0, 1, 0, 2]


def dataset(**columns) -> datasets.Dataset:
    data = datasets.Dataset.from_dict({"question": TEXTS, "label": LABELS, "row": range(6), **columns})
    return data if "label" in columns else data.cast_column("label", datasets.ClassLabel(names=NAMES))


@pytest.fixture
def sheet(tmp_path):
    """A csv file of all six samples as a person saves it: `change` works on its cells, as text."""
    table = issue_table(
        *([0.1, 0.9, 0.2, 0.3, 0.05, np.nan], LABELS, [1, 1, 2, 0, 1, -1]),
        **{"texts": {"question": TEXTS}, "label_names": NAMES, "return_all": True},
    )

    def save(change=lambda frame: frame, separator=",") -> str:
        (tmp_path / "issues.csv").unlink(missing_ok=True)
        to_csv(table, tmp_path / "issues.csv")
        frame = pd.read_csv(tmp_path / "issues.csv", dtype=str, keep_default_na=False)
        change(frame).to_csv(tmp_path / "corrected.csv", index=False, sep=separator)
        return str(tmp_path / "corrected.csv")

    return save


def test_only_what_is_filled_in_changes(sheet):
    data = dataset().with_format("numpy", columns=["label"])
    path = sheet(lambda frame: frame.assign(corrected_label=["b", "", "", "'-1", "", ""]))  # rows 4 and 3
    corrected = apply_corrections(data, path)
    assert corrected["label"][:].tolist() == [0, 1, 0, 0, 1, 2] and data["label"][:].tolist() == LABELS
    assert corrected.features == data.features and corrected.format == data.format
    plain = corrected.with_format(None)
    assert plain["question"][:] == TEXTS and plain["row"][:] == list(range(6))
    assert apply_corrections(corrected, path).with_format(None)["label"][:] == plain["label"][:], "twice is once"
    shuffled = dataset().select([4, 3])
    with pytest.raises(ValueError, match="sample_index is 4, and the data set has the rows 0 to 1"):
        apply_corrections(shuffled, path)


@pytest.mark.parametrize(
    ("change", "separator"),
    [
        (lambda frame: frame.sample(frac=1, random_state=1), ";"),  # sorted otherwise, a German Excel
        (lambda frame: frame[["corrected_label", "question", "sample_index"]], "\t"),
        (lambda frame: frame.assign(question=[t.replace("007", "7") for t in frame.question]), ","),
        (lambda frame: frame.assign(question=[t.replace("\n", "\r\n").lstrip("'") for t in frame.question]), ","),
        (lambda frame: pd.concat([frame.iloc[:1], frame.iloc[:1] * 0, frame.iloc[1:]]), ","),  # a blank row
        (lambda frame: frame[frame.corrected_label != ""], ","),
        (lambda frame: frame.assign(**{"notes; of; all; who; have; read; this; in; May; and; June": "x"}), ","),
        (lambda frame: frame.assign(question=[t.replace("'", "") for t in frame.question]), ";"),
        (lambda frame: frame.assign(sample_index=frame.sample_index + ".0", is_label_issue="TRUE"), ","),
        (lambda frame: frame.assign(corrected_label=frame.corrected_label.str.lower() + " "), ","),
    ],
)
def test_what_spreadsheets_do_is_no_harm(sheet, change, separator):
    path = sheet(lambda frame: change(frame.assign(corrected_label=["C", "", "", "", "", "'-1"])), separator)
    assert apply_corrections(dataset(), path)["label"][:] == [0, 1, 0, 1, 2, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda frame: frame.assign(question=np.roll(frame.question, 1)),
            r"row 2 \(the header is row 1\): 'question' is .*, and row 4 of the data set has '007'. 5 of the 6 rows "
            "differ so: .* shifted. No label was changed",
        ),
        (lambda frame: frame.assign(sample_index=np.roll(frame.sample_index, 1)), "were shifted"),
        (
            lambda frame: frame.assign(sample_index=frame.sample_index.replace({"1": "5", "5": "1"})),
            "given_label is .*, and row .* of the data set has the label .*older than a change of the labels",
        ),  # the same text twice: labels tell
        (
            lambda frame: frame.assign(given_label="C"),
            "given_label is 'C', and row 4 of the data set has the label '-1'",
        ),
        (lambda frame: frame.assign(sample_index="x"), "row 2 .*: sample_index is 'x', which is no row of a data set"),
        (lambda frame: frame.assign(sample_index="6"), "sample_index is 6, and the data set has the rows 0 to 5"),
        (
            lambda frame: frame.assign(corrected_label="Bb"),
            "corrected_label is 'Bb', which is no class. There are the classes -1, b, C. Did you mean 'b'",
        ),
        (lambda frame: frame.assign(corrected_label="1"), "corrected_label is '1', which is no class"),  # no number
        (
            lambda frame: pd.concat([frame.assign(corrected_label="b"), frame.assign(corrected_label="C")]),
            "row 8 .*: row 4 of the data set gets the label 'C', and 'b' in row 2 of the file",
        ),
        (lambda frame: frame.drop(columns="corrected_label"), "no column 'corrected_label'.*'predicted_label'"),
        (
            lambda frame: frame.drop(columns="question"),
            r"no text column of the data set \(question\).*text_columns=\[\]",
        ),
        (lambda frame: frame.assign(corrected_label=" "), None),
    ],
)
def test_other_files_are_refused_as_a_whole(sheet, change, message, caplog):
    path = sheet(lambda frame: change(frame.assign(corrected_label=["b"] + [""] * 5)))
    if message is None:  # nothing in it
        assert apply_corrections(dataset(), path)["label"][:] == LABELS and "corrects nothing" in caplog.text
        return
    with pytest.raises(ValueError, match=message):
        apply_corrections(dataset(), path)


@pytest.mark.parametrize("letter", ["a", "\N{GRINNING FACE}"])
def test_a_text_that_a_cell_has_no_room_for_is_cut_off(tmp_path, letter):
    """Excel cuts after 32,767 UTF-16 units of what the file holds, the page before it is written."""
    text = "".join(f"    - line {i}: {letter} word\r\n" for i in range(2500))
    data = datasets.Dataset.from_dict({"text": [text, "b"], "label": [0, 1]})
    by_excel = escaped(text).encode("utf-16-le")[: 2 * 32767].decode("utf-16-le", "ignore")
    for cell in (text[:32000], by_excel, by_excel.replace("\r\n", "\n")):
        pd.DataFrame([[0, cell, 1]], columns=["sample_index", "text", "corrected_label"]).to_csv(tmp_path / "c.csv")
        assert apply_corrections(data, tmp_path / "c.csv")["label"][:] == [1, 1]
    for cell in (text[:9000], text[:32000] + "x", ""):
        pd.DataFrame([[0, cell, 1]], columns=["sample_index", "text", "corrected_label"]).to_csv(tmp_path / "c.csv")
        with pytest.raises(ValueError, match="'text' is .*, and row 0 of the data set has"):
            apply_corrections(data, tmp_path / "c.csv")


def test_a_class_with_a_blank_name_is_not_lost(tmp_path, caplog):
    """Numbers stand for the classes then, as in the table of a trainer; and where names do, it is said."""
    feature = datasets.ClassLabel(names=["a", " ", "c"])
    data = datasets.Dataset.from_dict({"text": ["x", "y", "z"], "label": [0, 1, 2]}).cast_column("label", feature)
    path, options = tmp_path / "issues.parquet", {"corrections_column": "predicted_label"}
    to_parquet(issue_table([0.1] * 3, [0, 1, 2], [1, 0, 0], texts={"text": ["x", "y", "z"]}), path)
    assert apply_corrections(data, path, **options)["label"][:] == [1, 0, 0]
    (tmp_path / "named.csv").write_text("sample_index,text,given_label,corrected_label\n0,x,a,c\n")
    with pytest.raises(ValueError, match=r"One class is called ' ', which can't be seen: so numbers stand for all"):
        apply_corrections(data, tmp_path / "named.csv")
    assert apply_corrections(data, tmp_path / "named.csv", label_names=["a", "b", "c"])["label"][0] == 2
    assert "can't hold it" not in caplog.text
    texts = data.remove_columns("label").add_column("label", ["a", "", "c"])
    assert apply_corrections(texts, tmp_path / "named.csv")["label"][:] == ["c", "", "c"]
    assert "has a class with the name '', and" in caplog.text and "a blank cell keeps the label" in caplog.text


def test_labels_of_every_kind(sheet, tmp_path):
    path = sheet(lambda frame: frame.assign(corrected_label=["C", "", "", "", "", ""]))
    strings = dataset(label=[NAMES[label] for label in LABELS])
    assert apply_corrections(strings, path)["label"][4] == "C"
    again = sheet(lambda frame: frame.assign(corrected_label="", label=frame.given_label).drop(columns="question"))
    with pytest.raises(ValueError, match="no text column of the data set"):  # a label is no text
        apply_corrections(strings, again)
    path = sheet(lambda frame: frame.assign(corrected_label=["C", "", "", "", "", ""]))
    numbers = dataset(label=LABELS)
    with pytest.raises(ValueError, match="which is no class. There are the classes 0, 1, 2. If these have names"):
        apply_corrections(numbers, path)
    assert apply_corrections(numbers, path, label_names=NAMES)["label"][4] == 2
    table = issue_table([0.1], [1], [0], sample_index=[3], texts={"question": TEXTS[3:4]})  # numbers in it
    to_parquet(table, tmp_path / "numbers.parquet")
    options = {"corrections_column": "predicted_label"}
    assert apply_corrections(numbers, tmp_path / "numbers.parquet", **options)["label"][:] == [0, 1, 0, 0, 0, 2]
    bools = dataset(label=[True, False] * 3)
    (tmp_path / "b.csv").write_text("sample_index;question;corrected_label\n1;fine;TRUE\n")
    assert apply_corrections(bools, tmp_path / "b.csv")["label"][1] is True
    for data, message in [
        (datasets.DatasetDict(train=numbers), "Take one split of it"),
        (dataset(label=[[0]] * 6), "corrections are for one class a sample"),
        (numbers.rename_column("label", "category"), "no column labels, label or label_ids .* There are: question"),
    ]:
        with pytest.raises(ValueError, match=message):
            apply_corrections(data, path)
    (tmp_path / "latin.csv").write_bytes("sample_index,question,corrected_label\n1,fiñe,b\n".encode("latin-1"))
    with pytest.raises(ValueError, match="line 2: byte 5 of the line, 0xf1, is no UTF-8"):
        apply_corrections(numbers, tmp_path / "latin.csv")
    answers = '[{"sample_index": 1, "question": "fine", "corrected_label": %s}]'
    for given, expected in (('["C", "C"]', 2), ("[]", 1), ("null", 1)):
        (tmp_path / "answers.json").write_text(answers % given)
        assert apply_corrections(dataset(), tmp_path / "answers.json")["label"][1] == expected
    (tmp_path / "answers.json").write_text(answers % '["C", "b"]')
    with pytest.raises(
        ValueError, match=r"row 0 \(counted from 0\): corrected_label has several answers, 'C', 'b'|'b', 'C'"
    ):
        apply_corrections(dataset(), tmp_path / "answers.json")


def test_from_a_csv_to_suspects_to_a_better_model(script, tmp_path):  # noqa: F811
    """What a person does: train, look at the suspects, correct them in the csv file, train again."""
    truth = rows(300, label="category", text="query").assign(
        query=lambda f: f["query"] + [f" x{i}" for i in range(300)]
    )
    data = truth.copy()
    wrong = np.random.default_rng(0).random(300) < 0.4
    data.loc[wrong, "category"] = [COLORS[(COLORS.index(c) + 1) % 3] for c in data.category[wrong]]
    test = write(rows(90, label="category", text="query", seed=1), tmp_path / "test.csv")
    arguments = [
        *("--train_file", write(data, tmp_path / "train.csv"), "--test_file", test, "--num_train_epochs", 8),
        *("--text_column_name", "query", "--label_column_name", "category", "--clear_warmup_epochs", 3),
    ]
    before, out = script(*arguments)
    table = pd.read_parquet(out / "label_issues.parquet")
    assert sorted(table.sample_index) == list(range(300)), "the rows taken for validation, too"
    assert (table.given_label.to_numpy() == data.category[table.sample_index]).all()
    assert (table["query"].to_numpy() == data["query"][table.sample_index]).all(), "under its own name"
    held_out = table.clean_probability.isna()
    assert held_out.sum() == 30 and table.label_score[~held_out].notna().all()
    assert (table.label_score[held_out].notna() | table.reasons[held_out].map(lambda r: "not_scored" in r)).all()

    raw = datasets.Dataset.from_pandas(data)
    loaded = load_label_issues(out, raw, return_all=True).to_pandas()
    pd.testing.assert_frame_equal(loaded, table)
    assert len(load_label_issues(out, raw, threshold=0.2)) == (table.label_score < 0.2).sum()
    assert load_label_issues(out, raw, columns=["id"]).column_names[:3] == ["sample_index", "id", "given_label"]
    with pytest.raises(ValueError, match="of other data, or of these in another order: .* texts differ"):
        load_label_issues(out, raw.shuffle(seed=0))
    with pytest.raises(ValueError, match="no column 'query', which .*label_issues.parquet has"):
        load_label_issues(out, raw.rename_column("query", "text"))

    frame = pd.read_csv(out / "label_issues.csv", dtype=str, keep_default_na=False)
    looked_at = frame.index[:150]  # the worst half
    frame.loc[looked_at, "corrected_label"] = truth.category[frame.sample_index[looked_at].astype(int)].to_numpy()
    frame.to_csv(tmp_path / "corrected.csv", index=False)
    corrected = apply_corrections(raw, tmp_path / "corrected.csv", label_column="category")
    left = np.array(corrected["category"]) != truth.category
    assert left.sum() < wrong.sum() / 2, "most wrong labels are in the worst half"
    after, again = script(*arguments, "--corrections_file", tmp_path / "corrected.csv", out="again")
    assert after["clear"]["test_accuracy"] > before["clear"]["test_accuracy"] + 0.05
    given = pd.read_parquet(again / "label_issues.parquet").set_index("sample_index").given_label.sort_index()
    assert given.tolist() == corrected["category"][:]

    with pytest.raises(ValueError, match="--corrections_file .*corrected.csv, row 2 .*'query' is"):
        frame.assign(query=np.roll(frame["query"], 1)).to_csv(tmp_path / "corrected.csv", index=False)
        script(*arguments, "--corrections_file", tmp_path / "corrected.csv", out="third")
    frame.to_csv(out / "label_issues.csv", index=False)  # filled in where it is
    with pytest.raises(ValueError, match="label_issues.csv.* no run has written it as"):
        script(*arguments)


def test_classes_that_begin_like_formulas_are_those_that_were_written():
    """`to_csv` puts an apostrophe before them, and one more before a class that has one."""
    feature = datasets.ClassLabel(names=["=a", "'=a", "'b"])
    dataset = datasets.Dataset.from_dict({"label": [0, 1, 2]}).cast_column("label", feature)
    written = WrittenClasses(dataset, "label", None)
    assert [written.find(escaped(name)) for name in feature.names] == [0, 1, 2]
    assert written.find("=a") == 0  # as a person may type it
