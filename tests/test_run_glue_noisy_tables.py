"""run_glue_noisy.py for the rows of the paper's tables: methods, ablations, memorization, real noise."""

import json

import pandas as pd
import pytest
from helpers.script import script  # noqa: F401
from helpers.texts import rows, write

from hf_clear.metrics import detection_metrics


@pytest.mark.parametrize("method", ["lora", "adapter", "bitfit", "prompt"])
def test_every_peft_method_plain_and_routed(script, tmp_path, method, capsys):  # noqa: F811
    sizes = {"adapter": ("--adapter_size", 5), "prompt": ("--num_virtual_tokens", 3)}
    results, out = script(
        *("--train_file", write(rows(60), tmp_path / "train.csv"), "--method", "both", "--peft_method", method),
        *("--noise_type", "symmetric", "--noise_rate", 0.3, "--num_train_epochs", 2, "--clear_warmup_epochs", 1),
        *("--report_memorization", *sizes.get(method, ())),
    )
    for name in ("none", "clear"):
        assert {"detection_auroc", "memorization_clean", "memorization_noisy"} <= results[name].keys()
        config = json.loads((out / name / "adapter_config.json").read_text())
        assert config["peft_type"] == ("LORA" if method == "lora" else f"CLEAR_{method.upper()}")
        if method != "lora":
            assert "import hf_clear" in (out / name / "README.md").read_text()
    assert config.get("bottleneck_size", 5) == 5 and config.get("num_virtual_tokens", 3) == 3
    assert "memorized: clean samples" in capsys.readouterr().out


def test_ablations(script, tmp_path):  # noqa: F811
    _, out = script(
        *("--train_file", write(rows(60), tmp_path / "train.csv"), "--routing", "random"),
        *("--noise_type", "symmetric", "--noise_rate", 0.3, "--num_train_epochs", 2, "--clear_warmup_epochs", 1),
        *("--clear_consistency_weight", 0, "--clear_estimator", "gaussian_mixture+knn"),
    )
    config = json.loads((out / "clear_config.json").read_text())
    assert (config["clear_routing"], config["clear_estimator"]) == ("random", "gaussian_mixture+knn")


def test_memorization_is_that_of_the_final_model(script, tmp_path):  # noqa: F811
    train = write(rows(90), tmp_path / "train.csv")
    arguments = ("--train_file", train, "--noise_type", "symmetric", "--noise_rate", 0.3, "--num_train_epochs", 2)
    arguments += ("--clear_warmup_epochs", 1, "--validation_split_percentage", 0)
    results, out = script(*arguments)
    assert not any(name.startswith("memorization_") for name in results["clear"])
    results, out = script(*arguments, "--report_memorization", "--overwrite_output_dir")
    table = pd.read_parquet(out / "clean_probabilities.parquet").sort_values("sample_index")
    # The same model again, on the training set as its test set.
    script(*arguments, "--report_memorization", "--overwrite_output_dir", "--test_file", train)
    predicted = [line.split("\t")[1] for line in (out / "predict_results.txt").read_text().splitlines()[1:]]
    as_given, wrong = predicted == table.given_label, table.true_label != table.given_label
    assert results["clear"]["memorization_noisy"] == pytest.approx(as_given[wrong].mean())
    assert results["clear"]["memorization_clean"] == pytest.approx(as_given[~wrong].mean())


def test_real_noise_with_the_truth_for_some(script, tmp_path):  # noqa: F811
    frame = rows(120)
    truth = frame["label"].astype(object)
    frame["label"] = frame["label"].where(frame.index % 4 > 0, frame["label"].iloc[1])  # green every fourth
    frame["truth"] = truth.where(frame.index % 2 == 0, None)
    results, out = script(
        *("--train_file", write(frame, tmp_path / "train.csv"), "--clean_label_column_name", "truth"),
        *("--num_train_epochs", 2, "--clear_warmup_epochs", 1, "--validation_split_percentage", 0),
        *("--routing", "oracle"),
    )
    table = pd.read_parquet(out / "clean_probabilities.parquet")
    assert table.true_label.notna().tolist() == [i % 2 == 0 for i in range(120)]
    known = table[table.true_label.notna()]
    assert results["clear"]["true_labels"] == 60
    assert results["clear"]["noise_rate"] == pytest.approx((known.true_label != known.given_label).mean())
    expected = detection_metrics(known.clean_probability, known.true_label != known.given_label)
    assert {name: results["clear"][name] for name in expected} == pytest.approx(expected) and len(expected) == 4
