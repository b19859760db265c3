"""What a push to the Hub uploads, and that the model card's own code loads it, with the real client and a Hub on
loopback."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from helpers.hub_server import Hub, Repository
from helpers.toy import collate, tiny_bert, toy_dataset
from transformers import Trainer

from hf_clear import ClearTrainer

ROOT = Path(__file__).parents[1]
CODE = re.compile(r"```python\n(.*?)```", re.S)
# Trains and pushes everything, in a process of its own: whether the Hub may be asked is decided once, at import.
PUSH = """
import shutil, sys
from pathlib import Path

import torch
from datasets import load_dataset
from huggingface_hub import HfApi
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_clear import *

base, root = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained("org/tiny-bert")
train = load_dataset("mteb/banking77", split="train").map(lambda rows: tokenizer(rows["text"]), batched=True)
results = {}

def trainer_of(cls, arguments_cls, name, base="org/tiny-bert", config=None, **arguments):
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=77)
    arguments = {"num_train_epochs": 2, "learning_rate": 1e-2, "use_cpu": True, "save_strategy": "epoch", **arguments}
    arguments = arguments_cls(output_dir=name, **arguments)
    return cls(model, arguments, train_dataset=train, processing_class=tokenizer, peft_config=config)

def keep(name, trainer):
    inputs = tokenizer(["red1 blue2", "green3 red4"], return_tensors="pt")
    with torch.no_grad():
        results[name] = trainer.model.eval()(**inputs).logits

clear, config = {**preset("clear"), "clear_warmup_epochs": 1}, ClearLoraConfig(task_type="SEQ_CLS")
trainer = trainer_of(ClearTrainer, ClearTrainingArguments, "plain", config=config, **clear)
trainer.train()
nested = Path("plain/run-0/checkpoint-1")  # as a hyperparameter search leaves them
nested.mkdir(parents=True)
shutil.copy(next(Path("plain").glob("checkpoint-*/clear_state.safetensors")), nested)
trainer.push_to_hub()
trainer.push_to_hub()  # over its own card
api = HfApi()
assert api.whoami()["name"] == "org"
(branch,) = api.list_repo_refs("org/plain").branches
(file,) = api.get_paths_info("org/plain", "README.md")
assert (branch.target_commit, file.path) == (api.model_info("org/plain").sha, "README.md")
keep("plain", trainer)
results["log_history"] = trainer.state.log_history

pushes = {"push_to_hub": True, "hub_strategy": "checkpoint"}
trainer = trainer_of(ClearTrainer, ClearTrainingArguments, "checkpoints", config=config, **clear, **pushes)
trainer.train()
trainer.push_to_hub(tags="mine", dataset_tags="org/another")

config = ClearAdapterConfig(bottleneck_size=4, task_type="SEQ_CLS")
trainer = trainer_of(ClearTrainer, ClearTrainingArguments, "adapter", base, config, **clear)
trainer.train()
trainer.push_to_hub()
keep("adapter", trainer)

trainer = trainer_of(TurnTrainer, TurnTrainingArguments, "turn", push_to_hub=True)
trainer.train()
trainer.push_to_hub()
keep("turn", trainer)

sys.path.insert(0, root)
import run_glue_noisy

sys.argv = ["run_glue_noisy.py", *"--dataset_name mteb/banking77 --model_name_or_path org/tiny-bert --method clear "
    "--preset clear --output_dir script --push_to_hub --num_train_epochs 2 --clear_warmup_epochs 1 --use_cpu".split()]
run_glue_noisy.main()
run_glue_noisy.main()  # evaluates again, with clean_probabilities.parquet in the folder
torch.save(results, "results.pt")
"""
# Python without what is installed in editable mode (-S): an environment without hf_clear.
WITHOUT = """
import importlib.util, sys

packages, hf_clear, *more = sys.argv[1:]
sys.path.append(packages)
assert importlib.util.find_spec("hf_clear") is None
"""
# Runs the cards' own code; that of our own PEFT type as the last, after `pip install hf-clear`.
LOAD = f"""{WITHOUT}
import torch

logits = {{}}
for name, code in torch.load("codes.pt").items():
    scope = {{}}
    if name == "adapter":
        assert "hf_clear" not in sys.modules
        sys.path.append(hf_clear)
        from transformers import BertForSequenceClassification
        scope["model"] = BertForSequenceClassification.from_pretrained(*more, num_labels=77)
    exec(code, scope)
    inputs = scope["tokenizer"](["red1 blue2", "green3 red4"], return_tensors="pt")
    with torch.no_grad():
        logits[name] = scope["model"](**inputs).logits
torch.save(logits, "logits.pt")
"""
# Runs the README's quickstart on what the wheel holds.
QUICKSTART = f"""{WITHOUT}
sys.path.insert(0, hf_clear)
exec(open("quickstart.py").read(), scope := {{}})
assert sys.modules["hf_clear"].__file__.startswith(hf_clear)
assert {{"sample_index", "clean_probability"}} <= set(scope["trainer"].label_issues().column_names)
scope["trainer"].create_model_card()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """What the built wheel holds, as a folder."""
    folder, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source") / "hf_clear"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "outputs"))
    subprocess.run([sys.executable, *"-m pip wheel -q --no-deps -w".split(), folder, source], check=True)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


@pytest.fixture(scope="module")
def pushed(tmp_path_factory, tiny_model, wheel):
    """The Hub after `PUSH`, with `results` of it, the `cards`, and the `logits` of the models that `LOAD` found."""
    folder, base = tmp_path_factory.mktemp("hub"), tmp_path_factory.mktemp("base") / "tiny"
    shutil.copytree(tiny_model, base)
    tiny_bert(initializer_range=0.2).bert.save_pretrained(base)  # without a head, as bert-base-uncased
    model, data = Repository(), Repository()
    model.commit({file.name: file.read_bytes() for file in base.iterdir()}, "upload")
    texts = [f"{kind}{i},{i % 3 + 3 * (kind == 'red')},x" for i in range(12) for kind in ("red", "green", "blue")]
    csv = "\n".join(["text,label,label_text", *texts, *texts]).encode()
    data.commit({"train.csv": csv, "test.csv": csv}, "upload")
    packages = str(Path(torch.__file__).parents[1])
    with Hub() as hub:
        hub.repositories |= {("models", "org/tiny-bert"): model, ("models", "bert-base-uncased"): model}
        hub.repositories["datasets", "mteb/banking77"] = data
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home"), "HF_TOKEN": "hf_token"}
        environment |= {"HF_HUB_DISABLE_XET": "1", "CUDA_VISIBLE_DEVICES": ""}

        def run(code: str, *arguments: str, options: tuple[str, ...] = ()) -> None:
            command = [sys.executable, *options, "-c", code, *arguments]
            own = environment if not options else {k: v for k, v in environment.items() if k != "PYTHONPATH"}
            done = subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True)
            assert done.returncode == 0, f"{done.stderr[-8000:]}\nunknown to the Hub of the test: {hub.unknown}"

        run(PUSH, str(base), str(ROOT))
        names = ("plain", "checkpoints", "adapter", "turn", "script")
        cards = {name: hub.repositories["models", f"org/{name}"].files()["README.md"].decode() for name in names}
        torch.save(
            {name: CODE.search(cards[name]).group(1) for name in ("plain", "turn", "adapter")}, folder / "codes.pt"
        )
        run(LOAD, packages, str(ROOT), str(base), options=("-S",))
        (folder / "quickstart.py").write_text(CODE.search((ROOT / "README.md").read_text()).group(1))
        run(QUICKSTART, packages, str(wheel), options=("-S",))
        results = torch.load(folder / "results.pt")
        logits = torch.load(folder / "logits.pt")
        yield SimpleNamespace(hub=hub, base=base, folder=folder, results=results, cards=cards, logits=logits)


def metadata_of(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_the_wheel_holds_the_package_the_script_and_nothing_else(wheel):
    files = {str(path.relative_to(wheel)) for path in wheel.rglob("*") if path.is_file()}
    modules = [*(ROOT / "hf_clear").rglob("*.py"), *(ROOT / "hf_clear").rglob("assets/*")]
    own = {str(path.relative_to(ROOT)) for path in modules if path.is_file()} | {
        "run_glue_noisy.py",
        "hf_clear/py.typed",
    }
    assert own == {file for file in files if ".dist-info/" not in file}
    about = {"METADATA", "WHEEL", "top_level.txt", "RECORD", "LICENSE", "entry_points.txt"}
    assert {file.split("/")[-1] for file in files - own} == about


TOKENIZER = {"tokenizer.json", "tokenizer_config.json"}
ADAPTER = {"adapter_model.safetensors", "adapter_config.json", "clear_config.json"}


@pytest.mark.parametrize(
    "name, expected, in_training, also_there",
    [
        ("plain", ADAPTER, False, "training_args.bin"),
        ("checkpoints", ADAPTER, True, "training_args.bin"),
        ("adapter", ADAPTER, False, "training_args.bin"),
        ("turn", {"model.safetensors", "config.json"}, True, "_turn_state.safetensors"),
        ("script", ADAPTER, True, "clean_probabilities.parquet"),
    ],
)
def test_what_is_pushed(pushed, name, expected, in_training, also_there):
    repository = pushed.hub.repositories["models", f"org/{name}"]
    files = {path for path in repository.files() if not path.startswith("last-checkpoint/")}
    assert expected | TOKENIZER | {"README.md"} <= files
    ever = set().union(*repository.commits.values())  # what was deleted again is still there for all to see
    secret = {
        path
        for path in ever
        if re.search(r"state\.safetensors|clean_prob|label_issues|report|features|optimizer", path)
    }
    if name == "checkpoints":
        asked = {f"last-checkpoint/{file}" for file in ("clear_state.safetensors", "optimizer.pt")}
        assert secret == asked <= set(repository.files())
    else:
        assert not secret and files == ever
    assert in_training == any("Training in progress" in message for message in repository.messages)
    assert (pushed.folder / name / also_there).is_file()


def test_the_cards_code_loads_what_was_pushed(pushed):
    for name, logits in pushed.logits.items():
        assert torch.equal(logits, pushed.results[name]), name
    assert pushed.logits.keys() == {"plain", "turn", "adapter"}
    assert [name for name, card in pushed.cards.items() if "import hf_clear" in card] == ["adapter"]
    assert not [request for request in pushed.hub.unknown if "agent-harnesses" not in request]


def test_what_the_cards_say(pushed):
    metadata = {name: metadata_of(card) for name, card in pushed.cards.items()}
    for name, card in pushed.cards.items():
        has_adapter = name != "turn"
        assert {"hf-clear", "noisy-labels"} <= set(metadata[name]["tags"])
        assert ("peft" in metadata[name]["tags"]) == has_adapter
        assert metadata[name]["library_name"] == ("peft" if has_adapter else "transformers")
        assert len(metadata[name]["tags"]) == len(set(metadata[name]["tags"]))
        assert metadata[name].get("base_model") == (None if name == "adapter" else "org/tiny-bert")  # a local folder
        named = {"checkpoints": ["org/another"]}  # by the caller
        assert metadata[name].get("datasets") == named.get(name, ["mteb/banking77"])
        assert str(pushed.base) not in card, "a folder of the author's"
        for part in ("Model description", "Training and evaluation data", "Citation"):
            assert card.count(f"## {part}\n") == 1
        assert card.count("@inproceedings") == 1
    assert "mine" in metadata["checkpoints"]["tags"]
    quickstart = (pushed.folder / "out" / "README.md").read_text()
    assert metadata_of(quickstart)["datasets"] == ["mteb/banking77"]

    card, fits = pushed.cards["plain"], [log for log in pushed.results["log_history"] if "clean_fraction" in log]
    assert "| `clear_gamma` (γ) | `0.9` |" in card and "| `probe_" not in card
    table = card.split("| After epoch |")[1].split("\n\n")[0].splitlines()[2:]
    columns = ["epoch", "mixture_mean_clean", "mixture_std_clean", "mixture_mean_noisy", "mixture_std_noisy"]
    columns += ["mixture_weight_noisy", "mixture_separation", "clean_fraction", "estimated_noise_rate", "fit_warnings"]
    columns = [name for name in columns if name in fits[0]]
    said = [[float(cell) for cell in row.strip("| ").split("|")] for row in table]
    assert said == [pytest.approx([fit[name] for name in columns], rel=1e-3) for fit in fits] and len(fits) == 1
    assert "72 training samples of mteb/banking77, with " in card
    rate = fits[-1].get("estimated_noise_rate")
    assert ("not estimated" if rate is None else f"with an estimated {rate:.1%} of wrong labels") in card
    for kind in (name.removeprefix("fit_") for name in fits[-1] if name.startswith("fit_") and name != "fit_warnings"):
        assert f"- `{kind}`: " in card
    assert "cleanse_kept" in pushed.cards["turn"] and "| `turn_threshold` (τ) | `0.6` |" in pushed.cards["turn"]


def test_without_routing_the_card_is_that_of_trainer(tmp_path, training_arguments):
    cards = []
    for trainer_cls in (Trainer, ClearTrainer):
        trainer = trainer_cls(tiny_bert(), training_arguments(), train_dataset=toy_dataset(), data_collator=collate)
        trainer.create_model_card()
        cards.append((tmp_path / "out" / "README.md").read_text())
    assert cards[0] == cards[1]
