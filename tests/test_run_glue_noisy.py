import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Value
from transformers import Trainer

import run_glue_noisy
from hf_clear import TurnTrainer
from hf_clear.metrics import detection_metrics

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("HF_CLEAR_DATA", ROOT.parent / "shared" / "data"))
COLORS = ("red", "green", "blue")


def rows(num_rows: int, label: str = "label", text: str = "text", seed: int = 0) -> pd.DataFrame:
    """Texts in which one color is frequent; the label is that color."""
    rng = random.Random(seed)
    colors = [COLORS[i % 3] for i in range(num_rows)]
    texts = [
        " ".join([f"{c}{rng.randrange(12)}" for _ in range(4)] + [f"filler{rng.randrange(12)}" for _ in range(3)])
        for c in colors
    ]
    return pd.DataFrame({"id": range(num_rows), text: texts, label: colors})


def write(frame: pd.DataFrame, path: Path) -> str:
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True)
    return str(path)


@pytest.fixture
def script(tmp_path, tiny_model, monkeypatch):
    """Runs the script in this process; returns its results and its output folder."""

    def run(*arguments: str, out: str = "out", defaults: bool = True):
        argv = [str(a) for a in arguments]
        if defaults:
            argv += ["--model_name_or_path", tiny_model, "--output_dir", str(tmp_path / out), "--use_cpu"]
            argv += [
                "--disable_tqdm",
                "True",
                "--learning_rate",
                "0.01",
                "--lora_alpha",
                "8",
                "--per_device_train_batch_size",
                "8",
            ]
        monkeypatch.setattr(sys, "argv", ["run_glue_noisy.py", *argv])
        return run_glue_noisy.main(), tmp_path / out

    return run


# ---- What it writes ----


@pytest.mark.parametrize("extension", ["csv", "json", "parquet"])
@pytest.mark.parametrize("numbers", [False, True])
def test_files_in_results_out(script, tmp_path, capsys, extension, numbers):
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


def test_both_methods_side_by_side_and_a_json_file(script, tmp_path, tiny_model, capsys):
    arguments = {
        "model_name_or_path": tiny_model,
        "method": "both",
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


def test_pairs_validation_file_and_no_noise(script, tmp_path):
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


def test_a_glue_task(script, monkeypatch):
    """The Hub is stood in for: GLUE's columns, its `idx`, its hidden test labels."""

    def load_dataset(path, name, **kwargs):
        assert (path, name) == ("nyu-mll/glue", "rte")
        feature = ClassLabel(names=["entailment", "not_entailment"])

        def pairs(n: int, seed: int, hidden: bool = False) -> Dataset:
            texts = [rows(n, seed=s)["text"].tolist() for s in (seed, seed + 1)]
            labels = [-1] * n if hidden else [i % 2 for i in range(n)]
            columns = {"sentence1": texts[0], "sentence2": texts[1], "idx": list(range(n))}
            return Dataset.from_dict(columns).add_column("label", labels, feature=feature)

        return DatasetDict(train=pairs(40, 0), validation=pairs(10, 5), test=pairs(10, 9, hidden=True))

    monkeypatch.setattr(run_glue_noisy, "load_dataset", load_dataset)
    results, out = script(
        *("--task_name", "rte", "--num_train_epochs", 1, "--noise_type", "asymmetric", "--noise_rate", 0.2)
    )
    assert results["clear"]["test_samples"] == 10 and results["clear"]["train_samples"] == 36
    assert set(pd.read_parquet(out / "clean_probabilities.parquet").given_label) == {"entailment", "not_entailment"}


def test_glue_tasks_have_metrics_of_their_own(script, monkeypatch):
    feature = ClassLabel(names=["not_equivalent", "equivalent"])

    def pairs(n: int, seed: int) -> Dataset:
        texts = [rows(n, seed=s)["text"].tolist() for s in (seed, seed + 1)]
        return Dataset.from_dict({"sentence1": texts[0], "sentence2": texts[1]}).add_column(
            "label", [i % 2 for i in range(n)], feature=feature
        )

    data = DatasetDict(train=pairs(40, 0), validation=pairs(10, 5))
    monkeypatch.setattr(run_glue_noisy, "load_dataset", lambda *args, **kwargs: data)
    results, out = script("--task_name", "mrpc", "--num_train_epochs", 1, "--method", "none")
    predicted = [line.split("\t")[1] for line in (out / "predict_results.txt").read_text().splitlines()[1:]]
    hits = [p == "equivalent" and i % 2 == 1 for i, p in enumerate(predicted)]
    f1 = 2 * sum(hits) / (predicted.count("equivalent") + 5)
    assert results["none"]["test_f1"] == pytest.approx(f1)


def test_a_local_folder_as_dataset_name(script, tmp_path):
    (tmp_path / "data").mkdir()
    for name, n in (("train", 60), ("validation", 9), ("test", 12)):
        write(rows(n), tmp_path / "data" / f"{name}.csv")
    results, _ = script("--dataset_name", tmp_path / "data", "--num_train_epochs", 1, "--method", "none")
    assert results["none"]["train_samples"] == 60 and results["none"]["test_samples"] == 12


def test_full_fine_tuning(script, tmp_path):
    results, out = script(
        *("--train_file", write(rows(60), tmp_path / "train.csv"), "--method", "none", "--peft_method", "none"),
        *("--num_train_epochs", 1, "--max_train_samples", 40, "--max_eval_samples", 3),
    )
    assert (out / "model.safetensors").is_file() and results["none"]["train_samples"] == 36


def turn_arguments(tmp_path) -> list:
    return [
        *("--train_file", write(rows(300), tmp_path / "train.csv"), "--method", "turn", "--probe_features", "mean"),
        *("--test_file", write(rows(60, seed=1), tmp_path / "test.csv"), "--noise_type", "symmetric"),
        *("--noise_rate", 0.3, "--num_train_epochs", 2, "--turn_balance", "none", "--learning_rate", "1e-3"),
    ]


def test_turn(script, tmp_path, capsys):
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


def test_turn_goes_on_where_it_was_stopped(script, tmp_path, monkeypatch):
    arguments = turn_arguments(tmp_path)
    straight, _ = script(*arguments, out="straight")
    with monkeypatch.context() as patch:
        patch.setattr(TurnTrainer, "finetune", lambda *args: sys.exit("killed"))
        with pytest.raises(SystemExit, match="killed"):
            script(*arguments)
    with pytest.raises(ValueError, match=r"other arguments \(probe_epochs\)"):
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


def test_clear_warmed_up_by_a_probe(script, tmp_path):
    arguments = ["--train_file", write(rows(300), tmp_path / "train.csv"), "--noise_type", "symmetric"]
    arguments += ["--noise_rate", 0.3, "--clear_warmup", "linear_probe", "--clear_warmup_epochs", 0]
    _, out = script(*arguments, "--num_train_epochs", 2, "--probe_features", "mean")
    logs = json.loads((out / "trainer_state.json").read_text())["log_history"]
    fits = [entry for entry in logs if "clean_fraction" in entry]
    assert [entry["epoch"] for entry in fits] == [0, 1] and fits[0]["detection_auroc"] > 0.6


def test_resumes_the_same_run_and_refuses_another(script, tmp_path):
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


def test_results_of_an_earlier_run_do_not_leak_into_a_new_one(script, tmp_path):
    arguments = ["--train_file", write(rows(60), tmp_path / "train.csv"), "--num_train_epochs", 1, "--method", "none"]
    script(*arguments, "--noise_type", "symmetric", "--noise_rate", 0.3, "--save_strategy", "no")
    results, _ = script(*arguments, "--overwrite_output_dir")
    assert "noise_rate" not in results["none"] and "detection_auroc" not in results["none"]


def test_average_accuracy_and_the_best_model(script, tmp_path):
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


def test_columns_may_have_any_name(script, tmp_path):
    names = ["row", "true_label", "labels", "token_type_ids", "sample_index", "label_ids"]
    frame = rows(60, label="category", text="label").assign(**{name: "x" for name in names})
    results, _ = script(
        *("--train_file", write(frame, tmp_path / "train.csv"), "--text_column_name", "label"),
        *("--label_column_name", "category", "--num_train_epochs", 1),
    )
    assert results["clear"]["train_samples"] == 54


# ---- The rows of the paper's tables ----


@pytest.mark.parametrize("method", ["lora", "adapter", "bitfit", "prompt"])
def test_every_peft_method_plain_and_routed(script, tmp_path, method, capsys):
    results, out = script(
        *("--train_file", write(rows(60), tmp_path / "train.csv"), "--method", "both", "--peft_method", method),
        *("--noise_type", "symmetric", "--noise_rate", 0.3, "--num_train_epochs", 2, "--clear_warmup_epochs", 1),
        *("--report_memorization", "--adapter_size", 5, "--num_virtual_tokens", 3),
    )
    for name in ("none", "clear"):
        assert {"detection_auroc", "memorization_clean", "memorization_noisy"} <= results[name].keys()
        config = json.loads((out / name / "adapter_config.json").read_text())
        assert config["peft_type"] == ("LORA" if method == "lora" else f"CLEAR_{method.upper()}")
        if method != "lora":
            assert "import hf_clear" in (out / name / "README.md").read_text()
    assert config.get("bottleneck_size", 5) == 5 and config.get("num_virtual_tokens", 3) == 3
    assert "memorized: clean samples" in capsys.readouterr().out


@pytest.mark.parametrize("routing", ["deterministic", "random", "noisy", "oracle", "none"])
def test_ablations(script, tmp_path, routing):
    _, out = script(
        *("--train_file", write(rows(60), tmp_path / "train.csv"), "--routing", routing),
        *("--noise_type", "symmetric", "--noise_rate", 0.3, "--num_train_epochs", 2, "--clear_warmup_epochs", 1),
        *("--clear_consistency_weight", 0, "--clear_estimator", "gaussian_mixture+knn"),
    )
    config = json.loads((out / "clear_config.json").read_text())
    assert (config["clear_routing"], config["clear_estimator"]) == (routing, "gaussian_mixture+knn")


@pytest.mark.parametrize("spelling", ["--peft_method adapter", "--peft-method adapter", "--peft_m=adapter", "json"])
def test_defaults_of_the_method_and_the_preset_give_way_to_arguments(script, tmp_path, tiny_model, spelling):
    arguments = {"train_file": write(rows(40), tmp_path / "train.csv"), "preset": "official", "clear_gamma": 0.6}
    arguments |= {"num_train_epochs": 1, "output_dir": str(tmp_path / "out"), "model_name_or_path": tiny_model}
    if spelling == "json":
        (tmp_path / "arguments.json").write_text(
            json.dumps({**arguments, "use_cpu": True, "peft_method": "adapter", "routing": "random"})
        )
        _, out = script(tmp_path / "arguments.json", defaults=False)
    else:
        given = [f"--{name}={value}" for name, value in arguments.items()]
        _, out = script(*given, "--use_cpu", "--routing", "random", *spelling.split(" "), defaults=False)
    used = json.loads((out / "run_arguments.json").read_text())
    assert used["learning_rate"] == run_glue_noisy.LEARNING_RATES["adapter"] != 2e-3
    assert (used["clear_gamma"], used["clear_routing"], used["lora_r"]) == (0.6, "random", 16)
    assert used["clear_estimator"] == "ema_gaussian_mixture" and used["clear_dropout_after_warmup"] is False


def test_starting_again_leaves_nothing_of_the_run_before(script, tmp_path):
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


def test_the_noise_does_not_depend_on_the_training_seed(script, tmp_path):
    def given(seed: int) -> pd.Series:
        _, out = script(
            *("--train_file", write(rows(90), tmp_path / "train.csv"), "--max_train_samples", 60, "--seed", seed),
            *("--noise_type", "symmetric", "--noise_rate", 0.5, "--num_train_epochs", 1, "--method", "none"),
            out=f"out{seed}",
        )
        return pd.read_parquet(out / "clean_probabilities.parquet").set_index("sample_index").given_label

    first, second = given(1), given(2)
    both = first.index.intersection(second.index)
    assert 0 < len(both) < 54 and (first[both] == second[both]).all()


def test_memorization_is_that_of_the_final_model(script, tmp_path):
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


def test_noise_that_depends_on_the_text_and_noise_from_a_matrix(script, tmp_path):
    train = write(rows(300), tmp_path / "train.csv")
    arguments = ("--train_file", train, "--num_train_epochs", 1, "--method", "none")
    results, out = script(*arguments, "--noise_type", "instance_dependent", "--noise_rate", 0.4)
    assert results["none"]["noise_rate"] == pytest.approx(0.4, abs=0.1)
    (tmp_path / "matrix.csv").write_text("1,0,0\n0,0,1\n0,0,1\n")  # green becomes red: classes in sorted order
    script(*arguments, "--transition_matrix_file", tmp_path / "matrix.csv", "--overwrite_output_dir")
    table = pd.read_parquet(out / "clean_probabilities.parquet")
    assert set(zip(table.true_label, table.given_label)) == {("blue", "blue"), ("green", "red"), ("red", "red")}
    (tmp_path / "matrix.csv").write_text("0,0,1\n0,0,1\n0,0,1\n")
    with pytest.raises(ValueError, match="other arguments .transition_matrix."):
        script(*arguments, "--transition_matrix_file", tmp_path / "matrix.csv")


def test_a_truth_that_numbers_its_classes_otherwise(script, tmp_path):
    frame = rows(60)
    data = Dataset.from_dict({"text": frame["text"], "label": frame["label"], "truth": frame["label"]})
    data = data.cast_column("label", ClassLabel(names=["red", "green", "blue"]))
    arguments = ("--dataset_name", tmp_path / "data", "--clean_label_column_name", "truth", "--num_train_epochs", 1)
    for kind in (ClassLabel(names=["blue", "green", "red"]), Value("string")):
        (tmp_path / "data").mkdir(exist_ok=True)
        data.cast_column("truth", kind).to_parquet(tmp_path / "data" / "train.parquet")
        results, _ = script(*arguments, "--method", "none", "--overwrite_output_dir")
        assert (results["none"]["noise_rate"], results["none"]["true_labels"]) == (0.0, 60)


@pytest.mark.parametrize("numbers", [False, True])
def test_real_noise_with_the_truth_for_some(script, tmp_path, numbers):
    frame = rows(120)
    if numbers:
        frame["label"] = frame["label"].map(COLORS.index)
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


# ---- Bad input: an error before training that says what to do ----


def bad_file(change, *arguments: str):
    """A csv file of 30 rows in which `change` changed something."""

    def build(tmp_path: Path) -> list[str]:
        return ["--train_file", write(change(rows(30)), tmp_path / "train.csv"), *arguments]

    return build


def set_cell(column: str, row: int, value, *arguments: str):
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame[column] = frame[column].astype(object)
        frame.loc[row, column] = value
        return frame

    return bad_file(change, *arguments)


def numbers(change):
    return bad_file(lambda frame: change(frame.assign(label=frame["label"].map(COLORS.index))))


def empty_file(tmp_path: Path) -> list[str]:
    (tmp_path / "train.csv").write_text("")
    return ["--train_file", str(tmp_path / "train.csv")]


def unknown_test_label(tmp_path: Path) -> list[str]:
    test = write(rows(9).replace({"blue": "purple"}), tmp_path / "test.csv")
    return bad_file(lambda frame: frame)(tmp_path) + ["--test_file", test]


def with_arguments(*arguments: str):
    return bad_file(lambda frame: frame, *arguments)


def other_matrix(tmp_path: Path) -> list[str]:
    (tmp_path / "matrix.csv").write_text("0.5,0.5\n0,1\n")
    return [*bad_file(lambda frame: frame)(tmp_path), "--transition_matrix_file", str(tmp_path / "matrix.csv")]


def best_on_the_test_set(tmp_path: Path) -> list[str]:
    test = write(rows(9), tmp_path / "test.csv")
    return [
        *bad_file(lambda frame: frame)(tmp_path),
        *("--test_file", test, "--test_each_epoch", "--load_best_model_at_end"),
        *("--metric_for_best_model", "eval_test_accuracy"),
    ]


def in_a_file(**arguments):
    def build(tmp_path: Path) -> list[str]:
        (tmp_path / "arguments.json").write_text(json.dumps({"output_dir": str(tmp_path / "out"), **arguments}))
        return [str(tmp_path / "arguments.json")]

    return build


BAD_INPUT = {
    "no such file": (lambda tmp_path: ["--train_file", "nowhere.csv"], "nowhere.csv: there is no such file"),
    "format": (lambda tmp_path: ["--train_file", __file__], r"has to end in \.csv, \.json"),
    "empty file": (empty_file, "train.csv is empty"),
    "no rows": (bad_file(lambda frame: frame.head(0)), "train.csv: there are no rows to read"),
    "no text column": (bad_file(lambda f: f.rename(columns={"text": "t"})), "no column 'text'.*There are: id, t"),
    "no label column": (bad_file(lambda f: f.drop(columns="label")), "no column 'label'.*label_column_name"),
    "empty text": (set_cell("text", 7, ""), "Row 7 of the train data .* column 'text' is empty"),
    "blank text": (set_cell("text", 7, "  "), "Row 7 of the train data .* column 'text' is empty"),
    "texts are numbers": (bad_file(lambda f: f.assign(text=f.id)), "Row 0 .* 'text' is no text but 0"),
    "missing label": (set_cell("label", 4, None), "Row 4 .* the label is missing"),
    "missing number": (numbers(lambda f: f.assign(label=f.label.where(f.id != 4))), "Row 4 .* the label is missing"),
    "float labels": (numbers(lambda f: f.assign(label=f.label + 0.5)), "sample 0 is 0.5, a float"),
    "negative labels": (numbers(lambda f: f.assign(label=f.label - 1)), "sample 0 is -1. It has to be 0 or above"),
    "one class": (bad_file(lambda f: f.assign(label="red")), "single class"),
    "class lost in the split": (
        set_cell("label", 3, "purple", "--validation_split_percentage", "90"),
        "No training sample is left of 1 of the 4 classes .purple.*--validation_split_percentage",
    ),
    "test label unknown": (unknown_test_label, "Row 2 of the test data .* 'purple', which no training sample"),
    "gamma": (with_arguments("--clear_gamma", "1.5"), r"clear_gamma.*\[0, 1\]; got 1.5"),
    "N": (with_arguments("--clear_ensemble_size", "0"), "1 or above; got 0"),
    "lambda": (with_arguments("--clear_consistency_weight", "-1"), "0 or above; got -1"),
    "noise rate": (with_arguments("--noise_type", "symmetric", "--noise_rate", "1.5"), r"in \[0, 1\]; got 1.5"),
    "rate without type": (with_arguments("--noise_rate", "0.2"), "needs a --noise_type"),
    "no modules to route": (with_arguments("--peft_method", "none"), "needs some: --peft_method lora"),
    "text is label": (with_arguments("--text_column_name", "label"), "'label' can't be text and label at once"),
    "limit": (with_arguments("--max_eval_samples", "0"), "--max_eval_samples has to be 1 or above; got 0"),
    "best of nothing": (
        with_arguments("--load_best_model_at_end", "--validation_split_percentage", "0"),
        "needs a validation set",
    ),
    "two kinds of noise": (
        with_arguments("--noise_type", "symmetric", "--transition_matrix_file", "m.csv"),
        "drop these",
    ),
    "type without rate": (with_arguments("--noise_type", "symmetric"), "--noise_type symmetric needs a --noise_rate"),
    "matrix of other classes": (
        other_matrix,
        "matrix.csv is for 2 classes. There are 3, in this order: blue, green, red",
    ),
    "method in a JSON file": (in_a_file(method="Clear"), "--method has to be one of none, .*turn, both; got 'Clear'"),
    "best on the test set": (
        best_on_the_test_set,
        "never chosen on the test set",
    ),
    "no matrix": (with_arguments("--transition_matrix_file", __file__), "has to end in .csv, .npy or .json"),
    "truth and noise": (
        with_arguments("--clean_label_column_name", "id", "--noise_type", "symmetric", "--noise_rate", "0.1"),
        "add no noise",
    ),
    "no truth column": (with_arguments("--clean_label_column_name", "truth"), "no column 'truth'"),
    "truth of no class": (
        bad_file(lambda f: f.assign(truth="purple"), "--clean_label_column_name", "truth"),
        "Row 0 of the train data .* true label 'purple', which is no label",
    ),
    "memorization of what": (with_arguments("--report_memorization"), "needs true labels"),
    "oracle without truth": (with_arguments("--routing", "oracle"), "needs to know the truth"),
    "estimator": (with_arguments("--clear_estimator", "mixture"), "no clean-probability estimator 'mixture'"),
    "bottleneck": (with_arguments("--peft_method", "adapter", "--adapter_size", "0"), "`bottleneck_size`"),
    "two sources": (with_arguments("--task_name", "rte"), "one source of data"),
    "regression": (lambda tmp_path: ["--task_name", "stsb"], "regression"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input(script, tmp_path, monkeypatch, case):
    def no_step(*args, **kwargs):
        raise AssertionError("a training step ran")

    monkeypatch.setattr(Trainer, "training_step", no_step)
    build, message = BAD_INPUT[case]
    arguments = build(tmp_path)
    with pytest.raises(ValueError, match=message):
        script(*arguments, defaults=not arguments[0].endswith(".json"))


# ---- End to end, on a pretrained backbone ----


def command(*arguments: str, cwd: Path) -> str:
    """Runs the script in a process of its own; returns what it prints."""
    run = subprocess.run(
        [sys.executable, str(ROOT / "run_glue_noisy.py"), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_without_arguments(tmp_path):
    """The very command of the README: no network, no arguments."""
    printed = command(cwd=tmp_path)
    assert "plain     CleaR" in printed and os.path.join("outputs", "embedded", "clear") in printed
    results = {
        method: json.loads((tmp_path / "outputs" / "embedded" / method / "all_results.json").read_text())
        for method in ("none", "clear")
    }
    assert results["clear"]["detection_auroc"] > 0.9
    assert results["clear"]["test_accuracy"] > results["none"]["test_accuracy"] + 0.02


@pytest.mark.skipif(not (DATA / "banking77").is_dir(), reason="needs BANKING77 in ../shared/data (or $HF_CLEAR_DATA)")
def test_real_queries(tmp_path):
    """10 of BANKING77's intents: CleaR and TURN find the wrong labels and learn the right ones."""
    train, test = (pd.read_csv(DATA / "banking77" / f"{name}.csv") for name in ("train", "test"))
    intents = sorted(set(train.category))[:10]
    files = [
        write(frame[frame.category.isin(intents)].head(limit), tmp_path / f"{name}.csv")
        for name, frame, limit in (("train", train.sample(frac=1, random_state=0), 4000), ("test", test, 400))
    ]
    arguments = ["--train_file", files[0], "--test_file", files[1], "--label_column_name", "category"]
    arguments += ["--noise_type", "symmetric", "--noise_rate", "0.4"]

    def results(method: str, *more: str) -> dict[str, float]:
        command(*arguments, "--method", method, "--output_dir", method, *more, cwd=tmp_path)
        return json.loads((tmp_path / method / "all_results.json").read_text())

    clear = results("clear", "--num_train_epochs", "4", "--clear_warmup_epochs", "3")
    assert clear["detection_auroc"] > 0.95 and clear["test_accuracy"] > 0.8
    turn = results("turn", "--num_train_epochs", "2")
    assert turn["probe_detection_auroc"] > 0.98 and turn["cleanse_purity"] > 0.95 and turn["cleanse_recall"] > 0.8
    assert min(turn["test_accuracy"], turn["probe_test_accuracy"]) > 0.9
