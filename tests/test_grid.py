"""`hf-clear grid`: what it trains, what it refuses, and the tables that it writes."""

import csv
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hf_clear.commands import grid
from hf_clear.commands import main as hf_clear_command

NOISE = ["--noise_type", "symmetric", "--noise_rates", "0.2"]


@pytest.fixture
def trained(monkeypatch):
    """Instead of training: folders with results, and the commands that there were. Seed 3 is broken."""
    ran = []

    def train(command, stdout):
        ran.append(command)
        given = dict(zip(command[4::2], command[5::2]))
        folder, is_broken = Path(given["--output_dir"]), given["--seed"] == "3"
        folder.mkdir(parents=True, exist_ok=True)
        accuracy = 0.5 + 0.1 * (given["--method"] == "clear") + 0.01 * int(given["--seed"])
        (folder / "all_results.json").write_text(json.dumps({"test_accuracy": accuracy, "train_loss": 1.0}))
        return subprocess.CompletedProcess(command, int(is_broken))

    monkeypatch.setattr(grid.subprocess, "run", train)
    return ran


def test_it_trains_what_is_not_trained_yet(trained, tmp_path, capsys):
    arguments = ["grid", "--output_dir", str(tmp_path), *NOISE]
    assert hf_clear_command([*arguments, "--seeds", "1", "2", "--lora_r", "4"]) == 0
    said = capsys.readouterr().out
    assert "0.515 ± 0.007 (2)" in said and "0.615 ± 0.007 (2)" in said and "train_loss" not in said
    assert (
        "No difference to none in 'symmetric 20%', of which both have no tested seed: clear." in said
        and "No curves: --test_each_epoch" in said
    )
    assert len(trained) == 4 and trained[0][1:4] == ["-m", "hf_clear", "train"]
    assert trained[0][-4:-2] == ["--lora_r", "4"]
    table = pd.read_csv(tmp_path / "grid.csv")
    assert len(table) == 4
    of_setting = ["setting", "noise_type", "noise_rate", "peft_method", "learning_rate"]
    assert list(table.columns) == [*of_setting, "method", "seed", "test_accuracy"]
    assert hf_clear_command([*arguments, "--seeds", "1", "2", "--lora_r", "4"]) == 0 and len(trained) == 4
    assert hf_clear_command([*arguments, "--seeds", "1", "--lora_r", "8"]) == 0 and len(trained) == 6  # other arguments
    assert trained[4][-1] == trained[5][-1] == "--overwrite_output_dir" and "--overwrite_output_dir" not in trained[3]
    capsys.readouterr()
    assert (
        hf_clear_command([*arguments, "--seeds", "1", "3", "--lora_r", "8"]) == 1
    )  # what failed is said in the tables
    said = capsys.readouterr()
    assert "failed (exit status 1" in said.err and "| symmetric 20% | none | 0.510 |" in said.out
    assert "Missing: clear in 'symmetric 20%', seed 3: failed" in (tmp_path / "grid.md").read_text()
    assert "% Missing: clear" in (tmp_path / "grid.tex").read_text()
    assert hf_clear_command([*arguments, "--seeds", "3", "--lora_r", "8"]) == 1
    assert "There is nothing to compare." in capsys.readouterr().err


def test_what_is_not_finished_counts_for_nothing(trained, tmp_path, capsys):
    """A training with other arguments, broken off after it had written results: the one before is trained again."""
    arguments = ["grid", "--output_dir", str(tmp_path), "--methods", "none"]
    assert hf_clear_command([*arguments, "--seeds", "1"]) == 0 and len(trained) == 1
    noted = json.loads((tmp_path / "grid.json").read_text())
    noted["none_none_0_1"]["is_finished"] = False
    (tmp_path / "grid.json").write_text(json.dumps(noted))
    assert hf_clear_command([*arguments, "--seeds", "1"]) == 0 and len(trained) == 2
    assert "--overwrite_output_dir" not in trained[1]  # the same arguments: it is resumed
    (tmp_path / "none_none_0_1" / "all_results.json").write_text("{")
    assert hf_clear_command([*arguments, "--seeds", "1", "2"]) == 1  # the others are still compared
    assert "its results can't be read" in capsys.readouterr().err and len(pd.read_csv(tmp_path / "grid.csv")) == 1


def test_what_was_to_be_trained_anew_is_so_until_it_has_ended(trained, tmp_path):
    """Broken off before it had begun: what is there is still the training with other arguments."""
    arguments = ["grid", "--output_dir", str(tmp_path), "--methods", "none", "--seeds", "3"]
    for rank in ("4", "8", "8"):  # seed 3 breaks
        assert hf_clear_command([*arguments, "--lora_r", rank]) == 1
    assert [command[-1] == "--overwrite_output_dir" for command in trained] == [False, True, True]


def test_noise_of_a_rate_of_0_is_no_noise(trained, tmp_path):
    arguments = [
        "grid",
        "--output_dir",
        str(tmp_path),
        "--methods",
        "none",
        "--noise_types",
        "none",
        "symmetric",
        "asymmetric",
    ]
    assert hf_clear_command([*arguments, "--noise_rates", "0", "0.12345678", "--report_memorization", "True"]) == 0
    assert [Path(command[-1]).name for command in trained] == [
        *("none_none_0_42", "none_symmetric_0.12345678_42", "none_asymmetric_0.12345678_42")
    ]
    assert ["--report_memorization" in command for command in trained] == [False, True, True]  # of what is not known


def test_methods_that_train_something_else_are_told_apart(trained, tmp_path, capsys):
    assert hf_clear_command(["grid", "--output_dir", str(tmp_path), "--methods", "none", "turn"]) == 0
    said = capsys.readouterr().out
    assert "| none (lora) |" in said and "| turn (full fine-tuning) |" in said
    assert pd.read_csv(tmp_path / "grid.csv")["learning_rate"].nunique() == 2


def test_it_goes_over_data_peft_methods_noise_and_presets(trained, tmp_path, capsys):
    arguments = [
        "grid",
        "--output_dir",
        str(tmp_path),
        "--data_sets",
        "sst2",
        "my/texts",
        "--peft_methods",
        "lora",
        "bitfit",
    ]
    arguments += [
        "--methods",
        "none",
        "clear:paper",
        "--noise_types",
        "none",
        "symmetric",
        "--noise_rates",
        "0.29",
        "0.4",
    ]
    assert hf_clear_command(arguments) == 0
    assert len(trained) == 2 * 2 * 2 * 3
    given = [dict(zip(command[4::2], command[5::2])) for command in trained]
    assert {(one.get("--task_name"), one.get("--dataset_name")) for one in given} == {
        ("sst2", None),
        (None, "my/texts"),
    }
    assert {(one["--method"], one.get("--preset")) for one in given} == {("none", None), ("clear", "paper")}
    assert {(one.get("--noise_type"), one.get("--noise_rate")) for one in given} == {
        *((None, None), ("symmetric", "0.29"), ("symmetric", "0.4"))
    }
    folders = {Path(one["--output_dir"]).name for one in given}
    assert len(folders) == 24 and "my-texts_bitfit_clear-paper_symmetric_0.4_42" in folders
    said = capsys.readouterr().out
    assert "| my/texts, symmetric 29%, bitfit | clear:paper |" in said and "| sst2, no noise, lora | none |" in said
    assert "12 settings, p = 0.0005 (Wilcoxon)" in said  # all signs alike: 2 / 2^12
    table = pd.read_csv(tmp_path / "grid.csv")
    assert set(table["data_set"]) == {"sst2", "my/texts"} and set(table["noise_rate"]) == {0.0, 0.29, 0.4}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "3"], "--seed is what the grid goes over: list its values in --seeds"),
        (["--noise-seed=3"], "--noise-seed is what the grid goes over: list its values in --seeds"),
        (["--data_sets", "sst2", "--train_file", "a.csv"], "--train_file is what the grid goes over"),
        (["--peft_methods", "lora", "--peft_method", "lora"], "list its values in --peft_methods"),
        (["--methods", "none", "clear:paper", "--preset", "clear"], "--preset is what the grid goes over"),
        (["--noise_rates", "0.2"], "--noise_types and --noise_rates go together"),
        (["--noise_types", "symmetric"], "--noise_types and --noise_rates go together"),
        (["--noise_type", "symmetric", "--noise_rates", "20"], "--noise_rates: 20 is no share between 0 and 1"),
        (["--noise_type", "symetric", "--noise_rates", "0.2"], "--noise_types: 'symetric' is none. There are"),
        (["--methods", "both"], "--methods: 'both' is none. There are none, clear, turn and clear:recommended"),
        (["--methods", "none:paper"], "--methods: 'none:paper' is none."),
        (["--methods", "clear:"], "--methods: 'clear:' is none."),
        (["--methods", "none", "none"], "--methods: none is there twice"),
        (["--data_sets", "a/b", "a-b"], "Two trainings would be in the folder a-b_none"),
        (["--peft_methods", "LoRA"], "--peft_methods: 'LoRA' is none. There are"),
        (["--baseline", "turn"], "--baseline: 'turn' is none of --methods, none, clear."),
        # What a training would refuse, too
        (["--nosuch", "3"], "unrecognized arguments: --nosuch 3"),
        (["--see", "7"], "would be trained with seed 7: list seeds in --seeds alone."),
        (["--preset", "paper"], "none_none_0_42 can't be trained: --preset"),
        (["--peft_methods", "none"], "clear_none_0_42 can't be trained: --method clear routes samples around PEFT"),
        (["--train_file", "{csv}"], "There is nothing to compare methods by: name labelled test data, --test_file."),
        (["--data_sets", "{folder}"], "has train data and no test data, such as test.csv."),
        (["arguments.json"], "'arguments.json' belongs to no option."),
    ],
)
def test_what_cant_be_trained_is_said_before_the_first_training(arguments, message, trained, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "train.csv"
    file.write_text("text,label\na,b\n")
    arguments = [argument.format(csv=file, folder=file.parent) for argument in arguments]
    assert hf_clear_command(["grid", "--output_dir", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not trained and not (tmp_path / "out").exists()


def test_it_is_one_process(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert hf_clear_command(["grid", "--output_dir", str(tmp_path)]) == 2 and not trained
    assert "call it without a launcher" in capsys.readouterr().err


def test_another_model_of_the_same_name_is_trained_anew(trained, tiny_model, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    arguments = ["grid", "--output_dir", str(tmp_path / "out"), "--methods", "none", "--model_name_or_path", str(model)]
    for _ in range(2):
        assert hf_clear_command(arguments) == 0 and len(trained) == 1
    with open(model / "config.json", "a") as file:
        file.write(" ")
    assert hf_clear_command(arguments) == 0 and len(trained) == 2 and trained[1][-1] == "--overwrite_output_dir"


@pytest.mark.parametrize("name", ["grid.csv", "grid.md", "grid.tex", "grid.svg", "grid.json"])
def test_files_of_others_stay(name, trained, tmp_path, capsys):
    (tmp_path / name).write_text("mine")
    assert hf_clear_command(["grid", "--output_dir", str(tmp_path)]) == 2 and not trained
    assert f"{name} is there, and is none of a grid" in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "mine"


def test_a_picture_of_before_goes(trained, tmp_path, capsys):
    (tmp_path / "grid.svg").write_text("<!-- hf-clear grid -->")
    assert hf_clear_command(["grid", "--output_dir", str(tmp_path)]) == 0
    assert "No curves" in capsys.readouterr().out and not (tmp_path / "grid.svg").exists()


def test_end_to_end(tiny_model, tmp_path, capfd):
    """Two trainings: what each got right is in its folder, and compared; its own files are replaced."""
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    texts = [(f"{'red blue'.split()[number % 2]}{rng.integers(9)}", "ab"[number % 2]) for number in range(48)]
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "test"):
        with open(data / f"{split}.csv", "w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *texts])
    arguments = [
        "grid",
        "--output_dir",
        str(tmp_path / "out"),
        *NOISE,
        "--data_sets",
        str(data),
        "--num_train_epochs",
        "2",
    ]
    arguments += ["--model_name_or_path", tiny_model, "--use_cpu", "--test_each_epoch", "--report_memorization"]
    arguments += ["--validation_split_percentage", "0", "--disable_tqdm", "True"]
    for _ in range(2):
        assert hf_clear_command(arguments) == 0
        said = capfd.readouterr()
    assert "| symmetric 20% | clear | 1 |" in said.out and "memorized right labels" in said.out
    folder = tmp_path / "out" / "data_clear_symmetric_0.2_42"
    table = pd.read_parquet(folder / "test_predictions.parquet")
    results = json.loads((folder / "all_results.json").read_text())
    assert (table["true_label"] == table["predicted_label"]).mean() == pytest.approx(results["test_accuracy"])
    assert table["true_label"].tolist() == [label for _, label in texts] and table["confidence"].between(0.5, 1).all()
    before = results
    results = folder.parent / "data_none_symmetric_0.2_42" / "all_results.json"
    changed = [*arguments, "--num_train_epochs", "1", "--methods", "none"]
    assert hf_clear_command(changed) == 0  # neither resumed nor taken for it
    assert json.loads(results.read_text())["epoch"] == 1.0 and before["epoch"] == 2.0
    written = results.stat().st_mtime_ns
    assert hf_clear_command(changed) == 0 and results.stat().st_mtime_ns == written
    with open(data / "test.csv", "a") as file:
        file.write("red1,a\n")
    assert hf_clear_command(changed) == 0 and results.stat().st_mtime_ns > written  # of what the files hold now
    assert all((tmp_path / "out" / f"grid.{kind}").stat().st_size for kind in ("csv", "md", "tex", "svg"))
