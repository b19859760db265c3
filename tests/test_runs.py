"""A run and its folder, without the script: what is the same run, what is scored, what it leaves."""

import json

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel
from helpers.toy import collate, tiny_bert, toy_dataset
from transformers import Trainer

from hf_clear import ClearTrainer, preset
from hf_clear.metrics import detection_metrics
from hf_clear.runs import (
    LabelArguments,
    NoisyTrainingArguments,
    PeftArguments,
    accuracy_over_epochs,
    datasets_of_each_epoch,
    default_learning_rate,
    detect_last_checkpoint,
    parse_arguments,
    results_table,
    run_arguments,
    save_clean_probabilities,
    save_predictions,
)

# ---- The same run, or another ----


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "out"


def arguments_of(folder, **changed) -> NoisyTrainingArguments:
    return NoisyTrainingArguments(output_dir=str(folder), use_cpu=True, **preset("clear") | changed)


def checkpoint(folder, step: int) -> str:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "trainer_state.json").write_text("{}")
    return str(path)


def test_goes_on_with_the_same_run_and_refuses_another(folder):
    first = arguments_of(folder)
    mine = run_arguments(first, PeftArguments("lora"), matrix=[[1.0]], token="secret")
    assert (mine["peft_method"], mine["learning_rate"], mine["matrix"]) == ("lora", 2e-3, [[1.0]])
    assert detect_last_checkpoint(first, mine) is None
    noted = json.loads((folder / "run_arguments.json").read_text())
    assert noted.pop("hf_clear_version") and "token" not in noted
    assert noted == {name: value for name, value in mine.items() if name != "token"}
    last = checkpoint(folder, 5)
    assert detect_last_checkpoint(first, {**mine, "token": "another"}) == last
    for changed in ({"matrix": None}, {"clear_gamma": 0.5}):
        with pytest.raises(ValueError, match=f"other arguments .{next(iter(changed))}.*`output_dir`.*`overwrite=True`"):
            detect_last_checkpoint(first, {**mine, **changed})
    with pytest.raises(ValueError, match="another --out, or start again in this one with --again"):
        detect_last_checkpoint(first, {**mine, "matrix": None}, options=("--out", "--again"))
    asked_for = arguments_of(folder, resume_from_checkpoint=last)
    assert detect_last_checkpoint(asked_for, {**mine, "matrix": None}) == last


def test_starting_again_leaves_what_is_the_users_alone(folder):
    arguments = arguments_of(folder)
    detect_last_checkpoint(arguments, run_arguments(arguments))
    names = ("mine.txt", "survey_results.json", "adapter_model.safetensors", "train_results.json", "all_results.json")
    for name in names:
        (folder / name).touch()
    # Without a checkpoint this is a new run: `save_metrics` would add to the results of the one before.
    assert detect_last_checkpoint(arguments, run_arguments(arguments)) is None
    left = {"mine.txt", "survey_results.json", "adapter_model.safetensors", "run_arguments.json"}
    assert {path.name for path in folder.iterdir()} == left
    checkpoint(folder, 3)
    assert detect_last_checkpoint(arguments, {"other": 1}, overwrite=True) is None
    assert {path.name for path in folder.iterdir()} == {"mine.txt", "survey_results.json", "run_arguments.json"}


def test_a_probe_is_something_to_go_on_with(folder):
    arguments = arguments_of(folder)
    mine = run_arguments(arguments)
    detect_last_checkpoint(arguments, mine, has_probe=True)
    (folder / "_turn_state.safetensors").touch()
    assert detect_last_checkpoint(arguments, mine) is None
    assert detect_last_checkpoint(arguments, {**mine, "turn_threshold": 0.9}, has_probe=True) == str(folder)
    with pytest.raises(ValueError, match=r"other arguments \(probe_epochs: 20 -> 3\)"):
        detect_last_checkpoint(arguments, {**mine, "probe_epochs": 3}, has_probe=True)


# ---- Arguments ----


def test_arguments_given_go_before_the_defaults_that_others_ask_for(tmp_path):
    def defaults_of(given):
        return {"lora_r": 16, "noise_seed": 7} if given.get("peft_method") == "lora" else {}

    classes = (PeftArguments, LabelArguments)
    (tmp_path / "a.json").write_text(json.dumps({"peft_method": "lora", "noise_seed": "3", "rank": 5}))
    for argv in (["--peft_method=lora", "--noise-seed", "3", "--lora_r", "5"], [str(tmp_path / "a.json")]):
        peft, labels = parse_arguments(classes, argv, defaults_of, aliases={"rank": "lora_r"})
        assert (peft.lora_r, labels.noise_seed) == (5, 3)
    peft, labels = parse_arguments(classes, ["--peft_m=lora"], defaults_of)
    assert (peft.lora_r, labels.noise_seed) == (16, 7)
    peft, labels = parse_arguments(classes, [], defaults_of)
    assert (peft.lora_r, labels.noise_seed) == (8, 42)


def test_peft_configs_from_arguments():
    config = PeftArguments("lora", "query, value", lora_r=3, lora_alpha=5, lora_dropout=0.5).peft_config("SEQ_CLS")
    assert (config.r, config.lora_alpha, config.lora_dropout, config.target_modules) == (3, 5, 0.5, {"query", "value"})
    assert PeftArguments("adapter", adapter_size=5).peft_config("SEQ_CLS").bottleneck_size == 5
    assert PeftArguments("prompt", num_virtual_tokens=3).peft_config("SEQ_CLS").num_virtual_tokens == 3
    assert PeftArguments("none").peft_config("SEQ_CLS") is None
    assert default_learning_rate("none") < default_learning_rate("lora") < default_learning_rate("prompt")
    with pytest.raises(ValueError, match="no PEFT method 'loar'"):
        default_learning_rate("loar")


# ---- What is scored ----


def test_the_best_model_is_never_chosen_on_the_test_set(folder):
    arguments = arguments_of(folder, metric_for_best_model="eval_accuracy")
    assert datasets_of_each_epoch(arguments, "validation", None) == "validation"
    assert arguments.metric_for_best_model == "eval_accuracy"
    both = datasets_of_each_epoch(arguments, "validation", "test")
    assert both == {"validation": "validation", "test": "test"}
    assert arguments.metric_for_best_model == "eval_validation_accuracy"
    assert datasets_of_each_epoch(arguments, None, "test") == {"test": "test"}
    assert datasets_of_each_epoch(arguments, None, None) is None and arguments.eval_strategy == "no"
    with pytest.raises(ValueError, match="never chosen on the test set"):
        arguments = arguments_of(folder, metric_for_best_model="test_accuracy")
        datasets_of_each_epoch(arguments, "validation", "test")
    with pytest.raises(ValueError, match="needs a validation set"):
        datasets_of_each_epoch(arguments_of(folder, load_best_model_at_end=True), None, None)


# ---- What a run leaves ----


@pytest.mark.parametrize("cls", [Trainer, ClearTrainer])
def test_a_table_of_clean_probabilities(tmp_path, training_arguments, cls):
    data = toy_dataset().rename_column("labels", "label")
    names = ClassLabel(names=["a", "b", "c", "d"])
    truth = [(label + (row < 3)) % 4 if row < 20 else -100 for row, label in enumerate(data["label"])]
    data = data.cast_column("label", names).add_column("true_label", truth).add_column("row", range(100, 124))
    arguments = training_arguments(num_train_epochs=2, clear_warmup_epochs=1)
    train = data.remove_columns(["row"]).rename_column("label", "labels")
    trainer = cls(tiny_bert(), arguments, train_dataset=train, data_collator=collate)
    trainer.train()
    metrics = save_clean_probabilities(trainer, data, tmp_path / "table.parquet", "row")
    table = pd.read_parquet(tmp_path / "table.parquet")
    assert list(table.columns) == ["sample_index", "given_label", "clean_probability", "loss", "true_label"]
    assert list(table.sample_index) == list(range(100, 124)) and list(table.given_label[:4]) == ["a", "b", "c", "d"]
    assert list(table.true_label[:4]) == ["b", "c", "d", "d"] and table.true_label[20:].isna().all()
    known = table[:20]
    expected = detection_metrics(known.clean_probability, known.true_label != known.given_label)
    assert metrics == pytest.approx(expected) and len(metrics) == 4
    assert save_clean_probabilities(trainer, data.remove_columns("true_label"), tmp_path / "table.parquet") == {}
    assert list(pd.read_parquet(tmp_path / "table.parquet").sample_index) == list(range(24))


def test_predictions_and_accuracy_over_epochs(tmp_path):
    save_predictions(np.eye(3)[[2, 0]], ["blue", "green", "räd"], tmp_path / "predict.txt")
    assert (tmp_path / "predict.txt").read_text("utf-8") == "index\tprediction\n0\träd\n1\tblue\n"
    history = [{"eval_test_accuracy": a, "epoch": e} for e, a in enumerate((0.5, 0.9, 0.7), 1)] + [{"loss": 1.0}]
    assert accuracy_over_epochs(history, 1) == {"test_peak_accuracy": 0.9, "test_average_accuracy": pytest.approx(0.8)}
    assert accuracy_over_epochs(history, 3) == {"test_peak_accuracy": 0.9}
    assert accuracy_over_epochs(history[3:], 1) == {}


def test_results_side_by_side():
    plain, clear = {"test_accuracy": 0.5, "cleanse_kept": 7, "x": 1}, {"test_accuracy": 0.75, "cleanse_kept": 8}
    assert results_table({"plain": plain, "CleaR": clear}, 3).splitlines() == [
        " " * 31 + "plain     CleaR",
        "test accuracy                 0.5000    0.7500",
        "kept samples                       7         8",
    ]
