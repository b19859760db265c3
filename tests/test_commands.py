"""The console script: from a file to a table, a summary and findings, and what it says when it can't."""

import csv
import json
import os
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hf_clear import commands, find_label_issues
from hf_clear.audit.summary import PRECISION_TITLE
from hf_clear.commands import main as hf_clear_command
from hf_clear.commands.errors import in_words

COLORS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def labelled_file(tmp_path_factory):
    """Texts that a bag of words tells apart, a quarter of them with a wrong label."""
    rng, rows = np.random.default_rng(0), []
    for number in range(180):
        true = number % 3
        words = [f"{COLORS[true]}{rng.integers(12)}" for _ in range(6)] + [f"filler{rng.integers(12)}"]
        given = (true + rng.integers(1, 3)) % 3 if number % 4 == 0 else true
        rows.append((" ".join(words), COLORS[given], COLORS[true]))
    rows[7] = ("\x1b[31m=red1 red2 red3 <script>", *rows[7][1:])
    rows[11] = (rows[8][0], *rows[11][1:])  # the same text with another label
    path = tmp_path_factory.mktemp("data") / "train.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("sentence", "colour", "truth"), *rows])
    return path, np.array([row[1] != row[2] for row in rows])


def test_audit_goes_from_a_file_to_a_table_and_a_summary(labelled_file, tiny_model, tmp_path, capsys):
    path, is_wrong = labelled_file
    out = tmp_path / "audit"
    columns = ["--text-column-name", "sentence", "--label-column-name", "colour", "--disable_tqdm"]
    arguments = ["audit", str(path), *columns, "--output_dir", str(out), "--model_name_or_path", tiny_model]
    assert hf_clear_command([*arguments, "--clean_label_column_name", "truth"]) == 0
    said = capsys.readouterr().out
    assert "180 labels, 3 classes" in said and "more likely wrong than right" in said and "\x1b" not in said
    assert "Share of wrong labels: between" in said and "planted errors" in said and str(out / "audit.json") in said
    found = json.loads((out / "audit.json").read_text())
    assert found["noise_rate"]["low"] <= is_wrong.mean() <= found["noise_rate"]["high"]
    assert found["measured"]["noise_rate"] == pytest.approx(is_wrong.mean())
    assert found["measured"]["detection_auroc"] > 0.8 and found["arguments"]["seed"] == 0
    table = pd.read_parquet(out / "label_issues.parquet")
    assert len(table) == 180 and list(table.columns[:3]) == ["sample_index", "sentence", "given_label"]
    order = np.cumsum(is_wrong[table["sample_index"]])
    for row in found["expected_precision"]:
        assert row["precision_low"] <= order[row["num_labels"] - 1] / row["num_labels"] <= row["precision_high"]
    issues = table[table["is_label_issue"]]
    assert len(issues) == found["num_label_issues"] and set(issues["predicted_label"]) <= set(COLORS)
    assert is_wrong[issues["sample_index"]].mean() > 0.6
    assert len(pd.read_csv(out / "label_issues.csv")) == 180
    page = tmp_path / "again.html"
    assert hf_clear_command(["report", str(out), "--output", str(page)]) == 0
    assert PRECISION_TITLE in page.read_text() and PRECISION_TITLE in (out / "report.html").read_text()

    assert found["is_supported"] and "1 text is there with different labels" in " ".join(said.split())
    between = re.compile(r"The share of wrong labels is between ([\d.]+)\s% and ([\d.]+)\s%")
    for own in (page, out / "report.html"):  # as the audit, whatever else it warns of
        (low, high) = map(float, between.search(own.read_text(encoding="utf-8")).groups())
        assert [low, high] == pytest.approx([100 * found["noise_rate"][end] for end in ("low", "high")], abs=0.051)
        assert "are expected to be really wrong" in own.read_text(encoding="utf-8")

    assert hf_clear_command([*arguments, "--threshold", "1"]) == 0  # its own files are replaced
    assert hf_clear_command(["report", str(out), "--output", str(page)]) == 0
    for text in (capsys.readouterr().out, *(own.read_text(encoding="utf-8") for own in (page, out / "report.html"))):
        told = re.search(r"right with a probability below the chosen threshold of 100\s% \((\d+) labels are", text)
        assert int(told[1]) == len(issues) and "suspects: more likely wrong" not in text
    (out / "label_issues.csv").write_text("mine")
    capsys.readouterr()
    assert hf_clear_command(arguments) == 2
    assert "label_issues.csv is there, and is no table" in capsys.readouterr().err
    assert (out / "label_issues.csv").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["audit", "{file}"], "The train data have no column 'text' (--text_column_name)"),
        (["audit", "nowhere.csv"], "nowhere.csv: there is no such file."),
        (["audit", "{file}", "--text_column_name", "a,b,c"], "takes one column, or two for pairs; got a,b,c"),
        (["audit", "{file}", "--threshold", "2"], "--threshold has to be a probability in [0, 1]; got 2.0."),
        (["audit", "{file}", "--output_dir", "{file}"], "is a file. Name a folder."),
        (["audit", "{file}", "--output_dir", "{file}/out"], "train.csv is a file. Name a folder."),
        (
            ["audit", "{file}", "--label_colum_name", "x"],
            "no option --label_colum_name. Did you mean --label_column_name?",
        ),
        (["audit", "{file}", "other.csv"], "'other.csv' belongs to no option, and one file is audited at a time."),
        (["audit", "{file}", "--text_column_name", " "], "--text_column_name is empty"),
        (["audit", "{file}", "--model_revision", "v2"], "--model_revision v2 has no model"),
        (["train", "--num_train_epochs", "-3"], "--num_train_epochs has to be above 0; got -3."),
        (["audit", "{file}", "--model_name_or_path", "/nope"], "--model_name_or_path /nope: there is no such folder."),
        (["audit", "{file}", "--seed", "-1"], "--seed has to be from 0 to 4294967295; got -1."),
        (["train", "--learning_rate", "0"], "--learning_rate has to be above 0; got 0."),
        (["train", "--seed", "-1"], "--seed has to be from 0 to 4294967295; got -1."),
        (["train", "--eval_accumulation_steps", "0"], "--eval_accumulation_steps has to be 1 or above; got 0."),
        (["train", "--per_device_train_batch_size", "0"], "--per_device_train_batch_size has to be 1 or above; got 0."),
        (["train", "--output_dir", "{file}/out"], "train.csv is a file. Name a folder."),
        (["grid", "--output_dir", "{file}/out"], "train.csv is a file. Name a folder."),
        (["report", "{folder}"], "has no label_issues.parquet"),
        (["report", "nowhere"], "nowhere: there is no such folder."),
        (["audits"], "there is no command 'audits'"),
    ],
)
def test_what_cant_be_used_is_said_before_work_starts(arguments, message, labelled_file, tmp_path, capsys):
    names = {"file": str(labelled_file[0]), "folder": str(tmp_path)}
    assert hf_clear_command([argument.format(**names) for argument in arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [["audit", "{file}"], ["train"], ["grid"]], ids=lambda command: command[0])
def test_a_folder_that_cant_be_written_to_is_refused_before_work_starts(
    command, labelled_file, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(os, "access", lambda *args: False)  # as root, everything can be written to
    arguments = [argument.format(file=labelled_file[0]) for argument in command]
    assert hf_clear_command([*arguments, "--output_dir", str(tmp_path / "out")]) == 2
    assert f"out: {tmp_path} can't be written to. Name another folder." in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_audit_says_what_no_model_has_to_look_at(tmp_path, capsys):
    """One text with two labels, by their rows; names of columns with commas in them, or of the table's own columns."""
    rows = [(f"{'red' if i % 2 else 'blue'}{i % 7} number {i}", f"c{i % 2}", f"c{i % 2}") for i in range(60)]
    rows += [(f" {text.upper()}", "c1", "c0") for text, label, _ in rows[4:8] if label == "c0"]
    for text_column in ("text, all of it", "corrected_label"):
        file, out = tmp_path / "train.csv", tmp_path / text_column.partition(",")[0]
        pd.DataFrame(rows, columns=[text_column, "label", "true"]).to_csv(file, index=False)
        arguments = ["--text_column_name", text_column, "--clean_label_column_name", "true", "--output_dir", str(out)]
        assert hf_clear_command(["audit", str(file), *arguments]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "2 texts are there with different labels, in 4 rows (counted from 0): row 4 is c0, and row 60" in said
        assert "By 62 true labels: 3.2 % are wrong" in said or "No sample whose true label is known" in said
        assert "2 texts are there" in (out / "report.html").read_text(encoding="utf-8")
        table = pd.read_csv(out / "label_issues.csv", keep_default_na=False)
        assert "number" in table["text" if text_column == "corrected_label" else text_column][0].lower()
        assert set(table["corrected_label"]) == {""}
    pd.DataFrame({"text": ["a b", "c d", "e f"], "label": ["x", "y", "z"]}).to_csv(file, index=False)
    assert hf_clear_command(["audit", str(file), "--output_dir", str(tmp_path / "few")]) == 0
    assert "3 classes for 3 labels, too few of each" in " ".join(capsys.readouterr().out.split())


def test_training_says_its_own_errors_in_a_line_and_shows_where_others_come_from(capsys, monkeypatch, tmp_path):
    assert hf_clear_command(["train", "--train_file", "nope.csv", "--output_dir", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "hf-clear train: --train_file nope.csv: there is no such file.\n"

    def of_another():
        np.ones(3).reshape(2, 2)

    def of_ours():
        find_label_issues([0, 1], np.ones((3, 2)) / 2)

    assert in_words(of_ours, "train", only_ours=True) == 2
    assert capsys.readouterr().err == "train: `pred_probs` has 3 rows for 2 labels: one row for each.\n"
    assert in_words(of_another, "audit") == 2 and in_words(lambda: {"plain": 0.5}, "train") == 0
    with pytest.raises(ValueError, match="cannot reshape"):
        in_words(of_another, "train", only_ours=True)


def test_the_script_and_the_module_are_one(capsys):
    config = ConfigParser()
    config.read(Path(__file__).parents[1] / "setup.cfg")
    assert config["options.entry_points"]["console_scripts"].strip() == "hf-clear = hf_clear.commands:main"
    assert config["options"]["py_modules"] == "run_glue_noisy"  # what `hf-clear train` runs
    run = subprocess.run([sys.executable, "-m", "hf_clear"], capture_output=True, text=True)
    assert run.returncode == 0 and all(name in run.stdout for name in commands.COMMANDS), run.stderr
    for name in commands.COMMANDS:
        with pytest.raises(SystemExit) as end:
            hf_clear_command([name, "--help"])
        assert end.value.code == 0
    assert re.search(r"--method .*--lora_r ", capsys.readouterr().out, re.DOTALL)
