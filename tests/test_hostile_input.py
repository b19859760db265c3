"""Files and labels that are damaged, hostile or odd: each works, or is refused with a reason before training."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import ClassLabel, Dataset
from helpers.toy import collate, tiny_bert, toy_dataset
from peft import AutoPeftModelForSequenceClassification, PeftConfig, PeftModel, PrefixTuningConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_run_glue_noisy import rows, script, write  # noqa: F401
from transformers import AutoModelForSequenceClassification, Trainer

from hf_clear import (
    ClearAdapterConfig,
    ClearBitFitConfig,
    ClearLoraConfig,
    ClearPromptConfig,
    ClearTrainer,
    ClearTrainingArguments,
    TurnTrainer,
    TurnTrainingArguments,
    load_adapter,
)
from hf_clear.adapters import check_adapter
from hf_clear.sample_store import SampleStore
from hf_clear.turn.state import TurnState

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
WORKS = None

# ---- Adapters ----

ADAPTERS = {
    "lora": ClearLoraConfig(task_type="SEQ_CLS", r=2, lora_dropout=0, lora_alpha=0.5),
    "clear_adapter": ClearAdapterConfig(task_type="SEQ_CLS", bottleneck_size=3),
    "clear_bitfit": ClearBitFitConfig(task_type="SEQ_CLS"),
    "clear_prompt": ClearPromptConfig(task_type="SEQ_CLS", num_virtual_tokens=2),
    "prefix_tuning": PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder with an adapter of each kind."""
    folder = tmp_path_factory.mktemp("adapters")
    base = str(folder / "base")
    tiny_bert().save_pretrained(base)
    for name, config in ADAPTERS.items():
        model = get_peft_model(AutoModelForSequenceClassification.from_pretrained(base), config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(folder / name)
    return folder


@pytest.fixture
def adapter(saved, tmp_path):
    """Copies a saved adapter, so that a test can damage it."""
    return lambda name: Path(shutil.copytree(saved / name, tmp_path / name))


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(1, 9)[None]).logits


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_sound_adapter_loads_as_with_peft(saved, name):
    expected = PeftModel.from_pretrained(tiny_bert(), saved / name)
    base = tiny_bert()
    check_adapter(saved / name, base)
    assert not hasattr(base, "peft_config") and not any(tensor.is_meta for tensor in base.state_dict().values())
    model = load_adapter(base, saved / name, "other", is_trainable=name != "prefix_tuning")
    assert list(model.peft_config) == ["other"] and torch.equal(logits(model), logits(expected))
    check_adapter(saved / name, model, "other")


def in_config(**settings):
    def change(folder: Path) -> None:
        values = {**json.loads((folder / CONFIG).read_text()), **settings}
        (folder / CONFIG).write_text(json.dumps(values))

    return change


def config_is(content: bytes):
    return lambda folder: (folder / CONFIG).write_bytes(content)


def weights_are(change):
    def apply(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        first = sorted(tensors)[0]
        save_file(change(tensors, first), folder / WEIGHTS)

    return apply


def filled_with(value: float):
    return weights_are(lambda tensors, first: {**tensors, first: tensors[first].index_fill_(0, torch.tensor(0), value)})


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()


def link_out(name: str):
    def change(folder: Path) -> None:
        shutil.move(folder / name, folder.parent / "elsewhere")
        (folder / name).symlink_to(folder.parent / "elsewhere")

    return change


def truncated(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-20])


# What damages the LoRA adapter (the bottleneck adapter where its name says so) -> what the message says.
BAD_ADAPTERS = {
    "no config": (lambda folder: (folder / CONFIG).unlink(), "no adapter_config.json in"),
    "invalid JSON": (config_is(b'{"r": 8,'), "adapter_config.json is no valid JSON"),
    "endless JSON": (config_is(b"[" * 200_000), "adapter_config.json is no valid JSON"),
    "config in another encoding": (config_is("{}".encode("utf-16")), "adapter_config.json is no valid JSON"),
    "a list as config": (config_is(b"[]"), "has to hold a JSON object, and holds a list"),
    "no type": (config_is(b"{}"), "PEFT type None, which is not known"),
    "type is a list": (in_config(peft_type=["LORA"]), r"PEFT type \['LORA'\], which is not known"),
    "unknown type": (in_config(peft_type="NOPE"), "PEFT type 'NOPE'.*newer versions of peft"),
    "type of ours, unknown": (in_config(peft_type="CLEAR_NOPE"), "CLEAR_NOPE'.*pip install -U hf-clear"),
    "unknown setting": (
        in_config(lora_beta=3),
        "LoraConfig has no setting 'lora_beta'",
    ),
    "rank in words": (in_config(r="8"), "setting 'r' can't be '8'.*int"),
    "rank is a bool": (in_config(r=True), "setting 'r' can't be True"),
    "scale is NaN": (in_config(lora_alpha=float("nan")), "'lora_alpha' can't be nan"),
    "modules are numbers": (in_config(target_modules=[1]), r"'target_modules' can't be \[1\]"),
    "rank 0": (in_config(r=0), "adapter_config.json.*`r` should be a positive integer|doesn't fit"),
    "rank of others": (in_config(r=3), "other shapes than the model's"),
    "task": (in_config(task_type="NOPE"), "adapter_config.json: Invalid task type"),
    "modules that are not there": (in_config(target_modules=["nope"]), "adapter_config.json doesn't fit"),
    "imports a module": (
        in_config(auto_mapping={"base_model_class": "A", "parent_library": "antigravity"}),
        "'antigravity' for peft to import. Only modules of hf_clear, peft, transformers",
    ),
    "imports megatron": (
        in_config(megatron_core="antigravity", megatron_config={}),
        "'megatron_core' is 'antigravity'",
    ),
    "reads a file": (
        in_config(corda_config={"cache_file": "/etc/passwd"}),
        "'cache_file' names the file '/etc/passwd'",
    ),
    "reads a file above": (in_config(corda_config={"covariance_file": "../x"}), "'covariance_file' names the file"),
    "runs code": (in_config(rank_pattern={"trust_remote_code": True}), "'trust_remote_code' would run code"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "no adapter_model.safetensors in"),
    "a pickle": (pickled, "adapter_model.bin is a pickle"),
    "truncated": (truncated, "adapter_model.safetensors is damaged"),
    "a pickle by another name": (
        lambda folder: torch.save({"a": torch.ones(1)}, folder / WEIGHTS),
        "adapter_model.safetensors is damaged or no safetensors",
    ),
    "NaN weights": (filled_with(float("nan")), "holds NaN or infinite values"),
    "infinite weights": (filled_with(float("-inf")), "holds NaN or infinite values"),
    "tensor missing": (
        weights_are(lambda t, first: {n: t[n] for n in t if n != first}),
        "tensors are missing: base_mod",
    ),
    "tensor too many": (
        weights_are(lambda t, first: {**t, "base_model.model.bert.pooler.dense.bias": torch.zeros(32)}),
        "no place for: base_model.model.bert.pooler",
    ),
    "no tensors": (weights_are(lambda t, first: {}), "tensors are missing: .*, and .* more"),
    "tensor of another shape": (
        weights_are(lambda t, first: {**t, first: t[first][:1].contiguous()}),
        r"other shapes than the model's: .* is \[1, 32\], the model's \[2, 32\]",
    ),
    "head of other classes": (
        weights_are(lambda t, first: {n: v[:3] if "classifier" in n else v for n, v in t.items()}),
        r"classifier.bias is \[3\], the model's \[4\]",
    ),
    "config is a link out of the folder": (link_out(CONFIG), "adapter_config.json is a link that leads out"),
    "weights are a link out of the folder": (link_out(WEIGHTS), "adapter_model.safetensors is a link that leads out"),
    "clear_adapter: width": (in_config(bottleneck_size="64"), "'bottleneck_size' can't be '64'"),
    "clear_adapter: activation": (in_config(activation="nope"), "adapter_config.json: `activation` has to be one of"),
    "clear_adapter: unknown setting": (in_config(width=1), "ClearAdapterConfig has no setting 'width'"),
    "a rank that no memory holds": (in_config(r=10**9), "tensors have other shapes than the model's"),
    "settings that peft stumbles over": (in_config(arrow_config={"arrow_top_k": 3}), "doesn't fit BertForSequence"),
    "clear_adapter: NaN weights": (filled_with(float("nan")), "holds NaN or infinite values"),
    "clear_adapter: a pickle": (pickled, "adapter_model.bin is a pickle"),
}


@pytest.mark.parametrize("case", BAD_ADAPTERS)
def test_a_bad_adapter_is_refused(adapter, monkeypatch, case):
    monkeypatch.setattr(torch, "load", None)
    change, message = BAD_ADAPTERS[case]
    folder = adapter("clear_adapter" if case.startswith("clear_adapter") else "lora")
    change(folder)
    base = tiny_bert()
    with pytest.raises(ValueError, match=message) as error:
        load_adapter(base, folder)
    assert str(folder) in str(error.value)
    assert not hasattr(base, "peft_config") and not any("lora" in name for name, _ in base.named_modules())


# What other versions of peft write, and changes nothing.
SOUND_SETTINGS = {
    "from a newer version, off": {"setting_of_the_future": None, "another": False, "nested": {}},
    "from an old version": {"enable_lora": None, "merge_weights": False},
    "null for off": {"use_dora": None, "use_rslora": None, "lora_bias": None, "fan_in_fan_out": None},
    "null for the default": {"loftq_config": None, "qalora_group_size": None, "inference_mode": None},
    "a name of a family": {"init_lora_weights": "pissa_niter_4"},
}


@pytest.mark.parametrize("case", SOUND_SETTINGS)
def test_settings_that_peft_takes_are_not_refused(adapter, case):
    folder = adapter("lora")
    in_config(**SOUND_SETTINGS[case])(folder)
    found = []
    for load in (load_adapter, PeftModel.from_pretrained):
        base = tiny_bert()
        torch.manual_seed(0)  # PiSSA draws
        found.append(logits(load(base, folder)))
    assert torch.equal(*found)


def test_a_look_at_an_adapter_reads_no_other_file(adapter, tmp_path):
    """For training, peft would initialize these prompts with a tokenizer."""
    folder, base = adapter("prefix_tuning"), tiny_bert()
    settings = {"peft_type": "PROMPT_TUNING", "prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "a a"}
    config = {**json.loads((folder / CONFIG).read_text()), **settings}
    config = {name: value for name, value in config.items() if "prefix" not in name and name != "encoder_hidden_size"}
    config |= {"tokenizer_name_or_path": str(tmp_path / "nowhere"), "inference_mode": False}
    (folder / CONFIG).write_text(json.dumps(config))
    tensors = {**load_file(folder / WEIGHTS), "prompt_embeddings": torch.zeros(2, 32)}
    save_file(tensors, folder / WEIGHTS)
    check_adapter(folder, base)


def test_a_repository_in_the_cache_of_the_hub(saved, tmp_path):
    repository = tmp_path / "models--someone--adapter"
    for part in ("blobs", "snapshots/1234", "refs"):
        (repository / part).mkdir(parents=True)
    (repository / "refs" / "main").write_text("1234")
    for name in (CONFIG, WEIGHTS):
        shutil.copy(saved / "lora" / name, repository / "blobs" / name)
        (repository / "snapshots" / "1234" / name).symlink_to(f"../../blobs/{name}")
    model = load_adapter(tiny_bert(), "someone/adapter", cache_dir=tmp_path)
    assert torch.equal(logits(model), logits(load_adapter(tiny_bert(), saved / "lora")))
    (repository / "snapshots" / "1234" / WEIGHTS).unlink()
    with pytest.raises(ValueError, match="someone/adapter is no folder, and there is no adapter_model.safetensors"):
        load_adapter(tiny_bert(), "someone/adapter", cache_dir=tmp_path)
    with pytest.raises(ValueError, match="no/such/folder is no folder"):
        load_adapter(tiny_bert(), "no/such/folder")
    with pytest.raises(ValueError, match="is a PeftModel already"):
        load_adapter(model, saved / "lora")


# Our own types refuse by themselves what peft asks them about.
ROUTES = {
    "PeftModel": lambda base, folder: PeftModel.from_pretrained(tiny_bert(), folder),
    "load_adapter": lambda base, folder: get_peft_model(tiny_bert(), ADAPTERS["clear_adapter"]).load_adapter(
        folder, "b"
    ),
    "AutoPeftModel": lambda base, folder: AutoPeftModelForSequenceClassification.from_pretrained(folder),
    "native": lambda base, folder: AutoModelForSequenceClassification.from_pretrained(folder),
    "PeftConfig": lambda base, folder: PeftConfig.from_pretrained(folder),
}


@pytest.mark.parametrize("route", ROUTES)
def test_our_own_types_refuse_by_every_route(saved, adapter, route):
    folder = adapter("clear_adapter")
    ROUTES[route](saved / "base", folder)
    bad = ["clear_adapter: width", "clear_adapter: activation", "clear_adapter: unknown setting"]
    if route not in ("native", "PeftConfig"):  # transformers' loader doesn't ask
        bad += ["clear_adapter: NaN weights", "tensor missing", "tensor too many"]
    if route in ("PeftModel", "load_adapter"):
        bad += ["clear_adapter: a pickle"]
    for case in bad:
        shutil.rmtree(folder)
        BAD_ADAPTERS[case][0](adapter("clear_adapter"))
        with pytest.raises(ValueError, match="setting|activation|NaN|no tensors|not its own|pickle"):
            ROUTES[route](saved / "base", folder)


@pytest.mark.parametrize("method", ["clear", "turn"])
def test_checkpoints_are_checked(training_arguments, tmp_path, method):
    kinds = {"clear": (ClearTrainer, ClearTrainingArguments), "turn": (TurnTrainer, TurnTrainingArguments)}
    trainer_cls, arguments_cls = kinds[method]
    own = {"clear_warmup_epochs": 1} if method == "clear" else {"probe_epochs": 1, "turn_balance": "none"}

    def build(**kwargs):
        arguments = {"save_strategy": "epoch", "num_train_epochs": 1, **own, **kwargs}
        return trainer_cls(
            model=tiny_bert(),
            args=training_arguments(arguments_cls, **arguments),
            train_dataset=toy_dataset(),
            eval_dataset=toy_dataset(8),
            data_collator=collate,
            peft_config=ClearLoraConfig(task_type="SEQ_CLS"),
        )

    best = {"load_best_model_at_end": True, "eval_strategy": "epoch"}
    build(**best).train()  # as it is
    (folder,) = (tmp_path / "out").glob("checkpoint-*")
    build(num_train_epochs=2).train(resume_from_checkpoint=str(folder))  # as it is, too
    for case in ("a pickle", "NaN weights", "tensor of another shape"):
        shutil.copytree(folder, tmp_path / case / folder.name)
        BAD_ADAPTERS[case][0](tmp_path / case / folder.name)
        with pytest.raises(ValueError, match=f"{tmp_path / case / folder.name}/adapter_model.*"):
            build(num_train_epochs=2).train(resume_from_checkpoint=str(tmp_path / case / folder.name))
    torch.save({}, folder / "pytorch_model.bin")  # which Trainer would load before the adapter
    with pytest.raises(ValueError, match="pytorch_model.bin is a pickle"):
        build(num_train_epochs=2).train(resume_from_checkpoint=str(folder))

    trainer = build(**best)
    save = trainer._save_checkpoint

    def damage(*args):
        save(*args)
        filled_with(float("nan"))(folder)

    (folder / "pytorch_model.bin").unlink()
    trainer._save_checkpoint = damage
    with pytest.raises(ValueError, match="holds NaN or infinite values"):
        trainer.train()


# ---- State files ----


def clear_state(path: Path) -> None:
    store = SampleStore.empty(5)
    store.losses, store.clean_probability = torch.rand(5), torch.rand(5)
    store.targets, store.fitted_epoch = torch.rand(5, 3), 4
    store.save(path)


def turn_state(path: Path) -> None:
    store = SampleStore.empty(5)
    state = TurnState(
        *({"num_samples": 5}, 1, {"head.weight": torch.ones(3, 2)}, [2], {}, store, np.array([0, 4]), {"a": 1.0}, [])
    )
    state.save(path)


def tensors(**changed):
    """Replaces tensors by name ("_" for "."); None removes one."""

    def change(tensors: dict, metadata: dict) -> None:
        for name, tensor in changed.items():
            name = next(own for own in tensors if own.replace(".", "_") == name)
            tensors.pop(name)
            if tensor is not None:
                tensors[name] = tensor

    return change


def metadata(state):
    return lambda tensors, metadata: metadata.update(state=state if isinstance(state, str) else json.dumps(state))


def plain(**changed):
    return lambda tensors, metadata: metadata.update(state=json.dumps({**json.loads(metadata["state"]), **changed}))


HALF = torch.full((5,), 0.5).double()
BAD_STATES = {
    "clear: no metadata": (lambda tensors, metadata: metadata.pop("state"), "damaged .its metadata are no valid JSON"),
    "clear: metadata": (metadata("{"), "damaged .its metadata are no valid JSON"),
    "clear: metadata are a list": (metadata([]), "damaged .its metadata are a list"),
    "clear: epoch": (plain(fitted_epoch="4"), "fitted_epoch is '4'"),
    "clear: epoch is a bool": (plain(fitted_epoch=True), "fitted_epoch is True"),
    "clear: probability above 1": (tensors(clean_probability=HALF * 3), "clean_probability holds what is no prob"),
    "clear: probability is NaN": (
        tensors(clean_probability=HALF * torch.nan),
        "clean_probability holds what is no prob",
    ),
    "clear: probabilities are integers": (
        tensors(clean_probability=torch.ones(5).long()),
        "clean_probability is a torch.int",
    ),
    "clear: labels are floats": (tensors(labels=torch.ones(5)), "labels is a torch.float32 of shape .5."),
    "clear: losses of two dimensions": (tensors(losses=torch.ones(5, 1)), "losses is a .* of shape .5, 1."),
    "clear: a scalar": (tensors(losses=torch.tensor(1.0)), "losses is a .* of shape .."),
    "clear: one too short": (tensors(mean_losses=torch.ones(4)), "the state of 4 samples while the training set has 5"),
    "clear: targets of other classes": (tensors(targets=torch.ones(5, 2)), "for 2 classes while the model has 3"),
    "clear: targets without classes": (tensors(targets=torch.ones(5)), "targets is a torch.float32 of shape .5."),
    "clear: targets are NaN": (tensors(targets=torch.ones(5, 3) * torch.nan), "targets holds what is no probability"),
    "turn: settings": (plain(settings=[]), r"settings in its metadata is \[\], not a dict"),
    "turn: no number of samples": (plain(settings={}), "num_samples in its metadata is None"),
    "turn: epochs": (plain(probe_epochs=1.5), "probe_epochs in its metadata is 1.5, not a int"),
    "turn: no metadata": (metadata("null"), "its metadata are a NoneType"),
    "turn: probability": (tensors(store_clean_probability=-HALF), "clean_probability holds what is no probability"),
    "turn: a store in part": (tensors(store_labels=None), "it holds clean_probability, losses, mean_losses of the"),
    "turn: samples that are not there": (tensors(fine_tuning_samples=torch.tensor([5])), "not all among the 5"),
    "turn: samples": (tensors(fine_tuning_samples=torch.ones(2)), "no list of rows"),
}


@pytest.mark.parametrize("case", BAD_STATES)
def test_a_bad_state_is_refused(tmp_path, case):
    path = tmp_path / "state.safetensors"
    is_clear = case.startswith("clear")
    (clear_state if is_clear else turn_state)(path)

    def load():
        return SampleStore.load(path, 5, num_labels=3) if is_clear else TurnState.load(path)

    load()
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    change, message = BAD_STATES[case]
    change(tensors, metadata)
    save_file(tensors, path, metadata)
    with pytest.raises(ValueError, match=f"{path} .*{message}.*start again"):
        load()


def test_a_state_of_another_model_is_refused(training_arguments):
    def turn() -> TurnTrainer:
        arguments = training_arguments(TurnTrainingArguments, probe_epochs=1)
        return TurnTrainer(tiny_bert(), arguments, train_dataset=toy_dataset(), data_collator=collate)

    turn().linear_probe()
    path = Path(turn().args.output_dir) / "_turn_state.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    name = next(name for name in tensors if name.startswith("probe.") and tensors[name].ndim == 2)
    save_file({**tensors, name: torch.zeros(9, 9)}, path, metadata)
    with pytest.raises(ValueError, match=f"{path} is damaged .its probe doesn't fit the model's head: "):
        turn().train(resume_from_checkpoint=True)

    def clear(num_labels: int, **kwargs) -> ClearTrainer:
        return ClearTrainer(
            tiny_bert(num_labels),
            training_arguments(clear_warmup_epochs=0, num_train_epochs=1, **kwargs),
            train_dataset=toy_dataset(),
            data_collator=collate,
            peft_config=ClearLoraConfig(task_type="FEATURE_EXTRACTION"),  # without the head, which tells otherwise
        )

    clear(4, save_strategy="epoch").train()
    with pytest.raises(ValueError, match="holds targets for 4 classes while the model has 5"):
        clear(5).train(resume_from_checkpoint=True)


# ---- Labels, in Python ----

# labels of 24 samples, number of classes -> what the message says
LABELS = {
    "10,000 classes": (list(range(0, 9999, 417)), 10_000, WORKS),
    "one sample a class": (list(range(24)), 24, WORKS),
    "all equal": ([1] * 24, 4, WORKS),
    "numpy integers": (list(np.arange(24) % 4), 4, WORKS),
    "missing": ([1] * 23 + [None], 4, "label of sample 23 is missing"),
    "NaN": ([1.0] * 23 + [float("nan")], 4, "label of sample 23 is missing"),
    "bool": ([True, False] * 12, 4, "label of sample 0 is True, a bool.*cast bools"),
    "numpy bool": ([np.True_] * 24, 4, "label of sample 0 is True, a bool"),
    "whole floats": ([1.0] * 24, 4, "label of sample 0 is 1.0, a float.*cast"),
    "strings": (["1"] * 24, 4, "label of sample 0 is '1', a str.*class_encode_column"),
    "mixed": ([1, "a"] * 12, 4, "label of sample 1 is 'a', a str"),
    "beyond the last class": ([2**62] + [1] * 23, 4, "label of sample 0 is 4611686018427387904"),
}


@pytest.mark.parametrize("case", LABELS)
@pytest.mark.parametrize("method", ["clear", "turn"])
def test_labels(training_arguments, caplog, method, case):
    labels, num_labels, message = LABELS[case]
    own = {"clear": {"clear_warmup_epochs": 1}, "turn": {"probe_epochs": 1, "turn_balance": "none"}}[method]
    arguments_cls = {"clear": ClearTrainingArguments, "turn": TurnTrainingArguments}[method]
    trainer = {"clear": ClearTrainer, "turn": TurnTrainer}[method](
        model=tiny_bert(num_labels),
        args=training_arguments(arguments_cls, num_train_epochs=2, **own),
        train_dataset=[{**item, "labels": label} for item, label in zip(toy_dataset(), labels)],
        data_collator=collate,
        peft_config=ClearLoraConfig(task_type="SEQ_CLS"),
    )
    if message is WORKS:
        trainer.train()
        assert trainer.sample_store.is_fitted and trainer.sample_store.clean_probability.isfinite().all()
        assert ("All 24 training samples have the label 1" in caplog.text) == (case == "all equal")
        return
    trainer.training_step = None
    with pytest.raises(ValueError, match=message):
        trainer.train()


# ---- Data files ----


def data(content: str | bytes, extension: str = "csv", *arguments: str):
    """A training file as it is written here."""

    def build(tmp_path: Path) -> list[str]:
        path = tmp_path / f"train.{extension}"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return ["--train_file", str(path), *arguments]

    return build


def table(change, *arguments: str):
    """Texts that can be learned from, after a change."""
    return lambda tmp_path: ["--train_file", write(change(rows(30)), tmp_path / "train.parquet"), *arguments]


def labels_of(values, *arguments: str):
    return table(lambda frame: frame.assign(label=[values[i % len(values)] for i in frame.index]), *arguments)


def texts_of(values):
    return table(lambda frame: frame.assign(text=[values[i % len(values)] for i in frame.index]))


def many_classes(tmp_path: Path) -> list[str]:
    frame, names = rows(30), [f"class {i}" for i in range(10_000)]
    dataset = Dataset.from_dict({"text": frame["text"]})
    dataset = dataset.add_column("label", list(range(0, 9999, 334)), feature=ClassLabel(names=names))
    dataset.to_parquet(tmp_path / "train.parquet")
    return ["--train_file", str(tmp_path / "train.parquet"), "--validation_split_percentage", "0"]


def lines(*rows, times: int = 10) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows * times)


CSV = "text,label\n" + "red1 filler1,a\nblue1 filler2,b\n" * 10
DATA_FILES = {
    "Latin-1": (data(CSV.encode() + b"caf\xe9,a\n"), "train.csv, line 22: byte 4 of the line, 0xe9, is no UTF-8"),
    "Latin-1 in JSON": (
        data(b'{"text": "caf\xe9", "label": 1}\n', "json"),
        "train.json, line 1: byte 14 .*is no UTF-8",
    ),
    "UTF-16": (data(CSV.encode("utf-16")), "train.csv, line 1: byte 1 of the line, 0xff, is no UTF-8"),
    "UTF-8 with a byte order mark": (data(b"\xef\xbb\xbf" + CSV.encode()), WORKS),
    "Windows line ends": (data(CSV.replace("\n", "\r\n")), WORKS),
    "NUL": (data(CSV + "re\0d1,a\n"), "train.csv, line 22: there is a NUL character"),
    "nothing but NUL": (data(b"\0" * 1000), "train.csv, line 1: there is a NUL character"),
    "NUL in JSON": (
        data(lines({"text": "re\0d1", "label": 1}), "json"),
        "Row 0 of the train data .*'text': there is a NUL character",
    ),
    "NUL in parquet": (texts_of(["red1", "re\0d1"]), "Row 1 of the train data .*'text': there is a NUL character"),
    "a million characters": (data(CSV + "red1 " * 200_000 + ",a\n" + "x" * 1_000_000 + ",b\n"), WORKS),
    "a control character and emoji": (texts_of(["red1 \x07", "\U0001f600 \u202e", "\u0301"]), WORKS),
    "duplicate columns": (data("text,text,label\nx,y,a\nz,z,b\n"), "train.csv has 2 columns 'text'"),
    "duplicate labels": (data("label,text,label\na,y,a\nb,z,b\n"), "train.csv has 2 columns 'label'"),
    "duplicate keys in JSON": (
        data('{"text": "a", "text": "b", "label": 1}\n', "json"),
        "train.json: can't be read as json",
    ),
    "cells too many": (data(CSV + "x,a,b,c\n"), "train.csv: can't be read as csv .*same columns"),
    "an open quote": (data(CSV + '"x,a\n' + CSV), "train.csv: can't be read as csv"),
    "JSON cut off": (data(lines({"text": "x", "label": 1}) + '{"te', "json"), "train.json: can't be read as json"),
    "no parquet": (data(b"PAR1 junk PAR1", "parquet"), "train.parquet: can't be read as parquet"),
    "mixed labels": (
        data(lines({"text": "x", "label": 1}, {"text": "x", "label": "a"}), "json"),
        "Row 1 .* the label 'a', a str, and row 0 has 1, a int. Labels have to be all integers or all strings"
        "|Column./label. changed from number to string in row 1.* every column one type",  # datasets 4.0
    ),
    "names, one of which is a number": (data(CSV.replace(",a\n", ",1\n")), WORKS),
    "nan among numbers": (data("text,label\n" + "x,1\ny,2\n" * 9 + "z,nan\n"), r"Row 18 .*label is missing \('nan'\)"),
    "a class called none": (data(CSV.replace(",a\n", ",none\n")), WORKS),
    "NaN": (labels_of([1.0, float("nan")]), "Row 1 .*the label is missing"),
    "blank label": (labels_of(["a", " "]), "Row 1 .*the label is missing"),
    "infinite": (labels_of([1.0, float("inf")]), "1.0, a float"),
    "lists as labels": (labels_of([[1], [2]]), r"the label is \[1\]. It has to be one class"),
    "objects as labels": (labels_of([{"a": 1}, {"a": 2}]), "the label is {'a': 1}. It has to be one class"),
    "bool labels": (labels_of([True, False]), WORKS),
    "beyond 64 bits": (data("text,label\nx,99999999999999999999\ny,1\n"), "train.csv: can't be read as csv"),
    "labels all equal": (labels_of([7]), r"single class \(7\)"),
    "10,000 classes": (many_classes, WORKS),
    "one sample a class": (labels_of(range(30), "--validation_split_percentage", "0"), WORKS),
    "one sample a class, some for validation": (labels_of(range(30)), "No training sample is left of 3 of the 30"),
    "labels are long": (labels_of(["a" * 10_000, "b" * 10_000]), WORKS),
}


@pytest.mark.parametrize("case", DATA_FILES)
def test_data_files(script, tmp_path, monkeypatch, case):  # noqa: F811
    build, message = DATA_FILES[case]
    arguments = [*build(tmp_path), "--max_steps", "2", "--clear_warmup_epochs", "1"]
    if message is WORKS:
        results, out = script(*arguments)
        assert results["clear"]["train_loss"] > 0
        assert pd.read_parquet(out / "clean_probabilities.parquet").clean_probability.between(0, 1).all()
        return

    monkeypatch.setattr(Trainer, "training_step", None)
    with pytest.raises(ValueError, match=message):
        script(*arguments)
    assert not os.path.exists(tmp_path / "out" / "all_results.json")
