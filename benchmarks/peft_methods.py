#!/usr/bin/env python
"""Plain PEFT beside CleaR for each PEFT method: the first 20 intents of BANKING77 (in alphabetical order, all their
queries), 60 % symmetric noise, 8 epochs. Runs `run_glue_noisy.py`, with all further arguments, and prints a table.

    python benchmarks/peft_methods.py --data ../shared/data/banking77 --output outputs/peft_methods

`--quick` takes 5 intents, LoRA, and 4 epochs. `--json` writes the test accuracy of CleaR over that of plain PEFT.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
COLUMNS = {
    "test_accuracy": "test accuracy",
    "test_peak_accuracy": "best epoch",
    "test_average_accuracy": "mean after warm-up",
    "detection_auroc": "detection AUROC",
    "memorization_clean": "memorized clean",
    "memorization_noisy": "memorized noisy",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Folder with BANKING77's train.csv and test.csv.")
    parser.add_argument("--output", type=Path, default=Path("outputs/peft_methods"))
    parser.add_argument("--methods", nargs="+", default=["lora", "adapter", "bitfit", "prompt"])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, help="Where to write rows with name, ratio and target.")
    args, rest = parser.parse_known_args()
    num_intents, epochs = 20, 8
    if args.quick:
        num_intents, epochs, args.methods = 5, 4, ["lora"]
    args.output.mkdir(parents=True, exist_ok=True)
    intents = sorted(pd.read_csv(args.data / "train.csv").category.unique())[:num_intents]
    for name in ("train", "test"):
        data = pd.read_csv(args.data / f"{name}.csv")
        data[data.category.isin(intents)].to_csv(args.output / f"{name}.csv", index=False)
    for method in args.methods:
        command = [sys.executable, str(ROOT / "run_glue_noisy.py"), "--method", "both", "--peft_method", method]
        command += ["--preset", "clear"]
        command += ["--train_file", str(args.output / "train.csv"), "--test_file", str(args.output / "test.csv")]
        command += ["--label_column_name", "category", "--noise_type", "symmetric", "--noise_rate", "0.6"]
        command += ["--num_train_epochs", str(epochs), "--validation_split_percentage", "0", "--save_strategy", "no"]
        command += ["--test_each_epoch", "--report_memorization", "--disable_tqdm", "True", "--overwrite_output_dir"]
        command += ["--output_dir", str(args.output / method), *rest]
        subprocess.run(command, check=True, env={**os.environ, "TOKENIZERS_PARALLELISM": "false"})
    show(args.output, args.methods)
    if args.json is not None:
        args.json.write_text(json.dumps([compare(args.output, method) for method in args.methods], indent=2) + "\n")


def compare(output: Path, method: str) -> dict[str, str | float | None]:
    plain, clear = (
        json.loads((output / method / run / "all_results.json").read_text())["test_accuracy"]
        for run in ("none", "clear")
    )
    return {"name": f"{method}: test accuracy", "ratio": clear / plain, "target": None, "plain": plain, "clear": clear}


def show(output: Path, methods: list[str]) -> None:
    columns = {**COLUMNS, "least_trusted": "least trusted class"}
    print("| |" + "".join(f" {name} |" for name in columns.values()) + "\n|---|" + "---|" * len(columns))
    for method in methods:
        for run, title in (("none", "plain"), ("clear", "CleaR")):
            results = json.loads((output / method / run / "all_results.json").read_text())
            results["least_trusted"] = least_trusted(output / method / run / "clean_probabilities.parquet")
            print(f"| {method}, {title} |" + "".join(f" {results[name]:.3f} |" for name in columns))


def least_trusted(path: Path) -> float:
    """The smallest class mean of the clean probability of correctly labelled samples. Near 0, a class is locked out."""
    table = pd.read_parquet(path)
    correct = table[table.given_label == table.true_label]
    return correct.groupby("given_label").clean_probability.mean().min()


if __name__ == "__main__":
    main()
