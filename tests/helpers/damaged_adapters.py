"""Ways to damage an adapter on disk, each with what the message about it says."""

from __future__ import annotations

import json
import os
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


def converted(dtype: torch.dtype):
    return weights_are(lambda tensors, first: {**tensors, first: tensors[first].to(dtype)})


def in_place_of(name: str, make):
    """Something that is no file, such as a pipe."""

    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def with_header(header: bytes, length: int | None = None, size: int | None = None):
    def change(folder: Path) -> None:
        with open(folder / WEIGHTS, "wb") as file:
            file.write((len(header) if length is None else length).to_bytes(8, "little") + header)
            file.truncate(size)  # with a hole, if it is longer

    return change


def truncated(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-20])


# What damages the LoRA adapter (the bottleneck adapter if its name says so) -> what the message says.
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
    "invalid JSON: a name twice": (
        config_is(b'{"peft_type": "LORA", "r": 1, "r": 2}'),
        "no valid JSON .'r' comes twice",
    ),
    "invalid JSON: deep": (config_is(b"[" * 10**6), "no valid JSON .values are nested too deep"),
    "invalid JSON: no Unicode": (config_is(b'{"peft_type": "\\ud800"}'), "no valid JSON .'utf-8' codec can't encode"),
    "invalid JSON: Latin-1": (config_is(b'{"peft_type": "\xe9"}'), "no valid JSON .'utf-8' codec can't decode"),
    "invalid JSON: BOM": (config_is(b'\xef\xbb\xbf{"peft_type": "LORA"}'), "no valid JSON .*BOM"),
    "settings of 300 MB": (config_is(b"[" + b" " * 300_000_000), "adapter_config.json has more than 2 MiB"),
    "no file: config is a pipe": (in_place_of(CONFIG, os.mkfifo), "no adapter_config.json in"),
    "no file: weights are a pipe": (in_place_of(WEIGHTS, os.mkfifo), "no adapter_model.safetensors in"),
    "no file: config is a folder": (in_place_of(CONFIG, os.mkdir), "no adapter_config.json in"),
    "400 digits": (in_config(r=10**400), "'r' can't be inf"),
    "400 digits inside": (in_config(rank_pattern={"query": -(10**400)}), "'rank_pattern|query' holds -inf"),
    "5000 digits": (config_is(b'{"peft_type": "LORA", "r": ' + b"9" * 5000 + b"}"), "'r' can't be inf"),
    "float8": (converted(torch.float8_e4m3fn), "is of the type F8_E4M3; adapters hold floating-point numbers"),
    "integers": (converted(torch.int8), "of other types than the model's: .* is I8, the model's float32"),
    "complex": (converted(torch.complex64), "is of the type C64; adapters hold floating-point numbers"),
    "4 bits": (
        with_header(b'{"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}', size=100 - 31),
        "is of the type F4; adapters|damaged or no safetensors",
    ),
    "weights of 1e38": (filled_with(1e38), "holds a value of 1e.38, with which the model would predict NaN"),
    "a scale that overflows": (in_config(lora_alpha=1e308), "'lora_alpha' can't be 1e.308"),
    "a model that predicts NaN": (
        weights_are(lambda tensors, first: {n: t * (1e13 if "lora" in n else 1) for n, t in tensors.items()}),
        "with this adapter the model predicts NaN",
    ),
    "a header of 10 GB": (with_header(b"{}", length=10**10), "its header is said to have 10,000,000,000 bytes"),
    "a tensor of 4 TB": (
        with_header(b'{"a": {"dtype": "F32", "shape": [1000000000000], "data_offsets": [0, 4000000000000]}}'),
        "damaged or no safetensors",
    ),
    "pattern: groups inside of each other": (
        in_config(target_modules="(" * 5000 + "a" + ")" * 5000),
        "too deep|recursion",
    ),
    "pattern: takes too long": (
        in_config(rank_pattern={"(?=.*" * 60 + "x" + ")" * 60: 2}),
        "'rank_pattern': .* takes too long to match",
    ),
    "pattern: too long": (in_config(exclude_modules="(a+)+" * 10_000), "a pattern of 50,000 characters"),
    "pattern: refers back": (in_config(target_modules=r"(.*)\1"), "'target_modules': .* refers back to a group"),
    "pattern: none": (in_config(target_modules="*"), "'target_modules': .* is no regular expression"),
    "pattern: matches nothing": (in_config(target_modules="(a+)+$"), "'target_modules' is .* the name of no module"),
    "pattern in modules_to_save": (
        in_config(modules_to_save=["(.*)*x"]),
        "'modules_to_save' has .*, which is no name of a module",
    ),
    "pattern in layers_pattern": (
        in_config(layers_pattern="(.*)*x", layers_to_transform=[0]),
        "'layers_pattern' has .*, which is no name of a module",
    ),
    "100,000 names": (in_config(modules_to_save=["a"] * 100_000), "'modules_to_save' has 100,000 entries"),
    "100,000 patterns": (
        in_config(rank_pattern={f"{i}": 1 for i in range(100_000)}),
        "'rank_pattern' has 100,000 entries, and at most 20,000",
    ),
    "10,000 patterns": (
        in_config(alpha_pattern={f"layer{i}": 1 for i in range(10_000)}),
        "'alpha_pattern': .* takes too long to match",
    ),
    "100,000 layers": (in_config(layer_replication=[[0, 1]] * 100_000), "'layer_replication' has 300,000 entries"),
    "100,000 entries deep inside": (
        in_config(auto_mapping={"a": [[[0, 1]] * 50_000]}),
        "'auto_mapping' has 150,002 entr",
    ),
    "1,000 layers": (in_config(layer_replication=[[0, 3]] * 300), "'layer_replication' has to be of pairs from 0 to"),
    "layers that are not there": (in_config(layer_replication=[[0, 4]]), "'layer_replication' has to be of pairs"),
    "a decomposition that takes years": (
        in_config(init_lora_weights="pissa_niter_100000000"),
        "'init_lora_weights' can't be 'pissa_niter_100000000'",
    ),
    "a decomposition by data": (
        in_config(init_lora_weights="corda"),
        "'init_lora_weights' can't be 'corda': it changed",
    ),
    "an unknown initialization": (
        in_config(init_lora_weights="nope"),
        "'init_lora_weights' can't be 'nope'; there are",
    ),
    "quantized for years": (
        in_config(init_lora_weights="loftq", loftq_config={"loftq_bits": 4, "loftq_iter": 10**8}),
        "'loftq_iter' can't be 100000000|scipy",
    ),
    "quantized how often": (
        in_config(init_lora_weights="loftq", loftq_config={"loftq_bits": 4}),
        "'loftq_iter' can't be None: it has to be 1 or above",
    ),
    "quantized in words": (
        in_config(init_lora_weights="loftq", loftq_config={"loftq_bits": 4, "loftq_iter": "x"}),
        "'loftq_iter' can't be 'x': it has to be 1 or above",
    ),
    "samples that no memory holds": (in_config(monteclora_config={"buffer_size": 200}), "'buffer_size' times"),
    "a token that is not there": (
        in_config(trainable_token_indices=[60]),
        "names a token that is none of the model's 60",
    ),
    "clear_adapter: a width that no memory holds": (
        in_config(bottleneck_size=10**9),
        "'bottleneck_size' can't be 1000",
    ),
    "clear_adapter: pattern": (
        in_config(target_modules=r"(\w+\.?)+\.$"),
        "'target_modules' is .* the name of no module",
    ),
    "clear_adapter: weights of 1e38": (filled_with(1e38), "holds a value of 1e.38"),
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
