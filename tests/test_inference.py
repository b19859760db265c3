"""What is saved predicts names of classes, in processes of its own: by the code of the model card and of
docs/inference.md."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import ClassLabel, Dataset
from helpers.toy import tiny_bert
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard import metadata_load, metadata_save
from peft import get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_clear import (
    ClearLoraConfig,
    ClearTrainer,
    ClearTrainingArguments,
    TurnTrainer,
    TurnTrainingArguments,
    export_to_peft,
    preset,
)
from hf_clear.hub.loading import loading_code
from hf_clear.tuners import PEFT_METHODS

ROOT = Path(__file__).parents[1]
CODE = re.compile(r"```python\n(.*?)```", re.S)
METHODS = {**{name: method.config for name, method in PEFT_METHODS.items()}, "full": None}
NAMES = ["red", 'the "green" one', "```\nblue's `</b>"]
TEXTS = ["red1 red2 red3", "green1 green2 green3", "blue1 blue2 blue3"]
ARGUMENTS = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "save_strategy": "no", "seed": 7}
ARGUMENTS |= {"num_train_epochs": 10, "per_device_train_batch_size": 10}
RATES = {"lora": 3e-2, "bitfit": 3e-2, "adapter": 2e-2, "prompt": 1e-1, "full": 2e-3}
# As installed, but for hf_clear: `-S` leaves out what is installed in editable mode.
FRESH = """
import importlib.util, json, os, sys

packages, hf_clear, *names = sys.argv[1:]
sys.path.append(packages)
os.environ["HF_HUB_OFFLINE"] = "1"
assert importlib.util.find_spec("hf_clear") is None
"""
# The plain model comes first, and what needs hf_clear last.
LOAD = f"""{FRESH}
from transformers import pipeline
import torch

found, texts = {{}}, {json.dumps(TEXTS)}

def predict(classifier):
    with torch.no_grad():
        inputs = classifier.tokenizer(texts, return_tensors="pt", padding=True)
        return [row["label"] for row in classifier(texts)], classifier.model(**inputs).logits.tolist()

for name in names:
    code = open(f"{{name}}.py", encoding="utf-8").read()
    if "import hf_clear" in code and hf_clear not in sys.path:
        sys.path.append(hf_clear)
    exec(code, scope := {{}})
    found[name] = predict(scope["classifier"])
    if name.startswith("merged"):
        found[f"{{name}} as a pipeline"] = predict(pipeline("text-classification", model=name))
        assert not {{"peft", "hf_clear"}} & sys.modules.keys()
assert ("hf_clear" in sys.modules) == any(name in ("adapter", "prompt", "bitfit") for name in names)
json.dump(found, open("found.json", "w"))
"""


def run(code: str, *arguments: str, folder: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    packages = str(Path(torch.__file__).parents[1])
    command = [sys.executable, "-S", "-c", code, packages, str(ROOT), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def base(tmp_path_factory, tiny_model) -> Path:
    """A pretrained model whose head is of other classes."""
    folder = tmp_path_factory.mktemp("base")
    tiny_bert(5, initializer_range=0.2).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def headless(tmp_path_factory, tiny_model) -> Path:
    """A pretrained encoder alone."""
    folder = tmp_path_factory.mktemp("headless")
    tiny_bert(initializer_range=0.2).bert.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


def trained(method: str, base: Path, folder: Path, in_config: bool = True, **arguments):
    """A trainer of colors. The names of the classes are those of the config or, if it has none, of the data."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(0)
    id2label = dict(enumerate(NAMES)) if in_config else {i: f"LABEL_{i}" for i in range(3)}
    model = AutoModelForSequenceClassification.from_pretrained(base, id2label=id2label, ignore_mismatched_sizes=True)
    texts = [f"{kind}{i} {kind}{i + 1} {kind}{i + 2}" for i in range(10) for kind in ("red", "green", "blue")]
    data = Dataset.from_dict({"text": texts * 3, "label": [0, 1, 2] * 30})
    if not in_config:
        data = data.cast_column("label", ClassLabel(names=NAMES))
    data = data.map(lambda rows: tokenizer(rows["text"]), batched=True)
    arguments = {**ARGUMENTS, "learning_rate": RATES[method], "output_dir": str(folder), **arguments}
    given = {"train_dataset": data, "eval_dataset": data.select(range(9)), "processing_class": tokenizer}
    if method == "full":
        arguments = {**arguments, "probe_epochs": 2, "turn_threshold": 0.01}
        trainer = TurnTrainer(model, TurnTrainingArguments(**arguments), **given)
    else:
        arguments = ClearTrainingArguments(**{**preset("clear"), "clear_warmup_epochs": 9, **arguments})
        trainer = ClearTrainer(model, arguments, **given, peft_config=METHODS[method](task_type="SEQ_CLS"))
    trainer.train()
    return trainer


def logits_of(trainer) -> torch.Tensor:
    inputs = trainer.processing_class(TEXTS, return_tensors="pt", padding=True)
    with torch.no_grad():
        return trainer.model.eval()(**inputs).logits


@pytest.fixture(scope="module")
def saved(tmp_path_factory, base):
    """All methods, saved, and what fresh processes `found` in them by the code of their cards."""
    folder, expected, trainers, losses = tmp_path_factory.mktemp("saved"), {}, {}, {}
    for method in METHODS:
        trainer = trainers[method] = trained(method, base, folder / method, in_config=method in ("lora", "adapter"))
        losses[method] = trainer.evaluate()["eval_loss"]
        trainer.save_model()
        trainer.create_model_card()
        expected[method] = logits_of(trainer)
        if method in ("lora", "bitfit", "full"):
            trainer.save_merged(folder / f"merged {method}")
            expected[f"merged {method}"] = expected[f"merged {method} as a pipeline"] = expected[method]
    cards = {path.name: path / "README.md" for path in folder.iterdir()}
    for name, card in cards.items():
        (code,) = CODE.findall(card.read_text(encoding="utf-8"))
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
    names = sorted(cards, key=lambda name: (not name.startswith("merged"), name in ("adapter", "bitfit", "prompt")))
    run(LOAD, *names, folder=folder)
    found = json.loads((folder / "found.json").read_text())
    return SimpleNamespace(folder=folder, expected=expected, found=found, trainers=trainers, losses=losses)


def test_the_cards_code_predicts_names_with_the_same_logits(saved):
    assert saved.found.keys() == saved.expected.keys() and len(saved.found) == 11
    for name, (labels, logits) in saved.found.items():
        torch.testing.assert_close(torch.tensor(logits), saved.expected[name], rtol=1e-4, atol=1e-5, msg=name)
        assert labels == [NAMES[number] for number in saved.expected[name].argmax(1)], name
    assert all(saved.found[name][0] == NAMES for name in ("lora", "merged lora as a pipeline", "adapter", "prompt"))


def test_adapters_carry_names_and_merged_models_have_them_in_the_config(saved, base):
    for name in ("lora", "bitfit", "adapter", "prompt"):
        assert json.loads((saved.folder / name / "label_names.json").read_text()) == NAMES
        assert not (saved.folder / name / "config.json").exists(), "transformers would look for weights beside it"
    for name in ("merged lora", "merged bitfit", "full"):
        config = json.loads((saved.folder / name / "config.json").read_text())
        assert config["id2label"] == {str(i): own for i, own in enumerate(NAMES)}
        assert config["label2id"] == {own: i for i, own in enumerate(NAMES)}
        assert str(base) not in (saved.folder / name / "README.md").read_text()


def test_training_goes_on_after_a_merge(saved, base, tmp_path):
    trainer = saved.trainers["lora"]
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    assert any("lora_A" in name for name in before)
    trainer.save_merged(tmp_path / "merged")
    trainer.save_merged(tmp_path / "merged")  # over its own
    after = trainer.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(after[name], value) for name, value in before.items())
    trainer.train()
    assert any(not torch.equal(trainer.model.state_dict()[name], value) for name, value in before.items())
    assert trainer.args.output_dir == str(saved.folder / "lora")
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


@pytest.mark.parametrize("method", ["adapter", "prompt"])
def test_what_cannot_be_merged_says_what_to_do(saved, tmp_path, method):
    with pytest.raises(ValueError, match=f"CLEAR_{method.upper()} .* can't be merged .* Save it with `save_model`"):
        saved.trainers[method].save_merged(tmp_path / "merged")
    assert not any(tmp_path.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_merged_model_takes_the_place_of_nothing_else(saved, tmp_path, monkeypatch):
    trainer = saved.trainers["bitfit"]
    for name, change in {
        "foreign": lambda folder: (folder / "data" / "mine.csv").write_text("x"),
        "edited": lambda folder: (folder / "README.md").write_text("my own words"),
        "a file": lambda folder: None,
    }.items():
        folder = tmp_path / name
        if name == "a file":
            folder.write_text("mine")
        else:
            trainer.save_merged(folder)
            (folder / "data").mkdir()
            change(folder)
        before = contents(tmp_path)
        with pytest.raises(FileExistsError, match="mine.csv|README.md|is no folder"):
            trainer.save_merged(folder)
        assert contents(tmp_path) == before
    with pytest.raises(FileExistsError, match="README.md"):
        trainer.save_merged(saved.folder / "bitfit")

    def fails(folder):
        raise OSError("No space left on device")

    monkeypatch.setattr(trainer.processing_class, "save_pretrained", fails)
    with pytest.raises(OSError, match="No space left"):
        trainer.save_merged(tmp_path / "new")
    assert contents(tmp_path) == before and len(list(tmp_path.iterdir())) == 3


def test_an_exported_adapter_carries_names(saved, tmp_path):
    export_to_peft(saved.trainers["bitfit"].model, tmp_path / "stock")
    code = f"""{FRESH}
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoTokenizer, pipeline
id2label = dict(enumerate(json.load(open("stock/label_names.json"))))
model = AutoPeftModelForSequenceClassification.from_pretrained(
    "stock", id2label=id2label, ignore_mismatched_sizes=True
)
classifier = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(names[0]))
assert [row["label"] for row in classifier({TEXTS!r})] == {saved.found["bitfit"][0]!r}
"""
    run(code, str(saved.folder / "bitfit"), folder=tmp_path)


def test_evaluation_results_survive_the_hubs_own_round_trip(saved, tmp_path):
    for name in ("lora", "merged lora", "full"):
        path = saved.folder / name / "README.md"
        (result,) = ModelCard.load(path).data.eval_results
        assert result.metric_type == "loss" and result.task_type == "text-classification"
        assert result.metric_value == saved.losses[name.removeprefix("merged ")]
        assert result.dataset_name == "the evaluation set, 9 samples (labels as given, which may be wrong)"
        metadata = metadata_load(path)
        assert ModelCardData(**metadata).to_dict() == metadata
        metadata_save(copied := tmp_path / f"{name}.md", metadata)
        assert metadata_load(copied) == metadata
        assert f"| the evaluation set, 9 samples | Loss | {result.metric_value:.4g} |" in path.read_text()


def test_the_code_for_many_classes_and_for_an_adapter_with_a_name():
    names = [f"class {i} of 'many'" for i in range(77)]
    base = tiny_bert(77)
    base.config.id2label = dict(enumerate(names))
    base.name_or_path = "org/base"  # on the Hub, as far as can be told
    model = get_peft_model(base, ClearLoraConfig(task_type="SEQ_CLS"), adapter_name="second")
    code = loading_code(model, "org/x", is_pushed=True)
    listed, rest = code.split("names = ")[1].split("\nmodel = ", 1)
    assert eval(listed) == names and max(map(len, listed.splitlines())) <= 120
    assert rest == (
        'BertForSequenceClassification.from_pretrained("org/base", id2label=dict(enumerate(names)))\n'
        'model = PeftModel.from_pretrained(model, "org/x", subfolder="second")'
    )
    assert code.startswith("from peft import PeftModel\nfrom transformers import BertForSequenceClassification\n")


# The part of docs/inference.md that it takes for granted.
TRAIN = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import test_inference
test_inference.NAMES[:] = ["red", "green", "blue"]
trainer = test_inference.trained("lora", Path(sys.argv[1]), Path("out"))
"""


def test_the_page_runs_as_it_stands(headless, tmp_path):
    """The blocks that know a trainer in one process, and the others, in their order, in one without hf_clear."""
    page = (ROOT / "docs" / "inference.md").read_text(encoding="utf-8")
    blocks = CODE.findall(page)
    saving = [block for block in blocks if "trainer." in block]
    loading = [block for block in blocks if block not in saving]
    assert len(saving) == 2 and len(loading) == 3
    command = [sys.executable, "-c", TRAIN + "\n".join(saving), str(headless)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    labels = f"[row['label'] for row in classifier({TEXTS!r})]"
    checks = [
        f'assert {labels} == ["red", "green", "blue"] and "peft" not in sys.modules',
        f'assert {labels} == ["red", "green", "blue"]',
        'assert model.config.id2label == {0: "red", 1: "green", 2: "blue"}',
    ]
    run(FRESH + "\n".join(line for pair in zip(loading, checks, strict=True) for line in pair), folder=tmp_path)
