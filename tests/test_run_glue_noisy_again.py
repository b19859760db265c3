"""run_glue_noisy.py a second time into the same folder."""

import json

import pandas as pd
import pytest
from helpers.script import script  # noqa: F401
from helpers.texts import rows, write


def test_resumes_the_same_run_and_refuses_another(script, tmp_path):  # noqa: F811
    arguments = ["--train_file", write(rows(60), tmp_path / "train.csv"), "--clear_warmup_epochs", 1]
    arguments += ["--noise_type", "symmetric", "--noise_rate", 0.2, "--num_train_epochs", 3]
    first, out = script(*arguments)
    weights = (out / "adapter_model.safetensors").read_bytes()
    table = pd.read_parquet(out / "clean_probabilities.parquet")
    again, _ = script(*arguments)
    assert again["clear"]["detection_auroc"] == first["clear"]["detection_auroc"]
    assert again["clear"]["eval_accuracy"] == first["clear"]["eval_accuracy"]
    assert (out / "adapter_model.safetensors").read_bytes() == weights
    pd.testing.assert_frame_equal(pd.read_parquet(out / "clean_probabilities.parquet"), table)
    with pytest.raises(ValueError, match="other arguments.*clear_gamma.*--overwrite_output_dir"):
        script(*arguments, "--clear_gamma", 0.5)
    script(*arguments, "--clear_gamma", 0.5, "--overwrite_output_dir")
    assert json.loads((out / "clear_config.json").read_text())["clear_gamma"] == 0.5


def test_starting_again_leaves_nothing_of_the_run_before(script, tmp_path):  # noqa: F811
    train, test = write(rows(60), tmp_path / "train.csv"), write(rows(9), tmp_path / "test.csv")
    _, out = script("--train_file", train, "--test_file", test, "--num_train_epochs", 1)
    assert (out / "adapter_config.json").is_file() and (out / "predict_results.txt").is_file()
    arguments = ("--train_file", train, "--num_train_epochs", 1, "--method", "none", "--peft_method", "none")
    (out / "mine.txt").write_text("a file of the user's")
    script(*arguments, "--overwrite_output_dir")
    left = {path.name for path in out.iterdir()}
    assert {"model.safetensors", "mine.txt", "label_names.json"} <= left
    assert not left & {"adapter_config.json", "adapter_model.safetensors", "clear_config.json", "predict_results.txt"}
    assert json.loads((out / "label_names.json").read_text()) == ["blue", "green", "red"]
