"""Ways to damage an adapter on disk, each with what the message about it says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


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
    "a rank that no memory holds": (in_config(r=10**9), "'r' can't be 1000000000"),
    "settings that peft stumbles over": (in_config(arrow_config={"arrow_top_k": 3}), "doesn't fit BertForSequence"),
    "clear_adapter: NaN weights": (filled_with(float("nan")), "holds NaN or infinite values"),
    "clear_adapter: a pickle": (pickled, "adapter_model.bin is a pickle"),
}
