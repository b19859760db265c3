"""What a push uploads of a folder, without a Hub: exports of suspects and the paths of the machine stay at home. With a
Hub: test_hub.py."""

import json
import logging
import os
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
import yaml
from helpers.toy import collate, tiny_bert, toy_dataset
from huggingface_hub import HfApi
from peft import AutoPeftModelForSequenceClassification, PeftConfig

from hf_clear import CleanProbabilityCallback, CleanProbabilityEstimate, ClearLoraConfig, ClearTrainer
from hf_clear.hub import private_files
from hf_clear.hub.dataset_names import dataset_names
from hf_clear.hub.escaping import code, escaped
from hf_clear.hub.private_files import is_public, samples_left_out


@pytest.fixture
def uploads(monkeypatch) -> list[dict[str, bytes]]:
    """What is committed, by path."""
    commits: list[dict[str, bytes]] = []

    def create_commit(self, repo_id, operations, **kwargs):
        commits.append({})
        for operation in operations:
            with operation.as_file() as file:
                commits[-1][operation.path_in_repo] = file.read()

    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    monkeypatch.setattr(private_files, "_named", set())
    return commits


def upload(folder, **kwargs):
    ignored = ["_*", "checkpoint-*"]
    with samples_left_out(), samples_left_out():  # as in run_glue_noisy.py
        return HfApi().upload_folder(repo_id="org/model", folder_path=str(folder), ignore_patterns=ignored, **kwargs)


EXPORTS = [
    f"suspects.{kind}" for kind in ("csv", "tsv", "txt", "json", "jsonl", "parquet", "arrow", "xlsx", "html", "md")
]
EXPORTS += [
    "issues.npy",
    "wrong.pkl",
    "to_check",
    "data.safetensors",
    "report/page.html",
    "report/images/0001.png",
    "a b.CSV",
]
EXPORTS += [
    "predict_results.txt",
    "run_arguments.json",
    "training_args.bin",
    "clean_probabilities.parquet",
    "optimizer.pt",
]
EXPORTS += [
    "clear_state.safetensors",
    "_turn_state.safetensors",
    "run-0/checkpoint-3/model.safetensors",
    "runs/host/events",
]
EXPORTS += ["checkpoint-3/adapter_model.safetensors", "vocab.csv", "suspects/README.md", "runs/x/model.safetensors"]
MODEL = ["README.md", "LICENSE", "adapter_model.safetensors", "adapter_config.json", "clear_config.json", "config.json"]
MODEL += [
    "model.safetensors",
    "model-00001-of-00002.safetensors",
    "model.safetensors.index.json",
    "generation_config.json",
]
MODEL += ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt"]
MODEL += [
    "merges.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "chat_template.jinja",
    "all_results.json",
]
MODEL += [
    "preprocessor_config.json",
    "processor_config.json",
    "eval_results.json",
    "modeling_own.py",
    "label_names.json",
]
MODEL += ["second/adapter_model.safetensors", "second/adapter_config.json", "additional_chat_templates/tool.jinja"]


def test_what_belongs_to_a_model_goes_up_and_nothing_else(tmp_path, uploads, caplog):
    for name in EXPORTS + MODEL:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    with caplog.at_level(logging.WARNING):
        upload(tmp_path)
        upload(tmp_path)
    assert uploads[0].keys() == set(MODEL) == uploads[1].keys()
    assert caplog.text.count("Not uploaded to the Hub") == 1, "not after every checkpoint"
    assert "report/images/0001.png" in caplog.text and "upload_file" in caplog.text
    assert not any(name in caplog.text for name in ("clear_state", "training_args.bin")), "by design"
    assert not any(map(is_public, ["x/y/adapter_config.json", "x/config.json"]))

    upload(tmp_path / "run-0" / "checkpoint-3", path_in_repo="last-checkpoint", commit_message="m")  # as asked for
    assert uploads[2].keys() == {"last-checkpoint/model.safetensors"}
    upload(tmp_path, run_as_future=True).result()
    assert uploads[3] == uploads[0]


def lora_trainer(training_arguments, base: str | None = None, **kwargs) -> ClearTrainer:
    model = tiny_bert()
    if base is not None:
        model.save_pretrained(base)
        model = type(model).from_pretrained(base)
    config, arguments = ClearLoraConfig(task_type="SEQ_CLS", r=2), {"clear_warmup_epochs": 1, "num_train_epochs": 2}
    return ClearTrainer(
        model,
        training_arguments(**arguments, **kwargs.pop("arguments", {})),
        **{"train_dataset": toy_dataset(), "data_collator": collate, "peft_config": config, **kwargs},
    )


def test_no_path_of_the_machine_goes_up_and_the_folder_loads_here_as_ever(tmp_path, training_arguments, uploads):
    base = str(tmp_path / "home" / "secret-base")
    arguments = {"save_strategy": "epoch", "load_best_model_at_end": True, "eval_strategy": "epoch"}
    trainer = lora_trainer(training_arguments, base, arguments=arguments, eval_dataset=toy_dataset(8))
    trainer.train()
    trainer.save_model()
    folder = Path(trainer.args.output_dir)
    peft_card = (folder / "README.md").read_text()
    assert base in peft_card, "as peft writes it"
    upload(folder)
    trainer.create_model_card()
    trainer.save_state()
    upload(folder)
    upload(folder / "checkpoint-3", path_in_repo="last-checkpoint")
    for commit in uploads:
        for name, content in commit.items():
            if not name.endswith("trainer_state.json") or name == "trainer_state.json":
                assert str(tmp_path).encode() not in content and b"secret-base" not in content, name
    assert json.loads(uploads[1]["adapter_config.json"])["base_model_name_or_path"] is None
    assert yaml.safe_load(uploads[0]["README.md"].split(b"---\n")[1])["library_name"] == "peft"
    assert str(tmp_path) not in (folder / "README.md").read_text()
    assert PeftConfig.from_pretrained(folder).base_model_name_or_path == base
    AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=4)


def test_what_is_no_path_goes_up_as_it_is(tmp_path, uploads):
    texts = {
        "adapter_config.json": '{"base_model_name_or_path": "org/base", "revision": "main",  "x": "/no/such/path"}',
        "tokenizer_config.json": json.dumps({"added_tokens_decoder": {"5": {"content": os.path.dirname(os.__file__)}}}),
        "config.json": '{"broken',
        "README.md": "---\nbase_model: org/base\ntags: [x]\n---\n# A card with /no/such/path\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    upload(tmp_path)
    assert uploads == [{name: text.encode() for name, text in texts.items()}]


EVIL = [
    "a|b",
    "`code`",
    "<script>alert(1)</script>",
    "two\nlines\n---\ntags: [x]",
    "![](http://x)",
    "{{ jinja }}",
    "# t",
]
EVIL += ["\u202etxt", "www.x.de", "1. one", "_em_", "- x", "a" * 999, ""]


@pytest.mark.parametrize("name", EVIL)
def test_names_are_text_in_markdown(name):
    markdown = pytest.importorskip("markdown_it").MarkdownIt("gfm-like", {"linkify": False})
    for rendered, tags in ((escaped(name), {"paragraph_open", "inline", "paragraph_close"}), (f"x {code(name)}", None)):
        assert "\n" not in rendered and "|" not in rendered
        tokens = markdown.parse(rendered)
        assert tags is None or {token.type for token in tokens} <= tags
        inner = [child for token in tokens for child in token.children or ()]
        assert {child.type for child in inner} <= {"text", "text_special", "code_inline", "html_inline"}
        shown = "".join(child.content for child in inner if child.type != "html_inline")
        assert {child.content for child in inner if child.type == "html_inline"} <= {"<code>", "</code>"}
        line = " ".join("".join(c if c.isprintable() else " " for c in name).split())
        assert shown.removeprefix("x ").strip() == (line if len(line) <= 200 else f"{line[:199]}…")


def test_names_in_the_card_are_text(tmp_path, training_arguments):
    evil = "a|b <script>x</script> `c`\n---\n"

    def estimator(evidence):
        return CleanProbabilityEstimate(np.where(evidence.labels == 0, 0.1, 0.9))

    estimator.__name__ = evil
    data = toy_dataset(200)  # enough to tell that classes are lost
    data.info.dataset_name = data.info.builder_name = evil
    config = {"id2label": {i: f"<b>{i}|\n" for i in range(4)}, "label2id": {f"<b>{i}|\n": i for i in range(4)}}
    trainer = lora_trainer(
        training_arguments, None, arguments={"output_dir": str(tmp_path / "<i>out`|")}, train_dataset=data,
        callbacks=[CleanProbabilityCallback(estimator)], eval_dataset={"<u>": toy_dataset(4)},
    )  # fmt: skip
    for name, value in config.items():
        setattr(trainer.model.config, name, value)
    trainer.train()
    assert "lost_classes" in trainer.fit_findings.warnings
    trainer.evaluate()
    trainer.create_model_card(tags=["<s>", "x\n---\ny"])
    card = (Path(trainer.args.output_dir) / "README.md").read_text()
    head, body = card.split("\n---\n", 1)
    metadata = yaml.safe_load(head)
    assert "hf-clear" in metadata["tags"] and "datasets" not in metadata
    text = re.sub(r"```python\n.*?\n```\n", "", body, flags=re.S)
    for tag in ("<script", "<b>", "<i>", "<u>", "</script"):
        assert tag not in text
    assert "\n---\n" not in body
    (row,) = (line for line in body.splitlines() if "clear_estimator" in line)
    assert row.count("|") == 3


def test_a_data_set_is_named_if_its_name_is_one_of_the_hub(tmp_path, monkeypatch):
    (tmp_path / "private customers").mkdir()
    (tmp_path / "private customers" / "train.csv").write_text("text,label\na,0\nb,1\n")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    local = datasets.load_dataset(str(tmp_path / "private customers"), split="train", cache_dir=str(tmp_path / "cache"))
    assert dataset_names(local) == [] == dataset_names(toy_dataset())
    data = toy_dataset()
    for name, expected in [("imdb", ["imdb"]), ("a|b", []), ("<s>", []), ("x\ny", []), ("../x", []), ("", [])]:
        data.info.dataset_name = name
        assert dataset_names(data) == expected
