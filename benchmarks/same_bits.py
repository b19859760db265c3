#!/usr/bin/env python
"""Are two versions of hf_clear the same to the last bit? Trains tiny models for 20 steps in settings that together use
each part of the library, and writes weights, losses, clean probabilities and targets; then compares two such files.

    git worktree add /tmp/before main
    PYTHONPATH=/tmp/before python benchmarks/same_bits.py record /tmp/before.pt
    PYTHONPATH=. python benchmarks/same_bits.py record /tmp/after.pt
    python benchmarks/same_bits.py compare /tmp/before.pt /tmp/after.pt

Bits depend on the machine: record both on one.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import datasets
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
)

import hf_clear
from hf_clear import (
    ClearAdapterConfig,
    ClearBitFitConfig,
    ClearLoraConfig,
    ClearPromptConfig,
    ClearTrainer,
    ClearTrainingArguments,
    TurnTrainer,
    TurnTrainingArguments,
)

_SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
_SIZES |= {"intermediate_size": 37, "max_position_embeddings": 32, "num_labels": 4}
NUM_SAMPLES = 22  # the last batch of an epoch is a smaller one
TURN = {"probe_epochs": 5, "turn_threshold": 0.3}


def _of_tokens(items: list[dict]) -> dict[str, torch.Tensor]:
    batch = collate(items)
    tokens, mask = batch["input_ids"], batch["attention_mask"] > 0
    batch["labels"] = torch.where(mask, tokens % 4, -100)
    return batch


def _language(items: list[dict]) -> dict[str, torch.Tensor]:
    batch = collate(items)
    return batch | {"labels": torch.where(batch["attention_mask"] > 0, batch["input_ids"], -100)}


def _custom_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    loss = torch.nn.functional.cross_entropy(outputs["logits"], labels, reduction="sum", label_smoothing=0.2)
    return loss / (len(labels) if num_items_in_batch is None else num_items_in_batch)


# `preset("clear")`, as versions without it know it.
CLEAR = hf_clear.preset("paper") | {"clear_ensemble_source": None, "clear_warmup_epochs": 1}
LORA = {"peft_config": lambda **kwargs: ClearLoraConfig(r=4, **kwargs)}
# name: (arguments of the training, arguments of the trainer)
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "lora": ({}, LORA),
    "adapter": ({}, {"peft_config": lambda **kwargs: ClearAdapterConfig(bottleneck_size=4, **kwargs)}),
    "bitfit": ({}, {"peft_config": ClearBitFitConfig}),
    "prompt": ({}, {"peft_config": lambda **kwargs: ClearPromptConfig(num_virtual_tokens=3, **kwargs)}),
    "ensemble epoch": ({"clear_ensemble_source": "epoch"}, LORA),
    "ensemble step": ({"clear_ensemble_source": "step"}, LORA),
    "losses online": ({"clear_loss_source": "online"}, LORA),
    "probe": ({"clear_warmup": "linear_probe", "clear_warmup_epochs": 2}, LORA),
    "probe on mean features": ({"clear_warmup": "linear_probe", "probe_features": "mean"}, LORA),
    "leaving out": ({"clear_min_clean_probability": 0.5}, LORA),
    "accumulation": ({"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}, LORA),
    "no consistency": ({"clear_consistency_weight": 0.0, "clear_gamma": 0.5}, LORA),
    "as the official code": (hf_clear.preset("official", "adapter") | {"clear_warmup_epochs": 1}, LORA),
    "weights": ({"clear_consistency_weight": 0.3, "clear_ensemble_size": 3, "label_smoothing_factor": 0.1}, LORA),
    "own loss": ({"clear_consistency_weight": 0.3}, {**LORA, "compute_loss_func": _custom_loss}),
    "neighbors": ({"clear_estimator": "gaussian_mixture+knn", "clear_routing": "deterministic"}, LORA),
    "per class": ({"clear_estimator": "per_class_gaussian_mixture", "clear_routing": "random"}, LORA),
    "checkpointing, bf16": ({"gradient_checkpointing": True, "bf16": True}, LORA),
    "tokens": ({}, {**LORA, "model": "tokens", "data_collator": _of_tokens}),
    "language": ({}, {**LORA, "model": "language", "data_collator": _language}),
    "turn": (TURN, {"method": "turn"}),
    "turn, lora, mean features": (TURN | {"probe_features": "mean"}, {"method": "turn", **LORA}),
}
TWO_PROCESSES = ("lora", "ensemble epoch", "accumulation", "turn")


def model_of(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if kind == "language":
        return GPT2LMHeadModel(GPT2Config(vocab_size=60, n_embd=32, n_layer=3, n_head=4, n_positions=32))
    cls = BertForTokenClassification if kind == "tokens" else BertForSequenceClassification
    return cls(BertConfig(**_SIZES, initializer_range=0.2))


def data() -> datasets.Dataset:
    """Sequences of 6 to 9 tokens; every fifth label is wrong."""
    generator = torch.Generator().manual_seed(0)

    def draw(low: int, high: int, size: int) -> list[int]:
        return torch.randint(low, high, (size,), generator=generator).tolist()

    labels = [i % 4 for i in range(NUM_SAMPLES)]
    tokens = [[1] + draw(4 + 10 * label, 14 + 10 * label, 5 + draw(0, 4, 1)[0]) for label in labels]
    given = [(label + (i % 5 == 0)) % 4 for i, label in enumerate(labels)]
    return datasets.Dataset.from_dict(
        {
            "input_ids": tokens,
            "attention_mask": [[1] * len(ids) for ids in tokens],
            "labels": given,
            "true_label": labels,
        }
    )


def collate(items: list[dict]) -> dict[str, torch.Tensor]:
    width = max(len(item["input_ids"]) for item in items)
    batch = {
        name: torch.tensor([item[name] + [0] * (width - len(item[name])) for item in items])
        for name in ("input_ids", "attention_mask")
    }
    return batch | {"labels": torch.tensor([item["labels"] for item in items])}


def run(name: str, folder: str) -> dict[str, torch.Tensor]:
    arguments, own = SETTINGS[name]
    own = {"model": "samples", "method": "clear", "data_collator": collate, **own}
    is_clear, kind = own.pop("method") == "clear", own.pop("model")
    if "peft_config" in own:
        task = {"samples": "SEQ_CLS", "tokens": "TOKEN_CLS", "language": "CAUSAL_LM"}[kind]
        own["peft_config"] = own["peft_config"](task_type=task)
    args = (ClearTrainingArguments if is_clear else TurnTrainingArguments)(
        output_dir=folder,
        **{
            **{"use_cpu": True, "disable_tqdm": True, "report_to": [], "save_strategy": "no", "seed": 7},
            **{"max_steps": 20, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "logging_steps": 1},
            **(CLEAR if is_clear else {}),
            **arguments,
        },
    )
    model, dataset = model_of(kind), data()
    torch.manual_seed(1)
    trainer = (ClearTrainer if is_clear else TurnTrainer)(model=model, args=args, train_dataset=dataset, **own)
    trainer.train()
    assert trainer.state.global_step == 20, trainer.state.global_step
    store = trainer.sample_store
    results = {
        f"weights.{key}": value for key, value in trainer.accelerator.unwrap_model(trainer.model).state_dict().items()
    }
    for what in ("losses", "clean_probability", "labels", "mean_losses", "targets"):
        if getattr(store, what) is not None:
            results[what] = getattr(store, what)
    logged = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    return {key: value.detach().cpu().clone() for key, value in results.items()} | {"logged": torch.tensor(logged)}


def record(path: Path, names: list[str]) -> None:
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            results[name] = run(name, folder)
            print(name, "clean probability", results[name]["clean_probability"].mean().item(), file=sys.stderr)
    if int(os.environ.get("RANK", 0)) == 0:
        torch.save(results, path)


def record_two(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    part = path.with_suffix(".two.pt")
    command = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", __file__, "record", str(part)]
    command += ["--names", *TWO_PROCESSES]
    subprocess.run([sys.executable, "-m", *command], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return {f"{name}, two processes": result for name, result in torch.load(part).items()}


def compare(first: Path, second: Path) -> bool:
    before, after = torch.load(first), torch.load(second)
    same = before.keys() == after.keys()
    for name in before:
        differing = [
            key
            for key in before[name].keys() | after.get(name, {}).keys()
            if key not in before[name]
            or key not in after.get(name, {})
            or not torch.equal(before[name][key].nan_to_num(nan=-7.0), after[name][key].nan_to_num(nan=-7.0))
        ]
        same &= not differing
        print(
            f"{name:<32} {len(before[name])} tensors", "equal" if not differing else f"DIFFER: {sorted(differing)[:4]}"
        )
    return same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["record", "compare"])
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--names", nargs="+", default=None, help="Some of the settings; then one process alone.")
    args = parser.parse_args()
    if args.command == "compare":
        sys.exit(0 if compare(*args.paths) else 1)
    torch.set_num_threads(1)
    (path,) = args.paths
    record(path, args.names or list(SETTINGS))
    if args.names is None:
        torch.save(torch.load(path) | record_two(path), path)


if __name__ == "__main__":
    main()
