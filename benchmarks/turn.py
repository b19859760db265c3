#!/usr/bin/env python
"""TURN on BANKING77, phase by phase.

Probe and cleansing at every noise rate (table, and plot cleansing.png of purity and recall against τ):

    python benchmarks/turn.py --data ../shared/data/banking77

All three phases beside plain full fine-tuning under the same noise, with the wall time of each phase as a ratio to one
epoch of the latter, and how far the features move (table, and plot drift.png):

    python benchmarks/turn.py --data ../shared/data/banking77 --finetune --noise_rates 0.6

`--quick` takes the first 20 intents in alphabetical order. Writes results.json, too; `--json` writes the share of
correct labels among those kept (τ = 0.6) over that among all and, with `--finetune`, the test accuracy over that of
plain fine-tuning.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from _loading import DEMO, accuracy, load_model, load_texts, model_path
from datasets import Dataset
from transformers import AutoTokenizer, DataCollatorWithPadding, Trainer

from hf_clear import TurnTrainer, TurnTrainingArguments
from hf_clear.data import add_noise
from hf_clear.files import write_atomically
from hf_clear.report import cleansing_table, plot_cleansing, plot_feature_drift

MODEL = model_path(DEMO)
TOKENIZER = AutoTokenizer.from_pretrained(MODEL)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Folder with BANKING77's train.csv and test.csv.")
    parser.add_argument("--output", type=Path, default=Path("outputs/turn"))
    parser.add_argument("--noise_type", default="symmetric")
    parser.add_argument("--noise_rates", type=float, nargs="+", default=[round(0.1 * i, 1) for i in range(1, 10)])
    parser.add_argument("--probe_features", default="head", choices=["head", "mean"])
    parser.add_argument("--balance", default="none")
    parser.add_argument("--finetune", action="store_true", help="Run phase 3 and plain fine-tuning, too.")
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--learning_rate", type=float, default=2e-4)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, help="Where to write rows with name, ratio and target.")
    args = parser.parse_args()

    train, test = load_texts(args.data, "category", 20 if args.quick else None, TOKENIZER).values()
    num_labels = train.features["label"].num_classes
    tables, results = {}, []
    for rate in args.noise_rates:
        noisy = add_noise(train, args.noise_type, rate, seed=42)
        is_noisy = np.array(noisy["label"]) != np.array(noisy["true_label"])
        trainer = build(TurnTrainer, noisy, num_labels, args)
        row = {"noise_rate": rate, "realized": float(is_noisy.mean())}
        stages = {"pretrained": trainer.features()} if args.finetune else {}
        probe = trainer.linear_probe()
        row["probe_test_accuracy"] = trainer.predict_probe(test).metrics["test_accuracy"]
        row["probe_detection_auroc"] = probe["probe_detection_auroc"]
        row |= {name: value for name, value in trainer.cleanse().items() if "mixture" not in name}
        tables[f"{rate:.0%} noise"] = cleansing_table(trainer.sample_store.clean_probability.numpy(), is_noisy)
        if args.finetune:
            stages["after probing"] = trainer.features()
            metrics = trainer.finetune().metrics
            row["test_accuracy"] = trainer.evaluate(test)["eval_accuracy"]
            stages["after fine-tuning (TURN)"] = trainer.features()
            plain = build(Trainer, noisy, num_labels, args)
            epoch = plain.train().metrics["train_runtime"] / args.epochs
            row["plain_test_accuracy"] = plain.evaluate(test)["eval_accuracy"]
            trainer.model = plain.model
            stages["after plain fine-tuning"] = trainer.features()
            row |= {
                "ratio_features": probe["probe_features_runtime"] / epoch,
                "ratio_probing": probe["probe_runtime"] / epoch,
                "ratio_finetuning": metrics["train_runtime"] / epoch,
                "ratio_plain": float(args.epochs),
                "plain_epoch_seconds": epoch,
            }
            row["drift"] = plot_feature_drift(
                stages, np.array(noisy["true_label"]), args.output / f"drift_{rate:g}.png", is_noisy=is_noisy
            )
        results.append({**row, "cleansing": tables[f"{rate:.0%} noise"]})
        write_atomically(args.output / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    plot_cleansing(tables, args.output / "cleansing.png")
    show(results, args)
    if args.json is not None:
        args.json.write_text(json.dumps([row for result in results for row in compare(result)], indent=2) + "\n")


def compare(result: dict) -> list[dict]:
    name = f"{result['noise_rate']:.0%} noise"
    (kept,) = (row for row in result["cleansing"] if row["threshold"] == 0.6)
    rows = [{"name": f"{name}: purity", "ratio": kept["purity"] / (1 - result["realized"]), "target": None}]
    if "test_accuracy" in result:
        ratio = result["test_accuracy"] / result["plain_test_accuracy"]
        rows.append({"name": f"{name}: test accuracy", "ratio": ratio, "target": None})
    return rows


def build(cls: type[Trainer], train: Dataset, num_labels: int, args: argparse.Namespace) -> Trainer:
    arguments = TurnTrainingArguments(
        output_dir=str(args.output),
        num_train_epochs=args.epochs,
        learning_rate=args.learning_rate,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=64,
        train_sampling_strategy="group_by_length",
        probe_features=args.probe_features,
        turn_balance=args.balance,
        seed=args.seed,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_strategy="epoch",
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    return cls(
        model=load_model(MODEL, num_labels, args.seed),
        args=arguments,
        train_dataset=train,
        processing_class=TOKENIZER,
        data_collator=DataCollatorWithPadding(TOKENIZER),
        compute_metrics=accuracy,
    )


def show(results: list[dict], args: argparse.Namespace) -> None:
    taus = [row["threshold"] for row in results[0]["cleansing"]]
    print(f"\nprobe_features={args.probe_features}, seed {args.seed}; kept / purity / recall by τ\n")
    print("| noise | probe: test accuracy | AUROC |" + "".join(f" τ = {tau:g} |" for tau in taus))
    print("|---|---|---|" + "---|" * len(taus))
    for row in results:
        cells = "".join(f" {r['kept']} / {r['purity']:.3f} / {r['recall']:.3f} |" for r in row["cleansing"])
        accuracy, auroc = row["probe_test_accuracy"], row["probe_detection_auroc"]
        print(f"| {row['realized']:.1%} | {accuracy:.3f} | {auroc:.4f} |{cells}")
    if not args.finetune:
        return
    print(
        f"\nfull fine-tuning, {args.epochs:g} epochs, learning rate {args.learning_rate:g}; time in epochs of plain\n"
    )
    print("| noise | test accuracy: probe | TURN | plain | time: features | probing | TURN's fine-tuning | plain |")
    print("|---|---|---|---|---|---|---|---|")
    for row in results:
        cells = [row[name] for name in ("probe_test_accuracy", "test_accuracy", "plain_test_accuracy")]
        cells += [row[f"ratio_{name}"] for name in ("features", "probing", "finetuning", "plain")]
        print(f"| {row['realized']:.1%} |" + "".join(f" {cell:.3f} |" for cell in cells))
    print("\n| noise | features | k-NN accuracy (true labels) | linear CKA with the pretrained |\n|---|---|---|---|")
    for row in results:
        for stage in row["drift"]:
            numbers = f"{stage['knn_accuracy']:.3f} | {stage['cka_to_first']:.3f}"
            print(f"| {row['realized']:.1%} | {stage['stage']} | {numbers} |")


if __name__ == "__main__":
    main()
