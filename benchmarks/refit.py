#!/usr/bin/env python
"""What the estimate of a refit costs on many samples: time and memory of the mixture with the posterior of all losses,
how far the posterior is from that of scikit-learn's fit to all losses, and the size of the state on disk.

    python benchmarks/refit.py --json refit.json
    python benchmarks/refit.py --gates    # gates of the default: what it costs to ask for a posterior first

The losses are drawn: exponential for correct labels, a gamma distribution for the wrong 40 %, one in a thousand an
outlier. Each number of samples has a process of its own. `--quick` leaves out ten millions.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measuring import forget_peak, memory
from sklearn.mixture import GaussianMixture

from hf_clear.estimators import SampleEvidence, evidence_mixture, gaussian_mixture, get_estimator
from hf_clear.estimators._unexplained import mixture_if_unexplained
from hf_clear.sample_store import SampleStore

SIZES = (10**5, 10**6, 10**7)
REPEATS = 5
# What is measured, at most how much, and in which unit. Memory is that beyond the losses and their probabilities.
TARGETS = {
    "seconds": (5, "s"),
    "memory": (300, "MB"),
    "error": (0.01, ""),
    "bytes": (16, "bytes a sample"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, help="Where to write the comparison with the targets.")
    parser.add_argument("--gates", action="store_true", help="The refit of the default's gates alone, and no JSON.")
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)  # what a process of its own is asked for
    args = parser.parse_args()
    if args.size is not None:
        print(json.dumps(measure(args.size)))
        return

    if args.gates:
        show_gates()
        return
    results = []
    for size in SIZES[:2] if args.quick else SIZES:
        command = [sys.executable, __file__, "--size", str(size)]
        results.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1]))
    show(results)
    rows = compare(results)
    print("\n| target | measured | at most | ratio |\n|---|---|---|---|")
    for row in rows:
        limit = f"{row['limit']:g} {row['unit']}".strip()
        print(f"| {row['name']} | {row['value']:.4g} | {limit} | {row['ratio']:.3f} |")
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


def measure(size: int) -> dict[str, float]:
    gaussian_mixture(draw_losses(SIZES[0]))  # imports
    before = memory("VmRSS")
    losses = draw_losses(size)
    forget_peak()
    estimate, seconds = timed(lambda: gaussian_mixture(losses))
    memory_to_fit = memory("VmHWM") - before - 12 * size / 1e6  # float32 and float64
    times = [seconds, *(timed(lambda: gaussian_mixture(losses))[1] for _ in range(REPEATS - 1))]
    bytes_a_sample, seconds_to_save, memory_to_save = measure_state(losses, estimate.clean_probability)
    probability = estimate.clean_probability[np.argsort(losses)]
    ordered = np.sort(losses)
    full, seconds_of_full = timed(lambda: fit_all(ordered, losses, seed=0))
    error = np.abs(full - probability).max()
    return {
        "size": size,
        "seconds": min(times),
        "memory": max(memory_to_fit, 0.0),
        "error": float(error),
        "seconds_of_full": seconds_of_full,
        "spread_of_full": float(np.abs(full - fit_all(ordered, losses, seed=1)).max()),
        "bytes": bytes_a_sample,
        "seconds_to_save": seconds_to_save,
        "memory_to_save": max(memory_to_save - before - 32 * size / 1e6, 0.0),  # the store's 20 bytes, too
    }


def draw_losses(size: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    losses = np.where(rng.random(size) < 0.4, rng.gamma(6, 0.6, size), rng.exponential(0.7, size))
    losses += np.where(rng.random(size) < 1e-3, rng.exponential(20, size), 0)
    return losses.astype(np.float32)


def fit_all(ordered: np.ndarray, losses: np.ndarray, seed: int) -> np.ndarray:
    """What `gaussian_mixture` is for, of all losses: the clean probabilities of `ordered`, the same in ascending
    order."""
    outer = int(0.005 * len(losses))
    low, high = ordered[[outer, -1 - outer]].astype(np.float64)
    clipped = losses.astype(np.float64).clip(2 * low - high, 2 * high - low)
    center, scale = clipped.mean(), clipped.std()
    mixture = GaussianMixture(2, random_state=seed, max_iter=500).fit(((clipped - center) / scale)[:, None])
    del clipped
    mixture.covariances_ = np.maximum(mixture.covariances_, 0.01)
    mixture.precisions_cholesky_ = 1 / np.sqrt(mixture.covariances_)
    clean = mixture.means_.argmin()
    ordered = (ordered.astype(np.float64).clip(2 * low - high, 2 * high - low) - center) / scale
    posterior = mixture.predict_proba(ordered[:, None])[:, clean].copy()
    last = np.searchsorted(ordered, mixture.means_[clean, 0]) + 1
    posterior[:last] = np.maximum.accumulate(posterior[:last][::-1])[::-1]  # below the mean, from there outwards
    return np.minimum.accumulate(posterior)


def measure_state(losses: np.ndarray, probability: np.ndarray) -> tuple[float, float, float]:
    """Bytes a sample of the state of a training set with 1,000 classes, seconds to write it, and the peak of memory."""
    store = SampleStore.empty(len(losses))
    store.add_losses(torch.from_numpy(losses), torch.arange(len(losses)) % 1000)
    store.clean_probability.copy_(torch.from_numpy(probability))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state"
        forget_peak()
        _, seconds = timed(lambda: store.save(path))
        return os.path.getsize(path) / len(losses), seconds, memory("VmHWM")


def show_gates() -> None:
    """Seconds of the mixture that gates follow, and of asking the noise model first whether it explains the labels."""
    print("| samples, classes | mixture | after the noise model | ratio |\n|---|---|---|---|")
    for size, num_labels in ((2_000, 4), (4_000, 5), (10_000, 77), (100_000, 20)):
        evidence = draw_evidence(size, num_labels)
        asking = mixture_if_unexplained(get_estimator("noise_model"), 1.0)
        alone, asked = (
            float(np.median([timed(partial(own, evidence))[1] for _ in range(REPEATS)]))
            for own in (evidence_mixture, asking)
        )
        print(f"| {size:,}, {num_labels} | {alone:.2f} s | {asked:.2f} s | {asked / alone:.1f} |")


def draw_evidence(size: int, num_labels: int) -> SampleEvidence:
    """Of a model that is right on 80 % of the samples; 20 % of the labels are wrong."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, num_labels, size)
    labels = np.where(rng.random(size) < 0.2, rng.integers(0, num_labels, size), true)
    seen = np.where(rng.random(size) < 0.2, rng.integers(0, num_labels, size), true)
    scores = rng.normal(size=(size, num_labels)) + 4 * np.eye(num_labels)[seen]
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    of_label = p[np.arange(size), labels]
    return SampleEvidence(-np.log(of_label), labels, probabilities=p, held_out_clean_probability=of_label)


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return function(), time.perf_counter() - start


def compare(results: list[dict[str, float]]) -> list[dict[str, Any]]:
    """One row for each target; it is met if `ratio`, of what was measured to the most it may be, is not above
    `target`."""
    measured = [
        (f"{name}, {result['size']:,} samples", result[name], *target)
        for result in results
        for name, target in TARGETS.items()
    ]
    for small, large in zip(results, results[1:]):
        growth = large["seconds"] / small["seconds"]
        name = f"time of {large['size']:,} / time of {small['size']:,} samples"
        measured.append((name, growth, large["size"] / small["size"], ""))
    return [
        {"name": name, "ratio": value / limit, "target": 1.0, "value": value, "limit": limit, "unit": unit}
        for name, value, limit, unit in measured
    ]


def show(results: list[dict[str, float]]) -> None:
    print(
        f"\n{os.cpu_count()} CPU cores; time: the fastest of {REPEATS}; memory: beyond the losses (float32) and their "
        "clean probabilities (float64);\nerror: largest difference to a fit to all losses\n"
    )
    print(
        "| samples | time | memory | error | fit to all losses: time | its difference to another seed | "
        "state: bytes a sample | time to save | memory to save |\n|---|---|---|---|---|---|---|---|---|"
    )
    for result in results:
        print(
            "| {size:,} | {seconds:.2f} s | {memory:.0f} MB | {error:.4f} | {seconds_of_full:.1f} s | "
            "{spread_of_full:.4f} | {bytes:.2f} | {seconds_to_save:.2f} s | {memory_to_save:.0f} MB |".format(**result)
        )


if __name__ == "__main__":
    main()
