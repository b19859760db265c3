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
import json
import os
from pathlib import Path

import torch
import transformers
from _parts import compiled, imports, layer, passes
from _trainings import CONTESTANTS, epochs, memory_peaks, peak_memory, profile, time_to_accuracy

MEASURES = {
    "epochs": epochs,
    "passes": passes,
    "memory": memory_peaks,
    "layer": layer,
    "accuracy": time_to_accuracy,
    "compile": compiled,
    "import": imports,
}
PARTS = tuple(MEASURES)


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
        is_reached = row["value"] is not None
        ours = f"{row['value']:.4g} {unit} | {row['ratio']:.3f}" if is_reached else "not reached | -"
        print(f"| {row['name']} | {row['stock']:.4g} {unit} | {ours} | {target} |")


if __name__ == "__main__":
    main()
