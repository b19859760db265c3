"""run_glue_noisy.py on models that were trained before, without training, and on models without a padding token."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import ClassLabel, Dataset
from helpers.script import script  # noqa: F401
from helpers.texts import rows, write
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BartConfig,
    BartForSequenceClassification,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from hf_clear.runs.models import longest_input, order_of_classes, set_padding

ORDER = ("red", "blue", "green")  # of the fine-tuned model; that of the data is alphabetical


def predictions(out: Path) -> list[str]:
    return [line.split("\t")[1] for line in (out / "predict_results.txt").read_text().splitlines()[1:]]


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory, tiny_model):
    """A model that knows its three classes, and texts with what it says of them: its accuracy is 1."""
    folder = tmp_path_factory.mktemp("fine_tuned")
    shutil.copytree(tiny_model, folder, dirs_exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(tiny_model, id2label=dict(enumerate(ORDER)))
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, config=config, ignore_mismatched_sizes=True)
    frame = rows(40)
    with torch.no_grad():
        scores = model.eval()(**tokenizer(list(frame["text"]), padding=True, return_tensors="pt")).logits
        model.classifier.bias -= scores.mean(0)
        numbers = (scores - scores.mean(0)).argmax(1)
    assert set(numbers.tolist()) == {0, 1, 2}
    model.save_pretrained(folder)
    return folder, frame.assign(label=[ORDER[i] for i in numbers])


def with_names(folder: Path, names) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": dict(enumerate(names)), "label2id": {str(name): i for i, name in enumerate(names)}}
    (folder / "config.json").write_text(json.dumps(config))


STILL = ("--num_train_epochs", 1, "--clear_warmup_epochs", 1, "--test_each_epoch", "--learning_rate", "1e-12")


def names_in(frame: pd.DataFrame, folder: Path) -> list[str]:
    write(frame, folder / "data.csv")
    return [str(folder / "data.csv")] * 2


def integers_in(frame: pd.DataFrame, folder: Path) -> list[str]:
    return names_in(frame.assign(label=frame["label"].map({"red": 10, "blue": 2, "green": 9})), folder)


def class_labels_in(frame: pd.DataFrame, folder: Path) -> list[str]:
    data = Dataset.from_pandas(frame[["text"]])
    names = ["green", "blue", "red"]
    data = data.add_column("label", [names.index(n) for n in frame["label"]], feature=ClassLabel(names=names))
    data.to_parquet(folder / "data.parquet")
    return [str(folder / "data.parquet")] * 2


@pytest.mark.parametrize("peft_method", ["none", "lora"])
@pytest.mark.parametrize("kind", [names_in, integers_in, class_labels_in])
def test_the_order_of_a_fine_tuned_model_is_kept(script, tmp_path, fine_tuned, kind, peft_method, caplog):  # noqa: F811
    folder, frame = fine_tuned
    model = tmp_path / "model"
    shutil.copytree(folder, model)
    order = ["10", "2", "9"] if kind is integers_in else list(ORDER)
    with_names(model, map(int, order) if kind is integers_in else order)
    train, test = kind(frame, tmp_path)
    arguments = ["--train_file", train, "--test_file", test, *STILL, "--model_name_or_path", str(model)]
    arguments += ["--method", "none", "--peft_method", peft_method]
    # Every "blue" becomes "red" and so on, by rows in the order of the data: sorted, or that of the `ClassLabel`.
    in_order = {names_in: "blue green red", integers_in: "2 9 10", class_labels_in: "green blue red"}[kind].split()
    (tmp_path / "matrix.csv").write_text("0,1,0\n0,0,1\n1,0,0\n")
    results, out = script(*arguments, "--use_cpu", "--output_dir", tmp_path / "out", defaults=False)
    assert results["none"]["test_accuracy"] == results["none"]["eval_accuracy"] == 1.0
    assert json.loads((out / "label_names.json").read_text()) == order
    assert "they are numbered in its order" in caplog.text
    if peft_method == "none":
        assert list(AutoConfig.from_pretrained(out).id2label.values()) == order
        return
    table = pd.read_parquet(out / "clean_probabilities.parquet")
    given = np.array([order[i] for i in range(3)])
    assert set(table.given_label) == set(given)

    noisy = [*arguments, "--transition_matrix_file", tmp_path / "matrix.csv", "--validation_split_percentage", 0]
    _, again = script(*noisy, "--use_cpu", "--output_dir", tmp_path / "noisy", out="noisy", defaults=False)
    table = pd.read_parquet(again / "clean_probabilities.parquet")
    expected = dict(zip(in_order, [*in_order[1:], in_order[0]]))
    assert all(expected[true] == given for true, given in zip(table.true_label, table.given_label))

    # The adapter alone goes by the order that it was trained in.
    write(frame[["text"]], tmp_path / "bare.csv")
    only = ["--do_predict", "--model_name_or_path", out, "--use_cpu", "--test_file", tmp_path / "bare.csv"]
    _, out = script(*only, "--output_dir", tmp_path / "predicted", out="predicted", defaults=False)
    renamed = {"red": "10", "blue": "2", "green": "9"} if kind is integers_in else {}
    assert predictions(out) == [renamed.get(name, name) for name in frame["label"]]


def test_other_names_and_other_numbers_of_classes(caplog):
    assert order_of_classes(["a", "b"], ["no", "yes"], "model") == ["a", "b"]
    assert "as many classes with other names ('no', 'yes')" in caplog.text
    caplog.clear()
    for trained in (["LABEL_0", "LABEL_1"], ["x", "y", "z"], [], ["a", "b"]):
        assert order_of_classes(["a", "b"], trained, "model") == ["a", "b"]
    assert not caplog.text
    with pytest.raises(ValueError, match="was trained on the classes 'x', 'y', 'z'; .*leave out --train_file"):
        order_of_classes(["a", "b"], ["x", "y", "z"], "model", is_trained=True)


# ---- Without training ----


def test_prediction_and_evaluation_alone(script, tmp_path, fine_tuned):  # noqa: F811
    folder, frame = fine_tuned
    some = frame.assign(label=frame["label"].where(frame.index % 4 > 0, "-1"))
    files = {
        "bare": write(frame[["text"]], tmp_path / "bare.csv"),
        "hidden": write(frame.assign(label=-1), tmp_path / "hidden.csv"),
        "some": write(some, tmp_path / "some.csv"),
        "all": write(frame, tmp_path / "all.csv"),
    }
    common = ("--model_name_or_path", folder, "--use_cpu", "--output_dir", tmp_path / "out", "--disable_tqdm", "True")
    weights = (folder / "model.safetensors").read_bytes()
    for kind, path in files.items():
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        results, out = script("--do_predict", "--test_file", path, *common, defaults=False)
        results = results["clear"]
        assert predictions(out) == list(frame["label"]) and results["test_samples"] == 40
        assert results.get("test_accuracy") == (1.0 if kind in ("some", "all") else None)
        assert results.get("test_labelled_samples") == {"bare": 0, "hidden": 0, "some": 30}.get(kind)
        left = [path.name for path in out.iterdir() if path.suffix in (".safetensors", ".parquet", ".md")]
        assert left == ["test_predictions.parquet"]
        table = pd.read_parquet(out / "test_predictions.parquet")
        assert table["predicted_label"].tolist() == predictions(out)
        assert table["true_label"].notna().sum() == {"bare": 0, "hidden": 0, "some": 30, "all": 40}[kind]
        assert "train_loss" not in results and "eval_accuracy" not in results
    results, out = script("--do_eval", "--validation_file", files["all"], *common, defaults=False)
    assert results["clear"]["eval_accuracy"] == 1.0
    assert (folder / "model.safetensors").read_bytes() == weights

    with pytest.raises(ValueError, match="Row 0 of the test data .* 'purple', which is no class of the model"):
        test = write(frame.assign(label="purple"), tmp_path / "purple.csv")
        script("--do_predict", "--test_file", test, *common, defaults=False)
    with pytest.raises(ValueError, match="no training data. Name some .*or say what to do without"):
        script("--test_file", files["all"], *common, defaults=False)
    with pytest.raises(ValueError, match="--do_predict needs a test set"):
        script("--do_predict", "--do_train", "--train_file", files["all"], *common, defaults=False)
    with pytest.raises(ValueError, match="has no trained head for 2 classes"):
        two = write(rows(40).replace({"red": "blue"}), tmp_path / "two.csv")
        untrained = ("--model_name_or_path", untrained_model(folder, tmp_path / "untrained"))
        script("--do_predict", "--train_file", two, "--test_file", two, *common, *untrained, defaults=False)


def untrained_model(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    with_names(to, ["LABEL_0", "LABEL_1"])
    return to


@pytest.mark.parametrize("method", ["clear", "turn"])
def test_training_with_unlabelled_test_data(script, tmp_path, method):  # noqa: F811
    test = rows(12)
    test["label"] = test["label"].where(test.index < 6, None)
    arguments = ["--train_file", write(rows(60), tmp_path / "train.csv"), "--num_train_epochs", 1, "--method", method]
    results, out = script(
        *arguments, "--test_file", write(test, tmp_path / "test.csv"), "--test_each_epoch", *(
            ["--turn_threshold", 0.01] if method == "turn" else ["--clear_warmup_epochs", 0])
    )  # fmt: skip
    hits = [p == label for p, label in zip(predictions(out), test["label"][:6])]
    assert len(predictions(out)) == 12 and results[method]["test_labelled_samples"] == 6
    assert results[method]["test_accuracy"] == pytest.approx(np.mean(hits))
    assert results[method]["test_peak_accuracy"] == results[method]["test_accuracy"]
    results, out = script(
        *arguments, "--test_file", write(test[["text"]], tmp_path / "bare.csv"), "--do_train", "--do_predict", out="b"
    )
    assert len(predictions(out)) == 12 and not {"test_accuracy", "eval_accuracy"} & results[method].keys()
    with pytest.raises(ValueError, match="--test_each_epoch needs a test set with labels"):
        script(*arguments, "--test_file", tmp_path / "bare.csv", "--test_each_epoch", out="c")


def test_resume_from_checkpoint_true_and_false(script, tmp_path):  # noqa: F811
    arguments = ["--train_file", write(rows(60), tmp_path / "train.csv"), "--num_train_epochs", 1, "--method", "none"]
    with pytest.raises(ValueError, match="True: there is no checkpoint in"):
        script(*arguments, "--resume_from_checkpoint", "True")
    first, out = script(*arguments, "--resume_from_checkpoint", "False")
    weights = (out / "adapter_model.safetensors").read_bytes()
    resumed, _ = script(*arguments, "--resume_from_checkpoint", "True")
    assert (out / "adapter_model.safetensors").read_bytes() == weights
    (checkpoint,) = out.glob("checkpoint-*")
    script(*arguments, "--resume_from_checkpoint", checkpoint)
    with pytest.raises(ValueError, match="False: .*holds checkpoint-7. To start again"):
        script(*arguments, "--resume_from_checkpoint", "False")
    with pytest.raises(ValueError, match="nowhere: there is no such folder"):
        script(*arguments, "--resume_from_checkpoint", "nowhere")


# ---- Models without a padding token, with few positions ----

SIZES = {"vocab_size": 60, "bos_token_id": 2, "eos_token_id": 3, "initializer_range": 0.2}
DECODERS = {
    "gpt2": GPT2Config(**SIZES, n_embd=32, n_layer=2, n_head=4, n_positions=32, attn_pdrop=0, resid_pdrop=0),
    "llama": LlamaConfig(**SIZES, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=37),
}


@pytest.fixture(scope="module")
def decoders(tmp_path_factory, tiny_model) -> dict[str, str]:
    """GPT-2 and Llama as they are published: without a padding token, and a tokenizer that pads on the left."""
    folders = {}
    for name, config in DECODERS.items():
        folders[name] = str(tmp_path_factory.mktemp(name))
        torch.manual_seed(0)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folders[name])
        words = AutoTokenizer.from_pretrained(tiny_model).backend_tokenizer
        PreTrainedTokenizerFast(
            tokenizer_object=words, unk_token="[UNK]", bos_token="[CLS]", eos_token="[SEP]", padding_side="left"
        ).save_pretrained(folders[name])
    return folders


@pytest.mark.parametrize("method", ["lora", "adapter", "bitfit", "prompt"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_models_without_a_padding_token(script, tmp_path, decoders, name, method):  # noqa: F811
    model = ("--model_name_or_path", decoders[name], "--use_cpu", "--disable_tqdm", "True")
    arguments = ["--train_file", write(rows(24), tmp_path / "train.csv"), "--peft_method", method, *model]
    test = rows(6)
    test["text"] = [f"{text} filler1" * (1 + i % 3) for i, text in enumerate(test["text"])]  # of other lengths
    arguments += [
        "--test_file",
        write(test, tmp_path / "test.csv"),
        *("--num_train_epochs", 1),
        *("--preset", "clear", "--clear_warmup_epochs", 0),
    ]
    if (name, method) == ("llama", "bitfit"):
        with pytest.raises(ValueError, match="bias"):
            script(*arguments, "--output_dir", tmp_path / "out", defaults=False)
        return
    _, out = script(*arguments, "--output_dir", tmp_path / "out", defaults=False)
    assert AutoTokenizer.from_pretrained(out).pad_token == "[SEP]"
    alone = ("--do_predict", "--model_name_or_path", out, *model[2:], "--test_file", tmp_path / "test.csv")
    _, one = script(
        *alone, "--per_device_eval_batch_size", 1, "--output_dir", tmp_path / "one", out="one", defaults=False
    )
    assert predictions(one) == predictions(out), "no prediction depends on the padding"


def test_padding_and_positions(decoders, tiny_model, caplog):
    tokenizer = AutoTokenizer.from_pretrained(decoders["gpt2"])
    model = AutoModelForSequenceClassification.from_pretrained(decoders["gpt2"])
    set_padding(tokenizer, model.config)
    assert (tokenizer.pad_token_id, model.config.pad_token_id, tokenizer.padding_side) == (3, 3, "right")
    assert tokenizer.model_max_length > 10**9 and longest_input(model, tokenizer, 128) == 32
    assert "truncated to 32 tokens, not 128" in caplog.text
    with pytest.raises(ValueError, match="--max_seq_length 2 leaves nothing of a text: it has to be 3 or above"):
        longest_input(model, tokenizer, 2)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    roberta = RobertaForSequenceClassification(RobertaConfig(**sizes, vocab_size=60, max_position_embeddings=34))
    assert longest_input(roberta, tokenizer, 128) == 32
    ids = torch.full((1, 32), 5)
    roberta(input_ids=ids)
    with pytest.raises((IndexError, RuntimeError)):
        roberta(input_ids=torch.full((1, 33), 5))
    bart = BartForSequenceClassification(
        BartConfig(d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1, decoder_attention_heads=1,
                   encoder_ffn_dim=8, decoder_ffn_dim=8, vocab_size=60, max_position_embeddings=30)
    )  # fmt: skip
    assert longest_input(bart, tokenizer, 128) == 30
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, unk_token="[UNK]")
    with pytest.raises(ValueError, match="neither a padding token nor one for the end"):
        set_padding(bare, model.config)
