"""run_glue_noisy.py a second time into the same folder."""

import json
import shutil

import pandas as pd
import pytest
import torch
from helpers.script import script  # noqa: F401
from helpers.texts import rows, write
from safetensors.torch import load_file


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


def corrected(frame: pd.DataFrame, *samples: int) -> pd.DataFrame:
    """With other labels for some samples."""
    frame = frame.copy()
    for row in samples:
        frame.loc[row, "label"] = {"red": "green", "green": "blue", "blue": "red"}[frame.loc[row, "label"]]
    return frame


@pytest.mark.parametrize("method", ["clear", "none", "turn"])
def test_after_labels_were_corrected(script, tmp_path, tiny_model, method):  # noqa: F811
    """The same command is refused, and says how to go on; with the weights of the run, it begins anew."""
    path, frame = tmp_path / "train.csv", rows(60)
    arguments = ["--train_file", write(frame, path), "--method", method, "--num_train_epochs", 2]
    arguments += ["--validation_split_percentage", 0]
    arguments += {"clear": ["--preset", "clear", "--clear_warmup_epochs", 1], "turn": ["--turn_threshold", 0.01]}.get(
        method, []
    )
    _, out = script(*arguments)
    content = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    write(corrected(frame, 3, 4), path)
    known = r" of 2 of 60 samples \(sample 3: 2 -> 1, sample 4: 1 -> 0\)" if method != "none" else ""
    message = rf"other training data: the labels{known} changed.*--output_dir.*--model_name_or_path .*checkpoint"
    for more in ([], ["--resume_from_checkpoint", next(out.glob("checkpoint-*"))]):
        with pytest.raises(ValueError, match=message):
            script(*arguments, *more)
    assert content == {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}

    checkpoint = next(out.glob("checkpoint-*"))
    if method == "clear":  # the default, where samples change places between training and validation set
        script(*arguments[:6], out="split")
        write(frame, path)
        with pytest.raises(ValueError, match="the validation set is drawn by the labels.*--model_name_or_path .*check"):
            script(*arguments[:6], out="split")
        write(corrected(frame, 3, 4), path)
    arguments += ["--model_name_or_path", checkpoint, "--learning_rate", 1e-12, "--use_cpu"]
    with pytest.raises(ValueError, match="checkpoint-16, which the run would overwrite or delete"):
        script(*arguments, "--output_dir", out, defaults=False)
    script(*arguments, "--output_dir", tmp_path / "next", defaults=False)
    table = pd.read_parquet(tmp_path / "next" / "clean_probabilities.parquet").sort_values("sample_index")
    assert list(table.given_label) == list(corrected(frame, 3, 4).label)
    name = "model.safetensors" if method == "turn" else "adapter_model.safetensors"
    first, second = (load_file(folder / name) for folder in (checkpoint, tmp_path / "next"))
    trained = [key for key in first if method != "turn" or not key.startswith("classifier")]  # which its probe trains
    assert trained and all(torch.allclose(first[key], second[key], atol=1e-6) for key in trained)


@pytest.mark.parametrize("steps", [(), ("--do_train",)])
def test_a_run_that_was_killed_between_its_training_and_its_results(script, tmp_path, steps):  # noqa: F811
    train, test = write(rows(60), tmp_path / "train.csv"), write(rows(9), tmp_path / "test.csv")
    arguments = ["--train_file", train, "--test_file", test, "--num_train_epochs", 1, *steps]
    first, out = script(*arguments)
    weights = (out / "adapter_model.safetensors").read_bytes()
    noted = json.loads((out / "run_arguments.json").read_text())
    (out / "run_arguments.json").write_text(json.dumps({k: v for k, v in noted.items() if k != "outputs"}))
    for path in (*out.glob("*_results.json"), out / "adapter_model.safetensors", out / "README.md"):
        path.unlink()
    second, _ = script(*arguments)
    assert second["clear"]["train_samples"] == 54 and (out / "adapter_model.safetensors").read_bytes() == weights
    assert "train_loss" not in second["clear"]  # of no step
    same = [name for name in first["clear"] if name.endswith("_accuracy")]
    assert bool(same) != bool(steps) and all(second["clear"][name] == first["clear"][name] for name in same)


def test_predictions_in_the_folder_of_a_run(script, tmp_path):  # noqa: F811
    """They are a run's, too: neither training there nor predicting there again is refused."""
    train, test = write(rows(60), tmp_path / "train.csv"), write(rows(9), tmp_path / "test.csv")
    training = ["--train_file", train, "--test_file", test, "--num_train_epochs", 1]
    _, out = script(*training)
    (out / "README.md").write_text("the user's, since the end of the training")
    for folder in (out, out / "predicted"):
        for _ in range(2):
            here = ["--model_name_or_path", out, "--output_dir", folder, "--use_cpu"]
            script("--test_file", test, "--do_predict", *here, defaults=False)
    assert (out / "README.md").read_text() == "the user's, since the end of the training"
    with pytest.raises(ValueError, match="holds README.md, and no run has written it as it is now"):
        script(*training)
    (out / "README.md").unlink()
    script(*training)
    script(*training, out="out/predicted")
    with pytest.raises(ValueError, match="other arguments.*clear_gamma"):
        script(*training, "--clear_gamma", 0.5)


def test_predictions_overwrite_no_file_of_a_user(script, tmp_path):  # noqa: F811
    test, arguments = write(rows(9), tmp_path / "test.csv"), ["--num_train_epochs", 1]
    _, out = script("--train_file", write(rows(60), tmp_path / "train.csv"), *arguments)
    folder = tmp_path / "mine"
    folder.mkdir()
    arguments = ["--do_predict", "--model_name_or_path", out, "--output_dir", folder, "--use_cpu", "--test_file"]
    for name in ("predict_results.txt", "all_results.json"):
        (folder / name).write_text("[]")
        with pytest.raises(ValueError, match=f"holds {name}, and no run has written it"):
            script(*arguments, test, defaults=False)
        assert (folder / name).read_text() == "[]" and len(list(folder.iterdir())) == 1
        (folder / name).unlink()
    (folder / "README.md").write_text("a file that no prediction writes")
    script(*arguments, test, defaults=False)
    with pytest.raises(ValueError, match="--test_file .*all_results.json.*would overwrite"):
        script(*arguments, write(rows(9), folder / "all_results.json"), defaults=False)
    (folder / "all_results.json").unlink()
    (folder / "predict_results.txt").write_text("corrected by hand")
    with pytest.raises(ValueError, match="holds predict_results.txt, and no run has written it as it is now"):
        script(*arguments, test, defaults=False)
    assert (folder / "README.md").read_text() == "a file that no prediction writes"


def test_other_names_and_another_test_set_are_the_same_run(script, tmp_path, tiny_model, monkeypatch):  # noqa: F811
    train, test = write(rows(60), tmp_path / "train.csv"), write(rows(9), tmp_path / "test.csv")
    _, out = script("--train_file", train, "--num_train_epochs", 1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(tiny_model)
    (tmp_path / "data").mkdir()
    for file in ("train.csv", shutil.copy(train, tmp_path / "data" / "train.csv")):
        results, _ = script(
            *("--train_file", file, "--test_file", test, "--num_train_epochs", 1, "--model_name_or_path", "model"),
            *("--output_dir", "out", "--use_cpu", "--learning_rate", 0.01, "--per_device_train_batch_size", 8),
            *("--disable_tqdm", "True", "--lora_alpha", 8, "--preset", "clear"),
            defaults=False,
        )
        assert results["clear"]["test_samples"] == 9
        assert list(out.glob("checkpoint-*")) == [out / "checkpoint-7"]
    with pytest.raises(ValueError, match="other training data: the inputs"):
        script("--train_file", write(rows(60, seed=5), tmp_path / "data" / "train.csv"), "--num_train_epochs", 1)


def test_what_is_in_the_way_and_what_is_no_checkpoint_is_named(script, tmp_path):  # noqa: F811
    arguments = ["--train_file", write(rows(60), tmp_path / "train.csv"), "--num_train_epochs", 1]
    _, out = script(*arguments)
    for folder, message in ((out, f"folder of a run: name {out}/checkpoint-7"), (tmp_path, "no trainer_state.json in")):
        with pytest.raises(ValueError, match=f"--resume_from_checkpoint {folder} is no checkpoint.*{message}"):
            script(*arguments, "--resume_from_checkpoint", folder)
    (out / "checkpoint-7" / "scores.txt").write_text("a user's")
    with pytest.raises(ValueError, match="holds checkpoint-7/scores.txt, and no run has written it"):
        script(*arguments)


def test_an_adapter_of_a_model_with_a_relative_name(script, tmp_path, tiny_model, monkeypatch):  # noqa: F811
    test = write(rows(9), tmp_path / "test.csv")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "model").symlink_to(tiny_model)
    monkeypatch.chdir(tmp_path / "here")
    train = ["--train_file", write(rows(60), tmp_path / "train.csv"), "--num_train_epochs", 1, "--use_cpu"]
    train += ["--preset", "clear"]
    script(*train, "--model_name_or_path", "./model", "--output_dir", "../out", defaults=False)
    prediction = ["--test_file", test, "--do_predict", "--model_name_or_path", tmp_path / "out", "--use_cpu"]
    script(*prediction, "--output_dir", tmp_path / "predicted", defaults=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"of the model './model', which isn't there \(seen from .*start from the f"):
        script(*prediction, "--output_dir", tmp_path / "predicted", defaults=False)


def test_files_that_are_damaged_are_named(script, tmp_path):  # noqa: F811
    arguments = ["--train_file", write(rows(60), tmp_path / "train.csv"), "--num_train_epochs", 1]
    _, out = script(*arguments)
    for name, more in (
        ("run_arguments.json", {}),
        ("adapter_config.json", {"--model_name_or_path": out, "--output_dir": tmp_path / "next"}),
    ):
        content = (out / name).read_bytes()
        (out / name).write_bytes(content[: len(content) // 2])
        message = f"{name}, .*is damaged or not of a run" if not more else rf"{out}/{name}.*JSON"
        with pytest.raises(ValueError, match=message):
            script(*arguments, *(value for pair in more.items() for value in pair), defaults=not more)
        (out / name).write_bytes(content)
