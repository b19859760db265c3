"""run_glue_noisy.py: data of every kind in, results out."""

import json

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict
from helpers.script import script  # noqa: F401
from helpers.texts import rows, write

import run_glue_noisy
from hf_clear.metrics import detection_metrics


@pytest.mark.parametrize("extension, numbers", [("csv", False), ("parquet", True)])
def test_files_in_results_out(script, tmp_path, capsys, extension, numbers):  # noqa: F811
    train, test = rows(600), rows(60, seed=1)
    if numbers:  # classes need not start at 0 or be contiguous
        for frame in (train, test):
            frame["label"] = frame["label"].map({"red": 2, "green": 5, "blue": 9})
    results, out = script(
        *("--train_file", write(train, tmp_path / f"train.{extension}")),
        *("--test_file", write(test, tmp_path / f"test.{extension}"), "--test_each_epoch"),
        *("--noise_type", "symmetric", "--noise_rate", "0.3", "--num_train_epochs", 5, "--clear_warmup_epochs", 3),
    )
    saved = json.loads((out / "all_results.json").read_text())
    assert results == {"clear": saved}
    # Far above chance (1/3 and 1/2); the backbone has random weights.
    assert saved["test_accuracy"] > 0.6 and saved["detection_auroc"] > 0.75
    assert saved["test_peak_accuracy"] >= saved["test_accuracy"] and saved["test_average_accuracy"] > 0.6
    assert saved["train_samples"] == 540 and 0.15 < saved["noise_rate"] < 0.45

    table = pd.read_parquet(out / "clean_probabilities.parquet")
    assert list(table.columns) == ["sample_index", "given_label", "clean_probability", "loss", "true_label"]
    assert len(table) == table.sample_index.nunique() == 540, "one row a training sample"
    truth = train.label.astype(str).to_numpy()
    assert (table.true_label == truth[table.sample_index]).all(), "the index is the row in the file"
    assert table.clean_probability.between(0, 1).all()
    wrong = table.true_label != table.given_label
    assert saved["noise_rate"] == pytest.approx(wrong.mean(), abs=0.02)  # of all samples, the validation split included
    expected = detection_metrics(table.clean_probability, wrong)
    assert {name: saved[name] for name in expected} == pytest.approx(expected) and len(expected) == 4
    for name in ("adapter_model.safetensors", "clear_config.json", "predict_results.txt", "trainer_state.json"):
        assert (out / name).is_file(), name

    predicted = [line.split("\t")[1] for line in (out / "predict_results.txt").read_text().splitlines()[1:]]
    hits = [name == str(label) for name, label in zip(predicted, test.label)]
    assert sum(hits) / 60 == pytest.approx(saved["test_accuracy"]), "predictions in the order of the file"

    printed = capsys.readouterr().out
    assert f"{saved['test_accuracy']:.4f}" in printed and str(out) in printed


def test_both_methods_side_by_side_and_a_json_file(script, tmp_path, tiny_model, capsys):  # noqa: F811
    arguments = {
        "model_name_or_path": tiny_model,
        "method": "both",
        "preset": "clear",
        "train_file": write(rows(60), tmp_path / "train.csv"),
        "test_file": write(rows(30, seed=1), tmp_path / "test.csv"),
        "noise_type": "asymmetric",
        "noise_rate": 0.2,
        "num_train_epochs": 2,
        "clear_warmup_epochs": 1,
        "output_dir": str(tmp_path / "out"),
        "use_cpu": True,
    }
    (tmp_path / "arguments.json").write_text(json.dumps(arguments))
    results, out = script(tmp_path / "arguments.json", defaults=False)
    assert results["none"]["noise_rate"] == results["clear"]["noise_rate"]
    plain, clear = (pd.read_parquet(out / method / "clean_probabilities.parquet") for method in ("none", "clear"))
    assert (plain[["sample_index", "given_label"]] == clear[["sample_index", "given_label"]]).all().all()
    printed = capsys.readouterr().out
    assert "plain     CleaR" in printed and str(out / "none") in printed and str(out / "clear") in printed


def test_pairs_validation_file_and_no_noise(script, tmp_path):  # noqa: F811
    def pairs(n: int, seed: int) -> pd.DataFrame:
        return rows(n, seed=seed).assign(other=rows(n, seed=seed + 1)["text"])

    results, out = script(
        *("--train_file", write(pairs(60, 0), tmp_path / "train.csv")),
        *("--validation_file", write(pairs(12, 5), tmp_path / "val.csv"), "--text_column_name", "text, other"),
        *("--method", "none", "--num_train_epochs", 1),
    )
    assert "eval_accuracy" in results["none"] and results["none"]["train_samples"] == 60
    assert not any(key.startswith(("test_", "detection_")) for key in results["none"])
    table = pd.read_parquet(out / "clean_probabilities.parquet")
    assert "true_label" not in table and list(table.sample_index) == list(range(60))


@pytest.mark.parametrize(
    "task, names", [("rte", ["entailment", "not_entailment"]), ("mrpc", ["not_equivalent", "equivalent"])]
)
def test_a_glue_task(script, monkeypatch, task, names):  # noqa: F811
    """The Hub is stood in for: GLUE's columns, its `idx`, its hidden test labels; mrpc has a metric of its own."""

    def load_dataset(path, name, **kwargs):
        assert (path, name) == ("nyu-mll/glue", task)

        def pairs(n: int, seed: int, hidden: bool = False) -> Dataset:
            texts = [rows(n, seed=s)["text"].tolist() for s in (seed, seed + 1)]
            labels = [-1] * n if hidden else [i % 2 for i in range(n)]
            columns = {"sentence1": texts[0], "sentence2": texts[1], "idx": list(range(n))}
            return Dataset.from_dict(columns).add_column("label", labels, feature=ClassLabel(names=names))

        return DatasetDict(train=pairs(40, 0), validation=pairs(10, 5), test=pairs(10, 9, hidden=True))

    monkeypatch.setattr(run_glue_noisy, "load_dataset", load_dataset)
    results, out = script(
        *("--task_name", task, "--num_train_epochs", 1, "--noise_type", "asymmetric", "--noise_rate", 0.2)
    )
    assert results["clear"]["test_samples"] == 10 and results["clear"]["train_samples"] == 36
    assert set(pd.read_parquet(out / "clean_probabilities.parquet").given_label) == set(names)
    predicted = [line.split("\t")[1] for line in (out / "predict_results.txt").read_text().splitlines()[1:]]
    hits = [p == "equivalent" and i % 2 == 1 for i, p in enumerate(predicted)]
    f1 = 2 * sum(hits) / (predicted.count("equivalent") + 5)
    assert results["clear"].get("test_f1") == (pytest.approx(f1) if task == "mrpc" else None)


def test_a_local_folder_as_dataset_name(script, tmp_path):  # noqa: F811
    (tmp_path / "data").mkdir()
    for name, n in (("train", 60), ("validation", 9), ("test", 12)):
        write(rows(n), tmp_path / "data" / f"{name}.csv")
    results, _ = script("--dataset_name", tmp_path / "data", "--num_train_epochs", 1, "--method", "none")
    assert results["none"]["train_samples"] == 60 and results["none"]["test_samples"] == 12


def test_full_fine_tuning(script, tmp_path):  # noqa: F811
    results, out = script(
        *("--train_file", write(rows(60), tmp_path / "train.csv"), "--method", "none", "--peft_method", "none"),
        *("--num_train_epochs", 1, "--max_train_samples", 40, "--max_eval_samples", 3),
    )
    assert (out / "model.safetensors").is_file() and results["none"]["train_samples"] == 36


def test_average_accuracy_and_the_best_model(script, tmp_path):  # noqa: F811
    results, out = script(
        *("--train_file", write(rows(300), tmp_path / "train.csv")),
        *("--test_file", write(rows(60, seed=1), tmp_path / "test.csv"), "--test_each_epoch"),
        *("--num_train_epochs", 4, "--clear_warmup_epochs", 1, "--load_best_model_at_end"),
        *("--metric_for_best_model", "accuracy", "--save_total_limit", 5),
    )
    state = json.loads((out / "trainer_state.json").read_text())
    history = [entry for entry in state["log_history"] if "eval_test_accuracy" in entry]
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4], "the test set is scored once an epoch"
    accuracies = [entry["eval_test_accuracy"] for entry in history]
    assert results["clear"]["test_average_accuracy"] == pytest.approx(sum(accuracies[1:]) / 3)
    assert results["clear"]["test_peak_accuracy"] == max(accuracies)
    validation = [e["eval_validation_accuracy"] for e in state["log_history"] if "eval_validation_accuracy" in e]
    assert state["best_metric"] == max(validation)
    best = [accuracy for accuracy, score in zip(accuracies, validation) if score == max(validation)]
    assert results["clear"]["test_accuracy"] == pytest.approx(best[0])
