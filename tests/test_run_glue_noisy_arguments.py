"""The command line of run_glue_noisy.py: defaults, choices, the data that it names, and errors before training."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.script import parsed, script  # noqa: F401
from helpers.texts import rows, write
from transformers import Trainer

import run_glue_noisy
from hf_clear import ClearLoraConfig, ClearTrainer
from hf_clear.noise import NOISE_TYPES, register_noise_type
from hf_clear.presets import PRESETS
from hf_clear.routing import ROUTING_STRATEGIES
from hf_clear.runs import default_learning_rate
from hf_clear.tuners import PEFT_METHODS, register_peft_method


@pytest.mark.parametrize("spelling", ["--peft_method adapter", "--peft-method adapter", "--peft_m=adapter", "json"])
def test_defaults_of_the_method_and_the_preset_give_way_to_arguments(parsed, tmp_path, spelling):  # noqa: F811
    arguments = {"train_file": write(rows(6), tmp_path / "train.csv"), "preset": "official", "clear_gamma": 0.6}
    arguments["output_dir"] = str(tmp_path / "out")
    if spelling == "json":
        arguments |= {"use_cpu": True, "peft_method": "adapter", "routing": "random"}
        (tmp_path / "arguments.json").write_text(json.dumps(arguments))
        model_args, _, used = parsed(str(tmp_path / "arguments.json"))
    else:
        given = [f"--{name}={value}" for name, value in arguments.items()]
        model_args, _, used = parsed(*given, "--use_cpu", "--routing", "random", *spelling.split(" "))
    assert used.learning_rate == default_learning_rate("adapter") != 2e-3
    assert (used.clear_gamma, used.clear_routing, model_args.adapter_size) == (0.6, "random", 16)
    assert used.clear_estimator == "plain_ema_gaussian_mixture" and used.clear_dropout_after_warmup is False
    of_lora = parsed(*(f"--{name}={value}" for name, value in {**arguments, "peft_method": "lora"}.items()))[0]
    assert (of_lora.lora_r, of_lora.lora_alpha) == (4, 1)  # loralib's default of alpha


# ---- What is registered before `main()` is called ----


@pytest.fixture
def registered():
    """A member of each family, for one test."""
    families = (NOISE_TYPES, PEFT_METHODS, ROUTING_STRATEGIES, PRESETS, run_glue_noisy.METHODS)
    before = [dict(family) for family in families]
    register_noise_type("to_blue", lambda labels, num_labels, rate, rng, features: np.zeros_like(labels))
    register_peft_method("rslora", ClearRsLoraConfig, 4e-3)
    ROUTING_STRATEGIES["half"] = ROUTING_STRATEGIES["random"]
    PRESETS["mine"] = lambda peft_method: {"clear_gamma": 0.3}
    run_glue_noisy.METHODS["mine"] = ("mine", ClearTrainer)
    yield
    for family, members in zip(families, before):
        for name in [name for name in family if name not in members]:
            del family[name]


@dataclass
class ClearRsLoraConfig(ClearLoraConfig):
    use_rslora: bool = True


def test_what_is_registered_is_a_choice(script, registered, tmp_path, capsys):  # noqa: F811
    with pytest.raises(SystemExit, match="0"):
        script("--help", defaults=False)
    helped = capsys.readouterr().out
    added = {"noise-type": "to_blue", "peft-method": "rslora", "routing": "half", "preset": "mine", "method": "mine"}
    for option, name in added.items():
        choices = re.search(rf" --{option}\s+{{(.*?)}}", helped, re.DOTALL).group(1)
        assert name in choices.split(","), option
    results, out = script(
        *("--train_file", write(rows(60), tmp_path / "train.csv"), "--num_train_epochs", 2, "--clear_warmup_epochs", 1),
        *("--method", "mine", "--peft_method", "rslora", "--routing", "half"),
        *("--noise_type", "to_blue", "--noise_rate", 0.5),
    )
    assert set(pd.read_parquet(out / "clean_probabilities.parquet").given_label) == {"blue"}
    assert results["mine"]["noise_rate"] == pytest.approx(2 / 3)
    assert json.loads((out / "adapter_config.json").read_text())["use_rslora"] is True
    assert "      mine" in capsys.readouterr().out


def test_what_is_not_registered_is_no_choice(script, tmp_path, capsys):  # noqa: F811
    with pytest.raises(SystemExit):
        script("--noise_type", "to_blue", "--noise_rate", 0.5)
    assert "invalid choice: 'to_blue'" in capsys.readouterr().err
    (tmp_path / "arguments.json").write_text(json.dumps({"noise_type": "to_blue", "noise_rate": 0.5}))
    with pytest.raises(ValueError, match="--noise_type has to be one of none, .*symmetric.*; got 'to_blue'"):
        script(tmp_path / "arguments.json", defaults=False)


# ---- What has no effect, and what is asked for ----

NO_EFFECT = [
    (("--method", "turn", "--preset", "paper"), "preset"),
    (("--method", "none", "--preset", "paper"), "preset"),
    (("--method", "none", "--clear_gamma", "0.9"), "clear_gamma"),  # the default, but said
    (("--method", "turn", "--routing", "clean"), "clear_routing"),
    (("--method", "none", "--clear_dropout_after_warmup", "False"), "clear_dropout_after_warmup"),
    (("--method", "none", "--clear_warmup_epochs", "2"), "clear_warmup_epochs"),
    (("--method", "clear", "--turn_threshold", "0.7"), "turn_threshold"),
    (("--method", "both", "--turn_balance", "min"), "turn_balance"),
    (("--method", "none", "--probe_gce_q", "0.5"), "probe_gce_q"),
    (("--peft_method", "adapter", "--lora_r", "4"), "lora_r"),
    (("--peft_method", "lora", "--adapter_size", "4"), "adapter_size"),
    (("--peft_method", "bitfit", "--num_virtual_tokens", "4"), "num_virtual_tokens"),
    (("--method", "turn", "--target_modules", "query"), "target_modules"),
    (("--method", "none", "--peft_method", "none", "--lora-alpha=4"), "lora_alpha"),
    (("--noise_seed", "3"), "noise_seed"),
    (("--dataset_config_name", "x"), "dataset_config_name"),
    (("--overwrite_cache",), "overwrite_cache"),
    (("--method", "both", "--resume_from_checkpoint", "True"), "resume_from_checkpoint"),
]


IDLE = [
    (("--clear_warmup", "epochs", "--probe_epochs", "3"), "probe_epochs"),
    (("--preset", "clear", "--clear_evidence", "mean_probe"), "clear_evidence"),
    (("--preset", "recommended", "--clear_min_explained", "0", "--clear_gamma", "0.5"), "clear_gamma"),
    (("--preset", "clear", "--clear_min_explained", "0"), "clear_min_explained"),
    (("--clear_loss", "gce", "--clear_consistency_weight", "2"), "clear_consistency_weight"),
]


@pytest.mark.parametrize("arguments, name", IDLE, ids=str)
def test_a_setting_that_is_idle_beside_the_others_is_refused(parsed, arguments, name):  # noqa: F811
    with pytest.raises(ValueError, match=f"^--{name} has no effect here: it takes .*--preset"):
        parsed(*arguments)


@pytest.mark.parametrize("arguments, name", NO_EFFECT, ids=str)
def test_an_option_without_effect_is_refused(parsed, arguments, name):  # noqa: F811
    with pytest.raises(ValueError, match=f"^--{name} has no effect with .*: it goes with "):
        parsed(*arguments)


def test_options_with_an_effect(parsed, tmp_path):  # noqa: F811
    for arguments in (
        ("--method", "both", "--preset", "paper", "--routing", "random", "--clear_gamma", "0.5", "--lora_r", "4"),
        ("--method", "none", "--clear_warmup_epochs", "2", "--test_each_epoch"),
        ("--method", "clear", "--clear_warmup", "linear_probe", "--probe_epochs", "3"),
        ("--method", "turn", "--peft_method", "lora", "--lora_r", "4", "--turn_balance", "min", "--probe_epochs", "3"),
        ("--peft_method", "prompt", "--num_virtual_tokens", "3", "--noise_type", "symmetric", "--noise_rate", "0.1"),
        ("--method", "both", "--resume_from_checkpoint", "False"),
        (*run_glue_noisy.EMBEDDED_DEFAULT,),
    ):
        parsed(*arguments, "--use_cpu", "--output_dir", str(tmp_path / "out"))


def test_what_is_asked_for(parsed, tmp_path):  # noqa: F811
    def steps(*arguments: str) -> tuple:
        args = parsed(*arguments, "--use_cpu", "--output_dir", str(tmp_path))[2]
        return args.do_train, args.do_eval, args.do_predict, str(args.eval_strategy.value)

    assert steps() == (True, True, True, "epoch")
    assert steps("--do_train") == (True, False, False, "no")
    assert steps("--do_train", "--do_eval") == (True, True, False, "epoch")
    assert steps("--do_train", "--eval_strategy", "epoch") == (True, True, False, "epoch")  # as in transformers
    assert steps("--do_train", "--do_predict") == (True, False, True, "no")
    assert steps("--do_predict") == (False, False, True, "no")
    with pytest.raises(ValueError, match="nothing to do: of --do_train, --do_eval, --do_predict, none is on"):
        steps("--do_train", "False")
    with pytest.raises(ValueError, match="--method both compares two trainings: it goes with --do_train"):
        steps("--method", "both", "--do_predict")


def test_a_file_of_arguments_is_taken_at_its_word(parsed, tmp_path):  # noqa: F811
    path = tmp_path / "[a].json"

    def used(text: str) -> tuple:
        path.write_text(text, encoding="utf-8-sig")
        return parsed(str(path))

    model, data, training = used('{"method": "none", "do_train": "False", "do_predict": "True", "use_cpu": "yes", '
                                 '"lora_r": "4", "learning_rate": "0.5", "text_column_name": "4"}')  # fmt: skip
    assert (training.do_train, training.do_predict, model.lora_r, training.learning_rate) == (False, True, 4, 0.5)
    assert data.text_column_name == "4"
    for text, message in (
        ('{"lora_r": 4, "lora_r": 8}', "has the argument 'lora_r' twice"),
        ('{"lora_r": "four"}', "'lora_r' can't be 'four'"),
        ('{"lora_rank": 4}', "lora_rank"),
        ('{"routing": "random", "method": "none"}', "--clear_routing has no effect"),
        ("[1]", "has to hold one object"),
        ("{", "can't be read as JSON"),
    ):
        with pytest.raises(ValueError, match=message):
            used(text)
    with pytest.raises(ValueError, match="nowhere.json: there is no such file of arguments"):
        parsed("nowhere.json")
    with pytest.raises(ValueError, match="--train_file nowhere.json: there is no such file"):
        parsed("--train_file=nowhere.json")


# ---- Data ----


@pytest.fixture
def load_data(parsed):  # noqa: F811
    """`load_data` of the script, from a command line."""
    return lambda *argv: run_glue_noisy.load_data(*parsed(*map(str, argv)))


def test_the_noise_does_not_depend_on_the_training_seed(load_data, tmp_path):
    train = write(rows(90), tmp_path / "train.csv")

    def given(seed: int) -> dict[int, int]:
        raw_datasets, names, noise = load_data(
            *("--train_file", train, "--max_train_samples", 60, "--seed", seed),
            *("--noise_type", "symmetric", "--noise_rate", 0.5),
        )
        assert names == ["blue", "green", "red"] and noise["true_labels"] == 60
        return dict(zip(raw_datasets["train"]["row"], raw_datasets["train"]["label"]))

    first, second = given(1), given(2)
    both = first.keys() & second.keys()
    assert 0 < len(both) < 54 and all(first[row] == second[row] for row in both)


def test_noise_from_a_matrix(load_data, tmp_path):
    (tmp_path / "matrix.csv").write_text("1,0,0\n0,0,1\n0,0,1\n")  # green becomes red: classes in sorted order
    train, test = write(rows(300), tmp_path / "train.csv"), write(rows(30), tmp_path / "test.csv")
    arguments = ("--train_file", train, "--test_file", test, "--transition_matrix_file", tmp_path / "matrix.csv")
    raw_datasets, names, noise = load_data(*arguments, "--max_eval_samples", 5, "--max_predict_samples", 7)
    assert {name: len(split) for name, split in raw_datasets.items()} == {"train": 270, "validation": 5, "test": 7}
    pairs = set(zip(raw_datasets["train"]["true_label"], raw_datasets["train"]["label"]))
    assert {(names[true], names[given]) for true, given in pairs} == {
        ("blue", "blue"),
        ("green", "red"),
        ("red", "red"),
    }
    assert noise == {"true_labels": 300, "noise_rate": pytest.approx(1 / 3)}


def test_columns_by_their_names(load_data, tmp_path):
    frame = rows(30).rename(columns={"text": "a, b", "label": " label"}).assign(a="x", b="y")
    frame.to_csv(tmp_path / "run[1].csv", index=False)
    arguments = ("--train_file", tmp_path / "run[1].csv", "--label_column_name", " label", "--text_column_name")
    assert load_data(*arguments, "a, b")[0]["train"]["text"][0] == frame["a, b"][0]
    pair = load_data(*arguments, "a,b")[0]["train"]
    assert (pair["text"][0], pair["text_pair"][0]) == ("x", "y")
    with pytest.raises(ValueError, match="takes one column, or two for pairs; got a,b,c"):
        load_data(*arguments, "a,b,c")


# ---- Bad input: an error before training that says what to do ----


def bad_file(change, *arguments: str):
    """A csv file of 30 rows in which `change` changed something."""

    def build(tmp_path: Path) -> list[str]:
        return ["--train_file", write(change(rows(30)), tmp_path / "train.csv"), *arguments]

    return build


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
    "no such model": (with_arguments("--config_name", "~/nowhere"), "--config_name ~/nowhere: there is no such folder"),
    "a file as a data set": (lambda tmp_path: ["--dataset_name", __file__], "is a file: that is for --train_file"),
    "a folder as a file": (lambda tmp_path: ["--train_file", str(tmp_path)], "--train_file .* is a folder"),
    "no text column": (
        bad_file(lambda f: f.rename(columns={"text": "t"})),
        "no column 'text' .--text_column_name.*There are: id, t",
    ),
    "class lost in the split": (
        bad_file(lambda f: f.assign(label=f.label.where(f.id != 3, "purple")), "--validation_split_percentage", "90"),
        "No training sample is left of 1 of the 4 classes .purple.*--validation_split_percentage",
    ),
    "best metric": (
        with_arguments("--metric_for_best_model", "accurcy"),
        "--metric_for_best_model accurcy: there is no such metric. There are loss, accuracy",
    ),
    "best metric of several sets": (
        with_arguments("--metric_for_best_model", "validation_accuracy"),
        "--metric_for_best_model validation_accuracy: there is no such metric",
    ),
    "gamma": (with_arguments("--clear_gamma", "1.5"), r"clear_gamma.*\[0, 1\]; got 1.5"),
    "N": (with_arguments("--clear_ensemble_size", "0"), "1 or above; got 0"),
    "lambda": (with_arguments("--clear_consistency_weight", "-1"), "0 or above; got -1"),
    "noise rate": (with_arguments("--noise_type", "symmetric", "--noise_rate", "1.5"), r"in \[0, 1\]; got 1.5"),
    "rate without type": (with_arguments("--noise_rate", "0.2"), "needs a --noise_type"),
    "no modules to route": (with_arguments("--peft_method", "none"), "needs some: --peft_method .*lora"),
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
    "no truth column": (
        with_arguments("--clean_label_column_name", "truth"),
        "no column 'truth' .--clean_label_column_name",
    ),
    "truth of no class": (
        bad_file(lambda f: f.assign(truth="purple"), "--clean_label_column_name", "truth"),
        "Row 0 of the train data .* true label 'purple', which is no label",
    ),
    "memorization of what": (with_arguments("--report_memorization"), "needs true labels"),
    "oracle without truth": (with_arguments("--routing", "oracle"), "needs to know the truth"),
    "bottleneck": (with_arguments("--peft_method", "adapter", "--adapter_size", "0"), "`bottleneck_size`"),
    "two sources": (with_arguments("--task_name", "rte"), "one source of data"),
    "regression": (lambda tmp_path: ["--task_name", "stsb"], "regression"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input(script, tmp_path, monkeypatch, case):  # noqa: F811
    def no_step(*args, **kwargs):
        raise AssertionError("a training step ran")

    monkeypatch.setattr(Trainer, "training_step", no_step)
    build, message = BAD_INPUT[case]
    arguments = build(tmp_path)
    with pytest.raises(ValueError, match=message):
        script(*arguments, defaults=not arguments[0].endswith(".json"))


@pytest.mark.parametrize("given", [{"learning_rate": None}, {"train_file": ["a.csv"]}, {"seed": [1, 2]}])
def test_a_value_of_another_kind_in_a_json_file_is_named(parsed, tmp_path, given):  # noqa: F811
    (tmp_path / "arguments.json").write_text(json.dumps(given))
    with pytest.raises(ValueError, match=f"arguments.json: '{next(iter(given))}' can't be .*"):
        parsed(str(tmp_path / "arguments.json"))


def test_values_in_a_json_file_count_as_on_a_command_line(parsed, tmp_path):  # noqa: F811
    path, train = tmp_path / "arguments.json", write(rows(6), tmp_path / "train.csv")
    given = {"train_file": train, "output_dir": str(tmp_path / "out"), "use_cpu": 1, "max_train_samples": 5.0}
    path.write_text(json.dumps({**given, "label_column_name": 0, "learning_rate": 1}))
    _, data_args, training_args = parsed(str(path))
    assert (data_args.max_train_samples, data_args.label_column_name) == (5, "0") and training_args.use_cpu is True
    assert type(data_args.max_train_samples) is int and type(training_args.learning_rate) is float
    for wrong, message in (
        ({"max_train_samples": 5.5}, "'max_train_samples' can't be 5.5"),
        ({"lora_r": True}, "'lora_r' can't be True"),
        ({"train_fil": train}, "there is no argument 'train_fil'. Did you mean 'train_file'?"),
    ):
        path.write_text(json.dumps({**given, **wrong}))
        with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")):
            parsed(str(path))
