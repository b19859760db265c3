"""Trainings of overhead.py: stock `Trainer` beside `ClearTrainer` with several settings."""

from __future__ import annotations

import argparse
import copy
import cProfile
import functools
import json
import pstats
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _loading import DEMO, accuracy, load
from _measuring import forget_peak, memory, row, synchronize
from peft import LoraConfig, get_peft_model
from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainerCallback, set_seed

from hf_clear import ClearLoraConfig, ClearTrainer, ClearTrainingArguments, preset

LORA = {"task_type": "SEQ_CLS", "r": 8, "target_modules": ["query", "value"]}
# Settings of CleaR beside those of `preset("clear")`; None is stock Trainer.
CONTESTANTS: dict[str, dict[str, Any] | None] = {
    "stock": None,
    "recommended": preset("recommended"),
    "online": {"clear_loss_source": "online"},
    "clear": {},
    "epoch": {"clear_ensemble_source": "epoch"},
    "step": {"clear_ensemble_source": "step"},
}
# The most that they may be in those of stock Trainer.
EPOCH_TARGETS = {"recommended": 1.05, "online": 1.05, "clear": 1.25, "epoch": None, "step": 1.9}
MEMORY_TARGETS = {"recommended": 1.1, "online": 1.05, "clear": 1.05, "epoch": 1.05}


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


@functools.cache
def loaded(data: str, folder: Path) -> tuple:
    return load(data, folder, DEMO, "symmetric", 0.6, 42)


def train(
    args: argparse.Namespace,
    settings: dict[str, Any] | None,
    data: str = "banking77",
    epochs: int = 2,
    samples: int | None = None,
    callbacks: list[TrainerCallback] | None = None,
    **more: Any,
) -> tuple[Trainer, list[float]]:
    """One training, of stock `Trainer` if `settings` is None; the trainer and the seconds of each epoch."""
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
            **{**preset("clear"), "clear_warmup_epochs": 1, **(settings or {})},
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
    script = str(Path(__file__).with_name("overhead.py"))
    command = [sys.executable, script, "--data", str(args.data), "--samples", str(args.samples)]
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
