#!/usr/bin/env python
"""Wrong labels of images: a small ViT on the handwritten digits that scikit-learn ships. Needs no other data.

    python benchmarks/images.py

The backbone is trained first on the digits 5 to 9 with their true labels; the task is to tell 0 to 4, with noise in the
labels of 680 training images. Test images are 221. All methods take as many epochs. Prints, for each noise and method,
test accuracy after the last epoch and how well wrong labels are told, as mean and standard deviation over seeds.

Learning rates (of LoRA, and of all weights) were chosen for plain training, with seed 0, by
accuracy on the noisy labels of a fifth of the training images: `--choose_learning_rates` prints these.
"""

import argparse
import copy
import itertools
import logging
import tempfile
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from transformers import PrinterCallback, Trainer, TrainingArguments, ViTConfig, ViTForImageClassification, set_seed

from hf_clear import (
    ClearLoraConfig,
    ClearTrainer,
    ClearTrainingArguments,
    TurnTrainer,
    TurnTrainingArguments,
    per_sample_losses,
)
from hf_clear.noise import TRUE_LABEL, inject_label_noise

NOISE: list[tuple[str, float]] = [("symmetric", 0.4), ("symmetric", 0.6), ("asymmetric", 0.3), ("none", 0.0)]
LEARNING_RATES = {"lora": 1e-2, "all": 3e-3}
CHOICES = {"lora": [1e-3, 3e-3, 1e-2, 3e-2], "all": [3e-4, 1e-3, 3e-3]}
EPOCHS = 20
LORA = {"r": 8, "target_modules": ["q_proj", "v_proj"], "modules_to_save": ["classifier"]}
METHODS = ["plain LoRA", "ClearTrainer", "true labels known", "plain, all weights", "TURN, all weights"]


def images(digits: range) -> Dataset:
    """Pixels in [0, 1], `[1, 8, 8]`, and classes from 0 on."""
    found = load_digits()
    rows = np.isin(found.target, list(digits))
    pixels = (found.images[rows] / 16).astype(np.float32)[:, None]
    return Dataset.from_dict({"pixel_values": pixels, "label": found.target[rows] - digits[0]}).with_format("torch")


def split(data: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    rows = train_test_split(np.arange(len(data)), test_size=share, random_state=seed, stratify=data["label"][:])
    return data.select(rows[0]), data.select(rows[1])


def backbone() -> ViTForImageClassification:
    """Trained on the digits 5 to 9, with a new head for the others."""
    set_seed(42)
    config = ViTConfig(
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=8,
        patch_size=2,
        num_channels=1,
        num_labels=5,
    )
    model = ViTForImageClassification(config)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model, TrainingArguments(**settings(folder, 1e-3, 42, epochs=40)), train_dataset=images(range(5, 10))
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    torch.nn.init.normal_(model.classifier.weight, std=config.initializer_range)
    torch.nn.init.zeros_(model.classifier.bias)
    return model


def settings(folder: str, learning_rate: float, seed: int, epochs: int = EPOCHS) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "num_train_epochs": epochs,
        "learning_rate": learning_rate,
        "per_device_train_batch_size": 32,
        "per_device_eval_batch_size": 256,
        "seed": seed,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


def run(
    model: ViTForImageClassification, method: str, train: Dataset, test: Dataset, seed: int, learning_rate: float
) -> tuple[float, float]:
    """Test accuracy after the last epoch, and the AUROC of what tells wrong labels (NaN without any)."""
    model, wrong = copy.deepcopy(model), np.array(train[TRUE_LABEL]) != np.array(train["label"])
    if method == "true labels known":
        train = train.select(np.flatnonzero(~wrong))
    train = train.remove_columns(TRUE_LABEL)
    set_seed(seed)
    trainer: Trainer
    with tempfile.TemporaryDirectory() as folder:
        own = settings(folder, learning_rate, seed)
        if method == "ClearTrainer":
            lora = ClearLoraConfig(**LORA)
            trainer = ClearTrainer(model, ClearTrainingArguments(**own), train_dataset=train, peft_config=lora)
        elif method == "TURN, all weights":
            trainer = TurnTrainer(model, TurnTrainingArguments(**own), train_dataset=train)
        else:
            model = model if method == "plain, all weights" else get_peft_model(model, LoraConfig(**LORA))
            trainer = Trainer(model, TrainingArguments(**own), train_dataset=train)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        found = trainer.predict(test)
        suspicion = per_sample_losses(trainer) if type(trainer) is Trainer else suspicion_of(trainer)
    auroc = roc_auc_score(wrong, suspicion) if len(suspicion) == len(wrong) and wrong.any() else float("nan")
    return float((found.predictions.argmax(axis=1) == found.label_ids).mean()), float(auroc)


def suspicion_of(trainer: ClearTrainer | TurnTrainer) -> np.ndarray:
    return -np.array(trainer.clean_probabilities()["clean_probability"])


def cells(model: ViTForImageClassification, seeds: list[int]) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """By noise and method: test accuracy and AUROC of each seed."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for (noise, rate), seed, method in itertools.product(NOISE, seeds, METHODS):
        train, test = split(images(range(5)), 0.25, seed)
        train = with_noise(train, noise, rate, seed)
        learning_rate = LEARNING_RATES["all" if method.endswith("all weights") else "lora"]
        if method != "true labels known" or rate:
            cell = found.setdefault((f"{noise} {rate:.0%}" if rate else noise, method), [])
            cell.append(run(model, method, train, test, seed, learning_rate))
    return found


def with_noise(data: Dataset, noise: str, rate: float, seed: int) -> Dataset:
    if not rate:
        return data.add_column(TRUE_LABEL, data["label"][:].numpy())
    return inject_label_noise(data, noise, rate, num_labels=5, seed=seed)[0]


def choices(model: ViTForImageClassification) -> dict[str, dict[float, float]]:
    """Accuracy on held-out noisy labels, by what is trained and learning rate; symmetric noise of 40 %."""
    train = with_noise(split(images(range(5)), 0.25, 0)[0], "symmetric", 0.4, 0)
    train, held_out = split(train, 0.2, 0)
    names = {"lora": "plain LoRA", "all": "plain, all weights"}
    return {
        kind: {rate: run(model, names[kind], train, held_out, 0, rate)[0] for rate in rates}
        for kind, rates in CHOICES.items()
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument(
        "--choose_learning_rates", action="store_true", help="Print the grid of learning rates instead."
    )
    args = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    model = backbone()
    if args.choose_learning_rates:
        print(choices(model))
        return 0
    print("| noise | method | test accuracy | wrong labels: AUROC |\n|---|---|---|---|")
    for (noise, method), values in cells(model, args.seeds).items():
        print(f"| {noise} | {method} | {' | '.join(map(spread, zip(*values)))} |")
    return 0


def spread(values: tuple[float, ...]) -> str:
    if np.isnan(values).any():
        return "-"
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    raise SystemExit(main())
