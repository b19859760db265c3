#!/usr/bin/env python
"""What CleaR costs beside plain PEFT: stock `Trainer` with `peft.LoraConfig` against `ClearTrainer` with
`ClearLoraConfig`, on the same batches of BANKING77 (60 % symmetric noise).

    python benchmarks/overhead.py --data ../shared/data --json overhead.json

Ratios of medians over alternating runs in one process: the seconds of an epoch after the warm-up, with its refit; of a
pass without gradient; of a LoRA layer's forward and backward pass, gates given; of imports, each in a process of its
own. Peak memory: the median of three trainings, each in a process of its own. "Time to accuracy" is one training each,
1 seed: the seconds of training until the test accuracy first is the best that plain LoRA has in 8 epochs. `--quick`
takes fewer samples and alternations.
"""

import argparse
import contextlib
import copy
import cProfile
import functools
import json
import os
import pstats
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainerCallback, set_seed

sys.path.insert(0, str(Path(__file__).parents[1]))  # of run_glue_noisy.py
from benchmarks.cells import DEMO, Cell, accuracy, load
from benchmarks.refit import forget_peak, memory
from hf_clear import ClearLoraConfig, ClearTrainer, ClearTrainingArguments, num_routed_layers, route

LORA = {"task_type": "SEQ_CLS", "r": 8, "target_modules": ["query", "value"]}
# Settings of CleaR; None is stock Trainer.
CONTESTANTS: dict[str, dict[str, Any] | None] = {
    "stock": None,
    "online": {"clear_loss_source": "online"},
    "default": {},
    "epoch": {"clear_ensemble_source": "epoch"},
    "step": {"clear_ensemble_source": "step"},
}
# The most that they may be in those of stock Trainer.
EPOCH_TARGETS = {"online": 1.05, "default": 1.25, "epoch": None, "step": 1.9}
MEMORY_TARGETS = {"online": 1.05, "default": 1.05, "epoch": 1.05}
PARTS = ("epochs", "passes", "memory", "layer", "accuracy", "compile", "import")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="Folder with the data sets, one folder each.")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--samples", type=int, default=320, help="Of the training set; for epochs, passes and memory.")
    parser.add_argument("--rounds", type=int, default=5, help="Alternations, after one that is not counted.")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--train_sampling_strategy", default="random", choices=["random", "group_by_length"])
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--bf16_full_eval", action="store_true", help="For what is predicted without gradient.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, help="Where to write the rows.")
    parser.add_argument("--profile", choices=list(CONTESTANTS), help="Only say where the time of an epoch goes.")
    parser.add_argument("--memory", choices=list(CONTESTANTS), help=argparse.SUPPRESS)  # a process of its own
    args = parser.parse_args()
    if not {"layer", "import"}.issuperset(args.parts) and not (args.data and (args.data / "banking77").is_dir()):
        parser.error(f"--data has to be the folder that holds the folder banking77; got {args.data}.")
    for name, most in (("samples", 10_000), ("rounds", 1000), ("batch_size", 10_000)):
        if not 1 <= getattr(args, name) <= most:
            parser.error(f"--{name} has to be between 1 and {most}; got {getattr(args, name)}.")
    if args.json is not None and not args.json.parent.is_dir():
        parser.error(f"--json: there is no folder {args.json.parent}.")
    if args.quick:
        args.samples, args.rounds = min(args.samples, 160), min(args.rounds, 2)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if args.memory:
        print(json.dumps(peak_memory(args)))
        return
    if args.profile:
        profile(args)
        return
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    print(f"{device}, {torch.get_num_threads()} threads, {args.train_sampling_strategy} batches of {args.batch_size}")
    rows = []
    for part in args.parts:
        print(f"... {part}", flush=True)
        rows += MEASURES[part](args)
        if args.json is not None:
            args.json.write_text(json.dumps(rows, indent=2) + "\n")
    print("\n| what | stock | ours | ratio | target |\n|---|---|---|---|---|")
    for row in rows:
        target = "" if row["target"] is None else f"{row['target']:g}"
        unit = row["unit"]
        print(
            f"| {row['name']} | {row['stock']:.4g} {unit} | {row['value']:.4g} {unit} | {row['ratio']:.3f} | {target} |"
        )


def row(name: str, stock: float, value: float, target: float | None, unit: str = "s", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "ratio": value / stock,
        "target": target,
        "stock": stock,
        "value": value,
        "unit": unit,
        **more,
    }


# ---- Trainings ----


class EpochTimer(TrainerCallback):
    """The seconds of each epoch, the refit at its beginning included and evaluation left out. Comes before the callback
    of CleaR."""

    def __init__(self):
        self.seconds: list[float] = []

    def on_epoch_begin(self, args, state, control, **kwargs):
        synchronize()
        self.start = time.perf_counter()

    def on_epoch_end(self, args, state, control, **kwargs):
        synchronize()
        self.seconds.append(time.perf_counter() - self.start)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@functools.cache
def loaded(data: str, folder: Path) -> tuple:
    return load(Cell(DEMO, data, "symmetric", 0.6, 42, "lora", 1, "plain"), folder)


def train(
    args: argparse.Namespace,
    settings: dict[str, Any] | None,
    data: str = "banking77",
    epochs: int = 2,
    samples: int | None = None,
    callbacks: list[TrainerCallback] | None = None,
    **more: Any,
) -> tuple[Trainer, list[float]]:
    """One training, of stock `Trainer` where `settings` is None; the trainer and the seconds of each epoch."""
    train_set, test_set, model, tokenizer = loaded(data, args.data)
    model = copy.deepcopy(model)
    timer = EpochTimer()
    set_seed(42)
    with tempfile.TemporaryDirectory() as folder:
        arguments = ClearTrainingArguments(
            output_dir=folder,
            num_train_epochs=epochs,
            learning_rate=2e-3,
            per_device_train_batch_size=args.batch_size,
            per_device_eval_batch_size=64,
            train_sampling_strategy=args.train_sampling_strategy,
            bf16=args.bf16,
            bf16_full_eval=args.bf16_full_eval,
            dataloader_pin_memory=torch.cuda.is_available(),
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            **{"clear_warmup_epochs": 1, **(settings or {})},
            **more,
        )
        trainer = (Trainer if settings is None else ClearTrainer)(
            model=get_peft_model(model, (LoraConfig if settings is None else ClearLoraConfig)(**LORA)),
            args=arguments,
            train_dataset=train_set.shuffle(seed=0).select(range(samples)) if samples else train_set,
            eval_dataset=test_set,
            processing_class=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=accuracy,
            callbacks=[timer, *(callbacks or [])],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return trainer, timer.seconds


def epochs(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The second of two epochs; the first is the warm-up."""
    targets = {name: target for name, target in EPOCH_TARGETS.items() if target is not None or not args.quick}
    seconds: dict[str, list[float]] = {name: [] for name in ("stock", *targets)}
    for _ in range(args.rounds + 1):
        for name, of_rounds in seconds.items():
            of_rounds.append(train(args, CONTESTANTS[name], samples=args.samples)[1][1])
    median = {name: float(np.median(values[1:])) for name, values in seconds.items()}
    return [
        row(f"epoch, {name}", median["stock"], median[name], target, all=seconds[name])
        for name, target in targets.items()
    ]


def memory_peaks(args: argparse.Namespace) -> list[dict[str, Any]]:
    peaks = {}
    command = [sys.executable, __file__, "--data", str(args.data), "--samples", str(args.samples)]
    command += ["--batch_size", str(args.batch_size), "--train_sampling_strategy", args.train_sampling_strategy]
    command += ["--bf16"] * args.bf16 + ["--bf16_full_eval"] * args.bf16_full_eval
    for name in ("stock", *MEMORY_TARGETS):
        runs = []
        for _ in range(1 if args.quick else 3):
            run = subprocess.run([*command, "--memory", name], stdout=subprocess.PIPE, check=True)
            runs.append(json.loads(run.stdout.splitlines()[-1]))
        peaks[name] = {key: float(np.median([run[key] for run in runs])) for key in runs[0]}
    rows = []
    for name, target in MEMORY_TARGETS.items():
        for key, what in (("peak", ""), ("growth", " beyond what there was before training")):
            rows.append(row(f"peak memory{what}, {name}", peaks["stock"][key], peaks[name][key], target, "MB"))
    return rows


class PeakMemory(TrainerCallback):
    """Of this process, or of a GPU, in MB."""

    def on_train_begin(self, args, state, control, **kwargs):
        if torch.cuda.is_available():
            self.before = torch.cuda.memory_allocated() / 1e6
            torch.cuda.reset_peak_memory_stats()
        else:
            self.before = memory("VmRSS")
            forget_peak()

    def on_train_end(self, args, state, control, **kwargs):
        self.peak = torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else memory("VmHWM")
        self.growth = self.peak - self.before


def peak_memory(args: argparse.Namespace) -> dict[str, float]:
    callback = PeakMemory()
    train(args, CONTESTANTS[args.memory], samples=args.samples, callbacks=[callback])
    return {"peak": callback.peak, "growth": callback.growth}


def time_to_accuracy(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Evaluated at the end of every epoch, on the test set: a measure, not a way to choose a model."""
    recipe = {"clear_warmup": "linear_probe", "clear_min_clean_probability": 0.05, "clear_warmup_epochs": 1}
    num_epochs, samples = (3, 320) if args.quick else (8, None)
    curves = {}
    for name, settings in (("stock", None), ("recipe", recipe)):
        trainer, seconds = train(args, settings, "banking77-20", num_epochs, samples, eval_strategy="epoch")
        tests = [entry["eval_accuracy"] for entry in trainer.state.log_history if "eval_accuracy" in entry]
        curves[name] = (np.cumsum(seconds), np.array(tests))
    (stock_time, stock_tests), (times, tests) = curves["stock"], curves["recipe"]
    best, reached = stock_tests.max(), np.flatnonzero(tests >= stock_tests.max())
    seconds = float(times[reached[0]]) if len(reached) else None
    stock_seconds = float(stock_time[stock_tests.argmax()])
    name = f"time to plain LoRA's best accuracy ({best:.3f}), probe warm-up, then samples with p > 0.05"
    return [
        row(name, stock_seconds, seconds, 0.5, accuracies={"stock": stock_tests.tolist(), "recipe": tests.tolist()}),
        row("the same: an epoch", float(np.median(np.diff(stock_time))), float(np.median(np.diff(times))), None),
    ]


class Profile(TrainerCallback):
    """Of the second epoch."""

    def __init__(self):
        self.profiler = cProfile.Profile()

    def on_epoch_begin(self, args, state, control, **kwargs):
        if state.epoch >= 1:
            self.profiler.enable()

    def on_epoch_end(self, args, state, control, **kwargs):
        self.profiler.disable()


# Of torch and transformers; all of hf_clear is shown.
NAMED = ("training_step", "backward", "run_backward", "_clip_grad_norm", "step", "_wrapped_call_impl")


def profile(args: argparse.Namespace) -> None:
    """Functions by their time with all that they call, in the epoch after the warm-up."""
    callback = Profile()
    _, seconds = train(args, CONTESTANTS[args.profile], samples=args.samples, callbacks=[callback])
    print(f"\n| {args.profile}: function | calls | seconds | share of the epoch |\n|---|---|---|---|")
    entries = pstats.Stats(callback.profiler).stats.items()
    for (file, _, name), (_, calls, _, cumulative, _) in sorted(entries, key=lambda entry: -entry[1][3]):
        if cumulative > 0.002 * seconds[1] and ("hf_clear" in Path(file).parts or name in NAMED):
            print(f"| `{Path(file).stem}.{name}` | {calls} | {cumulative:.2f} | {cumulative / seconds[1]:.1%} |")


# ---- Parts ----


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


MEASURES = {
    "epochs": epochs,
    "passes": passes,
    "memory": memory_peaks,
    "layer": layer,
    "accuracy": time_to_accuracy,
    "compile": compiled,
    "import": imports,
}


if __name__ == "__main__":
    main()
