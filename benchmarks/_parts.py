"""Parts of a training that overhead.py measures by themselves: a layer, passes, compilation, imports."""

from __future__ import annotations

import argparse
import contextlib
import copy
import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch
from _measuring import row, synchronize
from _trainings import LORA, loaded
from peft import LoraConfig, get_peft_model
from torch import nn

from hf_clear import num_routed_layers, route


def layer(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One LoRA layer of the backbone's width, forward and backward pass, half of the gates open."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    for tokens in (16, 64):
        model = get_peft_model(nn.Sequential(nn.Linear(384, 384)), LoraConfig(target_modules=["0"], r=8)).to(device)
        states = torch.randn(args.batch_size, tokens, 384, device=device, requires_grad=True)
        gates = torch.rand(1, args.batch_size) < 0.5
        stock, ours = [], []
        for _ in range(20 * args.rounds):
            stock += steps(model, states)
            with route(model, gates):
                ours += steps(model, states)
        name = f"LoRA layer, {tokens} tokens"
        rows.append(row(name, 1e3 * float(np.median(stock[10:])), 1e3 * float(np.median(ours[10:])), 1.03, "ms"))
    return rows


def steps(model: nn.Module, states: torch.Tensor) -> list[float]:
    seconds, grad = [], torch.ones_like(states)
    for _ in range(5):
        model.zero_grad()
        states.grad = None
        synchronize()
        start = time.perf_counter()
        model(states).backward(grad)
        synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds


def passes(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Ways to run a pass without gradient, over the time of training on the same samples in batches of random order."""
    train_set, _, model, tokenizer = loaded("banking77", args.data)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = get_peft_model(copy.deepcopy(model), LoraConfig(**LORA)).to(device)
    ids = train_set.shuffle(seed=0).select(range(args.samples))["input_ids"][:]
    by_length = sorted(ids, key=len, reverse=True)

    def batches(ids: list[list[int]], size: int) -> list[dict[str, torch.Tensor]]:
        parts = [ids[start : start + size] for start in range(0, len(ids), size)]
        return [dict(tokenizer.pad({"input_ids": part}, return_tensors="pt").to(device)) for part in parts]

    def training() -> None:
        model.train()
        for batch in at_random:
            model(**batch).logits.logsumexp(dim=-1).sum().backward()
            model.zero_grad()

    def forward(batches: list, context: contextlib.AbstractContextManager, times: int = 1) -> None:
        model.eval()
        with context:
            for batch in batches:
                for _ in range(times):
                    model(**batch)

    at_random, size = batches(ids, args.batch_size), args.batch_size
    doubled = [{name: torch.cat([values, values]) for name, values in batch.items()} for batch in at_random]
    ordered, large = batches(by_length, size), batches(by_length, 4 * size)
    variants = {
        "random order": lambda: forward(at_random, torch.no_grad()),
        "two forward passes of every batch": lambda: forward(at_random, torch.no_grad(), times=2),
        "one of every batch doubled": lambda: forward(doubled, torch.no_grad()),
        "longest first": lambda: forward(ordered, torch.no_grad()),
        "longest first, batches 4 times as large": lambda: forward(large, torch.no_grad()),
        "longest first, inference mode": lambda: forward(ordered, torch.inference_mode()),
        "longest first, bf16": lambda: forward(ordered, in_bf16(device)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ("training", *variants)}
    for _ in range(args.rounds + 1):
        for name, run in {"training": training, **variants}.items():
            start = time.perf_counter()
            run()
            synchronize()
            seconds[name].append(time.perf_counter() - start)
    median = {name: float(np.median(values[1:])) for name, values in seconds.items()}
    return [row(f"pass without gradient: {name}", median["training"], median[name], None) for name in variants]


@contextlib.contextmanager
def in_bf16(device: str):
    with torch.no_grad(), torch.autocast(device, torch.bfloat16):
        yield


def compiled(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Graph breaks of the model under `torch.compile`; compared as 1 + their number."""
    train_set, _, model, tokenizer = loaded("banking77", args.data)
    model = get_peft_model(copy.deepcopy(model), LoraConfig(**LORA))
    batch = tokenizer.pad({"input_ids": train_set[:4]["input_ids"]}, return_tensors="pt")

    def breaks() -> int:
        torch._dynamo.reset()
        return torch._dynamo.explain(model)(**batch).graph_break_count

    stock = breaks()
    with route(model, torch.rand(num_routed_layers(model), 4) < 0.5):
        routed = breaks()
    return [row("torch.compile: 1 + graph breaks", 1 + stock, 1 + routed, 1.0, "")]


def imports(args: argparse.Namespace) -> list[dict[str, Any]]:
    """`ratio` to the time of importing transformers and peft; the target in seconds is 0.2 more."""
    statements = {
        "stock": "import transformers, peft",
        "hf_clear": "import transformers, peft, hf_clear",
        "Trainer": "import transformers, peft; from transformers import Trainer",
        "ClearTrainer": "import transformers, peft; from hf_clear import ClearTrainer",
    }
    seconds: dict[str, list[float]] = {name: [] for name in statements}
    for _ in range(args.rounds + 1):
        for name, statement in statements.items():
            code = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
            run = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
            seconds[name].append(float(run.stdout.split()[-1]))
    median = {name: float(np.median(values[1:])) for name, values in seconds.items()}
    return [
        row("import hf_clear", median["stock"], median["hf_clear"], 1 + 0.2 / median["stock"]),
        row("import ClearTrainer, not Trainer", median["Trainer"], median["ClearTrainer"], None),
    ]
