"""Each file of a checkpoint missing, empty, halved, or with one bit flipped: an error that names it, or equal bits."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.toy import collate, tiny_bert, toy_dataset
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast, Trainer

from hf_clear import ClearLoraConfig, ClearTrainer, TurnTrainer, TurnTrainingArguments, load_adapter
from hf_clear.checkpoints.manifest import MANIFEST_NAME, check_files
from hf_clear.files.checksums import content_checksum

FLIPS = 3  # bits, one at a time
ARGUMENTS = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 4, "max_steps": 5}
READ = {"config.json", MANIFEST_NAME, "optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json"}
NOT_READ = {"README.md", "clear_config.json", "label_names.json", "tokenizer.json", "tokenizer_config.json"}
NOT_READ |= {"training_args.bin"}
KINDS = {
    "clear": READ - {"config.json"} | {"adapter_config.json", "adapter_model.safetensors", "clear_state.safetensors"},
    "turn": READ | {"model.safetensors", "_turn_state.safetensors"},
    "turn, sharded": READ | {"_turn_state.safetensors"},
}


def build(training_arguments, kind: str, tokenizer: PreTrainedTokenizerFast, **arguments) -> Trainer:
    data = {"train_dataset": toy_dataset(24), "data_collator": collate, "processing_class": tokenizer}
    arguments = {**ARGUMENTS, **arguments}
    if kind == "clear":
        arguments = training_arguments(clear_warmup_epochs=0, **arguments)
        return ClearTrainer(tiny_bert(), arguments, peft_config=ClearLoraConfig(task_type="SEQ_CLS"), **data)
    arguments = training_arguments(TurnTrainingArguments, probe_epochs=2, turn_threshold=0.01, **arguments)
    trainer = TurnTrainer(tiny_bert(), arguments, **data)
    if "sharded" in kind:
        stock = trainer.model.save_pretrained
        trainer.model.save_pretrained = lambda *args, **kwargs: stock(*args, **{**kwargs, "max_shard_size": "40KB"})
    return trainer


def result(trainer: Trainer) -> dict[str, torch.Tensor]:
    state = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    return state | {"probability": trainer.sample_store.clean_probability, "losses": trainer.sample_store.losses}


def damages() -> dict[str, Callable[[Path], None]]:
    def flip(seed: int) -> Callable[[Path], None]:
        def flip(path: Path) -> None:
            content = bytearray(path.read_bytes())
            bit = random.Random(seed).randrange(8 * len(content))
            content[bit // 8] ^= 1 << bit % 8
            path.write_bytes(content)

        return flip

    return {
        "missing": Path.unlink,
        "empty": lambda path: path.write_bytes(b""),
        "halved": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        **{f"bit {seed}": flip(seed) for seed in range(FLIPS)},
    }


@pytest.fixture
def checkpoint(training_arguments, tiny_model, request, tmp_path) -> tuple[Callable[[], Trainer], Path, dict]:
    """A trainer's builder, a checkpoint in mid-epoch, and what a run ends with that goes on from it."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_model)

    def builder(**arguments) -> Trainer:
        return build(training_arguments, request.param, tokenizer, **arguments)

    whole = builder()
    whole.train()
    shutil.rmtree(tmp_path / "out" / "checkpoint-5", ignore_errors=True)
    return builder, tmp_path / "out" / "checkpoint-4", result(whole)


def outcome(builder: Callable[[], Trainer], checkpoint: Path, expected: dict) -> str:
    """The error's message, or "" for equal bits."""
    trainer = builder(save_strategy="no")
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint))
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    found = result(trainer)
    assert all(torch.equal(found[name], value) for name, value in expected.items()), "other results, in silence"
    return ""


@pytest.mark.parametrize("checkpoint", KINDS, indirect=True)
def test_each_file_damaged_in_each_way(checkpoint, request):
    builder, folder, expected = checkpoint
    names = {path.name for path in folder.iterdir()}
    read = KINDS[request.node.callspec.params["checkpoint"]]
    if shards := {name for name in names if name.startswith("model-")}:
        assert len(shards) > 2
        read = read | shards | {"model.safetensors.index.json"}
    assert read <= names <= read | NOT_READ
    assert outcome(builder, folder, expected) == ""
    (folder / "notes").mkdir()
    (folder / "notes" / "mine.txt").write_text("What a user adds is no damage.")
    untouched = {name: (folder / name).read_bytes() for name in names}
    for name in sorted(names):
        for way, damage in damages().items():
            damage(folder / name)
            if name in read or way == "missing":
                message = outcome(builder, folder, expected)
                is_refused = name in read and (name, way) != (MANIFEST_NAME, "missing")
                assert (f"{folder / name} is " in message) if is_refused else message == "", (name, way, message)
                assert not is_refused or "start again" in message
            (folder / name).write_bytes(untouched[name])
    if shards:
        shutil.copy(folder / min(shards), folder / "model.safetensors")  # `Trainer` would load it in their place
        assert "model.safetensors is damaged (it was not saved with" in outcome(builder, folder, expected)
        (folder / "model.safetensors").unlink()
    for name in names - read:  # all at once: they don't matter
        damages()["halved"](folder / name)
    assert outcome(builder, folder, expected) == ""


@pytest.mark.parametrize("checkpoint", ["clear", "turn"], indirect=True)
def test_a_checkpoint_without_checksums_is_looked_at(checkpoint, caplog):
    """Of an earlier version, or somebody removed the list to have their way."""
    builder, folder, expected = checkpoint
    (folder / MANIFEST_NAME).unlink()
    with caplog.at_level(logging.WARNING):
        assert outcome(builder, folder, expected) == ""
    assert f"{folder} has no {MANIFEST_NAME}" in caplog.text
    state = "clear_state.safetensors" if (folder / "clear_state.safetensors").is_file() else "_turn_state.safetensors"
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", state):
        content = (folder / name).read_bytes()
        for way in ("missing", "empty", "halved", "bit 0"):
            if way == "bit 0" and name == "trainer_state.json":
                continue  # another number is a number
            damages()[way](folder / name)
            message = outcome(builder, folder, expected)
            what = name.replace("optimizer.pt", "optimizer").replace("rng_state.pth", "rng_state")
            assert message == "" or str(folder / what) in message, (name, way, message)  # equal bits, or named
            (folder / name).write_bytes(content)


def list_of(files, **changed) -> str:
    checksum = content_checksum(json.dumps(files, sort_keys=True).encode())
    return json.dumps(
        {"format": "hf_clear.checksums.v1", "algorithm": "xxh3_128", "files": files, "checksum": checksum, **changed}
    )


@pytest.mark.parametrize(
    "content",
    [
        *("[]", "{}", "null", '"files"', "[" * 10**5, "1" * 5000, list_of([]), list_of({}, checksum="0")),
        *(list_of({"a": {}}), list_of({"a": {"size": "1", "checksum": "0"}}), list_of({"a": None}), list_of(None)),
        *(list_of({"../a": {"size": 1, "checksum": "0"}}), list_of({"/etc/passwd": {"size": 1, "checksum": "0"}})),
        *(list_of({}, format="v2"), list_of({}, algorithm="crc32"), " " * 2**25),
    ],
    ids=lambda content: content[:60],
)
def test_a_list_that_is_none_is_refused(tmp_path, content):
    (tmp_path / MANIFEST_NAME).write_text(content)
    with pytest.raises(ValueError, match=f"{tmp_path / MANIFEST_NAME} is damaged"):
        check_files(tmp_path, lambda name: True)


def test_the_best_checkpoint_is_looked_at_before_training(training_arguments):
    arguments = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    arguments |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": True}

    def trainer(**more) -> ClearTrainer:
        return ClearTrainer(
            tiny_bert(),
            training_arguments(**{**arguments, **more}),
            train_dataset=toy_dataset(24),
            eval_dataset=toy_dataset(8),
            data_collator=collate,
            peft_config=ClearLoraConfig(task_type="SEQ_CLS"),
        )

    whole = trainer()
    whole.train()
    best = Path(whole.state.best_model_checkpoint)
    assert best.name == "checkpoint-2"
    (best / "optimizer.pt").unlink()  # is not asked for
    trainer(max_steps=5).train(resume_from_checkpoint=True)
    damages()["bit 0"](best / "adapter_model.safetensors")
    steps = []
    stopped = trainer(max_steps=6)
    stopped.training_step = lambda *args: steps.append(1)
    with pytest.raises(ValueError, match=f"{best}/adapter_model.safetensors is damaged"):
        stopped.train(resume_from_checkpoint=True)
    assert not steps


def test_a_checkpoint_without_optimizer_says_so(turn, caplog):
    turn(save_strategy="epoch", save_only_model=True).train()
    with caplog.at_level(logging.WARNING):
        turn(save_strategy="epoch").train(resume_from_checkpoint=True)
    assert "was saved without optimizer, scheduler and random states" in caplog.text


def test_an_adapter_carries_its_checksum(training_arguments, tmp_path):
    trainer = ClearTrainer(
        tiny_bert(),
        training_arguments(max_steps=1),
        train_dataset=toy_dataset(8),
        data_collator=collate,
        peft_config=ClearLoraConfig(task_type="SEQ_CLS"),
    )
    trainer.train()
    trainer.save_model()
    shutil.copytree(trainer.args.output_dir, tmp_path / "elsewhere")
    path = tmp_path / "elsewhere" / "adapter_model.safetensors"
    content = path.read_bytes()
    load_adapter(tiny_bert(), path.parent)
    for seed in range(20):
        damaged = bytearray(content)
        bit = random.Random(seed).randrange(8 * len(content))
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{path} is damaged"):
            load_adapter(tiny_bert(), path.parent)
    path.write_bytes(content)
    os.chmod(path, 0o600)
    save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path)  # written anew: none, and none due
    load_adapter(tiny_bert(), path.parent)


@pytest.mark.parametrize("fails", ["the list of checksums", "the last rename"])
def test_a_failure_at_the_very_end_leaves_the_checkpoint_of_the_same_name(training_arguments, monkeypatch, fails):
    def trainer() -> ClearTrainer:
        return ClearTrainer(
            tiny_bert(),
            training_arguments(save_strategy="steps", save_steps=2, max_steps=2, clear_warmup_epochs=0),
            train_dataset=toy_dataset(24),
            data_collator=collate,
            peft_config=ClearLoraConfig(task_type="SEQ_CLS"),
        )

    def full(*args):
        raise OSError("No space left on device")

    trainer().train()
    folder = Path(trainer().args.output_dir)
    before = {path.name: path.read_bytes() for path in (folder / "checkpoint-2").iterdir()}
    with monkeypatch.context() as patch:
        if fails == "the list of checksums":
            patch.setattr("hf_clear.checkpoints.manifest.write_atomically", full)
        else:
            rename = os.rename
            last = str(folder / "_incomplete" / "checkpoint-2")
            patch.setattr("os.rename", lambda old, new: full() if old == last else rename(old, new))
        with pytest.raises(OSError, match="No space left"):
            trainer().train()
    assert os.listdir(folder) == ["checkpoint-2"]
    assert before == {path.name: path.read_bytes() for path in (folder / "checkpoint-2").iterdir()}
