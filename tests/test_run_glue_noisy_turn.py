"""run_glue_noisy.py trains with TURN, and warms CleaR up by its probe."""

import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
from helpers.script import script  # noqa: F401
from helpers.texts import rows, write

from hf_clear import TurnTrainer
from hf_clear.metrics import detection_metrics


def turn_arguments(tmp_path) -> list:
    return [
        *("--train_file", write(rows(300), tmp_path / "train.csv"), "--method", "turn", "--probe_features", "mean"),
        *("--test_file", write(rows(60, seed=1), tmp_path / "test.csv"), "--noise_type", "symmetric"),
        *("--noise_rate", 0.3, "--num_train_epochs", 2, "--turn_balance", "none", "--learning_rate", "1e-3"),
    ]


def test_turn(script, tmp_path, capsys):  # noqa: F811
    results, out = script(*turn_arguments(tmp_path), "--turn_threshold", 0.7)
    results = results["turn"]
    assert (out / "model.safetensors").is_file()  # the whole model is trained, by default
    assert results == json.loads((out / "all_results.json").read_text())
    table = pd.read_parquet(out / "clean_probabilities.parquet")
    clean, kept = table.given_label == table.true_label, table.clean_probability > 0.7
    assert results["cleanse_kept"] == results["cleanse_fine_tuning_samples"] == kept.sum() < 250
    assert results["cleanse_purity"] == pytest.approx(clean[kept].mean()) and results["cleanse_purity"] > 0.75
    assert results["cleanse_recall"] == pytest.approx(kept[clean].mean()) and results["cleanse_recall"] > 0.5
    by_loss = detection_metrics(np.exp(-table.loss), ~clean)["detection_auroc"]
    assert results["probe_detection_auroc"] == pytest.approx(by_loss, abs=1e-3) and by_loss > 0.6
    assert min(results["test_accuracy"], results["probe_test_accuracy"]) > 0.5  # the backbone is random
    printed = capsys.readouterr().out
    assert "full fine-tuning" in printed and "probe: test accuracy" in printed and "of the correct, kept" in printed

    adapter, out = script(*turn_arguments(tmp_path), "--peft_method", "lora", out="peft")
    assert (out / "adapter_model.safetensors").is_file()
    assert adapter["turn"]["probe_test_accuracy"] == results["probe_test_accuracy"]
    used = json.loads((out / "run_arguments.json").read_text())
    assert used["peft_method"] == "lora"


def test_turn_goes_on_where_it_was_stopped(script, tmp_path, monkeypatch):  # noqa: F811
    arguments = turn_arguments(tmp_path)
    straight, _ = script(*arguments, out="straight")
    with monkeypatch.context() as patch:
        patch.setattr(TurnTrainer, "finetune", lambda *args: sys.exit("killed"))
        with pytest.raises(SystemExit, match="killed"):
            script(*arguments)
    with pytest.raises(ValueError, match=r"other arguments \(probe_epochs: 20 -> 3\)"):
        script(*arguments, "--probe_epochs", 3)
    with monkeypatch.context() as patch:
        patch.setattr(TurnTrainer, "linear_probe", None)
        resumed, out = script(*arguments)
        same = ("test_accuracy", "probe_test_accuracy", "cleanse_purity", "train_loss", "probe_loss")
        assert [resumed["turn"][name] for name in same] == [straight["turn"][name] for name in same]
        for checkpoint in out.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
        script(*arguments, "--turn_threshold", 0.9)  # cleanses anew, by the same probe
    assert json.loads((out / "run_arguments.json").read_text())["turn_threshold"] == 0.9


def test_clear_warmed_up_by_a_probe(script, tmp_path):  # noqa: F811
    arguments = ["--train_file", write(rows(300), tmp_path / "train.csv"), "--noise_type", "symmetric"]
    arguments += ["--noise_rate", 0.3, "--clear_warmup", "linear_probe", "--clear_warmup_epochs", 0]
    _, out = script(*arguments, "--num_train_epochs", 2, "--probe_features", "mean")
    logs = json.loads((out / "trainer_state.json").read_text())["log_history"]
    fits = [entry for entry in logs if "clean_fraction" in entry]
    assert [entry["epoch"] for entry in fits] == [0, 1] and fits[0]["detection_auroc"] > 0.6
