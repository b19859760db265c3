"""Adapters from elsewhere: sound ones load as with peft, damaged and hostile ones are refused before they are read."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.damaged_adapters import BAD_ADAPTERS, CONFIG, WEIGHTS, filled_with, in_config
from helpers.toy import collate, tiny_bert, toy_dataset
from peft import AutoPeftModelForSequenceClassification, PeftConfig, PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

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
from hf_clear.adapters.checks import check_adapter
from hf_clear.tuners.prompt import peft_prefixes_work

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
    check_adapter(saved / name, model, "other")
    assert list(model.peft_config) == ["other"]
    if name == "prefix_tuning" and not peft_prefixes_work(base, "SEQ_CLS"):
        pytest.skip("it loads; stock peft can't run it with this version of transformers")
    assert torch.equal(logits(model), logits(expected))


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
        (tmp_path / case / folder.name / "checksums.json").unlink()  # of somebody who means it
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
