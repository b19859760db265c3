#!/usr/bin/env python
"""What frozen features say of the labels before training: the numbers by which `preset("recommended")` decides.

    python benchmarks/evidence.py --data ../shared/data --seeds 42

For each setting: the share of wrong labels, and what the noise model finds; the skill that it expects of its
predictions (below 0.6, evidence is dropped), and that which they have by the true labels; the share of what speaks
against the labels that its matrix explains (below 0.5, `clear_min_explained`, training goes on with gates); how well it
tells wrong labels; and rate, skill and AUROC if its matrix is always free.
"""

import argparse
import functools
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from _grids import GRIDS
from _loading import load, model_path
from _settings import Setting
from accuracy import add_shared_arguments, settings_of
from datasets import Dataset
from sklearn.metrics import roc_auc_score

from hf_clear import fit_noise_model
from hf_clear.audit.features import frozen_features
from hf_clear.estimators import NoiseModel, noise_model
from hf_clear.estimators._halves import judge_by_halves
from hf_clear.evidence import cross_fitted_probe
from hf_clear.noise import TRUE_LABEL

COLUMNS = (
    *("data", "noise", "seed", "wrong", "found", "skill", "true skill", "explained", "AUROC"),
    *("free matrix: found", "its skill", "its AUROC"),
)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shared_arguments(parser)
    parser.set_defaults(settings=GRIDS["main"]["settings"], seeds=[42])
    args = parser.parse_args(argv)
    try:
        settings = settings_of(args)
        path = model_path(args.model_name_or_path)
    except (ValueError, ImportError) as error:
        parser.error(str(error))
    torch.set_num_threads(args.threads)
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for setting in settings:
        for seed in args.seeds:
            train = load(
                setting.data, args.data, args.model_name_or_path, setting.noise_type, setting.noise_rate, seed
            )[0]
            print(f"| {' | '.join(row(setting, seed, train, path))} |", flush=True)
    return 0


def row(setting: Setting, seed: int, train: Dataset, path: str | Path) -> list[str]:
    labels, true = (np.array(train[name]) for name in ("label", TRUE_LABEL))
    num_labels = train.features["label"].num_classes
    given = torch.from_numpy(labels)
    scores = [
        cross_fitted_probe(torch.from_numpy(part), given, num_labels, seed).numpy()
        for part in features(str(path), tuple(train["text"]))
    ]
    model, free = fit_noise_model(scores, labels), with_free_matrix(scores, labels)

    def auroc(p: np.ndarray) -> str:
        wrong = labels != true
        return f"{roc_auc_score(wrong, -p):.3f}" if 0 < wrong.sum() < len(wrong) else "-"

    noise = f"{setting.noise_type} {setting.noise_rate or ''}".strip()
    numbers = ((labels != true).mean(), model.noise_rate, model.expected_skill, true_skill(model, true))
    free_numbers = (f"{free.noise_rate:.3f}", f"{free.expected_skill:.3f}", auroc(free.clean_probability))
    found = [f"{model.explained:.3f}", auroc(model.clean_probability), *free_numbers]
    return [setting.data, noise, str(seed), *(f"{number:.3f}" for number in numbers), *found]


def with_free_matrix(scores: list[np.ndarray], labels: np.ndarray) -> NoiseModel:
    """The noise model, whether or not held-out labels want another matrix than symmetric noise."""
    with patch.object(noise_model, "judge_by_halves", lambda *args: judge_by_halves(*args)._replace(is_free=True)):
        return fit_noise_model(scores, labels, least_skill=0)


def true_skill(model: NoiseModel, true: np.ndarray) -> float:
    """How far predictions go from the most frequent class to perfect ones, by true labels."""
    constant = float(np.bincount(true).max() / len(true))
    return (float((model.prediction.argmax(axis=1) == true).mean()) - constant) / (1 - constant)


@functools.cache
def features(path: str, texts: tuple[str, ...]) -> list[np.ndarray]:
    return frozen_features(Dataset.from_dict({"text": texts}), path, show_progress=False)


if __name__ == "__main__":
    raise SystemExit(main())
