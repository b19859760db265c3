#!/usr/bin/env python
"""Wrong labels, found without training: hf_clear's table of label issues beside cleanlab's, on features of one frozen
model.

    python benchmarks/detection.py --data ../shared/data --json benchmarks/results/detection.json
    python benchmarks/detection.py --table benchmarks/results/detection.json    # run nothing; print what is there

`hf_clear` is `hf_clear.find_label_issues` as `hf-clear audit` calls it: on the mean of the last hidden states and, if
the model has a pretrained pooler, what a head would see. `hf_clear_mean` has the mean alone. So has `cleanlab`: with
its defaults, `find_label_issues` and `get_label_quality_scores` of the predictions of logistic regression in 5 folds.

Of the ranking by suspicion: average precision, AUROC, and precision of the worst N labels. N is the number of wrong
labels: as the method estimates it (the sum of `1 - label_score`; `cleanlab.count.num_label_issues`), and the true one.
Of the labels that are called issues: number, precision, recall, F1. Seconds are those of the processor, after the
features. The seed is that of the noise and of the folds. `--quick`: 20 intents, seed 42.
"""

import argparse
import importlib.util
import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _detected import OURS, THEIRS, Found, compare, measure, report
from _frozen import out_of_fold
from _loading import load, model_path
from accuracy import add_shared_arguments, settings_of
from cells import surroundings
from evidence import features

from hf_clear import find_label_issues
from hf_clear.files import write_atomically
from hf_clear.noise import TRUE_LABEL

SETTINGS = ["banking77-20:symmetric:0.4", "banking77:symmetric:0.4", "noisyagnews:real", "sst5:symmetric:0.4"]

# ---- The methods: from tables of features (the mean first), given labels and a seed to what is found ----


def by_hf_clear(tables: list[np.ndarray], labels: np.ndarray, seed: int) -> Found:
    table = find_label_issues(labels, features=tables, return_all=True, seed=seed)
    place = np.argsort(table["sample_index"])  # in the table, the worst first
    estimated = np.nansum(1 - np.array(table["label_score"]))
    return Found(-place, np.array(table["is_label_issue"])[place], float(estimated))


def by_hf_clear_mean(tables: list[np.ndarray], labels: np.ndarray, seed: int) -> Found:
    return by_hf_clear(tables[:1], labels, seed)


def by_cleanlab(tables: list[np.ndarray], labels: np.ndarray, seed: int) -> Found:
    from cleanlab.count import num_label_issues
    from cleanlab.filter import find_label_issues as cleanlab_issues
    from cleanlab.rank import get_label_quality_scores

    probabilities = out_of_fold(tables[0], labels, seed)
    is_issue = cleanlab_issues(labels, probabilities, n_jobs=1)
    return Found(-get_label_quality_scores(labels, probabilities), is_issue, num_label_issues(labels, probabilities))


METHODS: dict[str, Callable[[list[np.ndarray], np.ndarray, int], Found]] = {
    OURS: by_hf_clear,
    "hf_clear_mean": by_hf_clear_mean,
    THEIRS: by_cleanlab,
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shared_arguments(parser)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--quick", action="store_true", help="20 intents, seed 42; other arguments go before it.")
    parser.add_argument("--json", type=Path, help="Write all rows here, and the comparison with cleanlab.")
    parser.add_argument("--table", type=Path, metavar="JSON", help="Run nothing; print what --json has written.")
    parser.set_defaults(settings=SETTINGS)
    if parser.parse_known_args(argv)[0].quick:
        parser.set_defaults(settings=SETTINGS[:1], seeds=[42])
    args = parser.parse_args(argv)
    if args.table is not None:
        print(report(json.loads(args.table.read_text())))
        return 0
    try:
        settings = settings_of(args)
        path = model_path(args.model_name_or_path)
        if THEIRS in args.methods and importlib.util.find_spec("cleanlab") is None:
            raise ImportError("cleanlab is not installed. pip install -e '.[benchmarks]', or choose other --methods.")
    except (ValueError, ImportError) as error:
        parser.error(str(error))
    torch.set_num_threads(args.threads)
    rows = []
    for setting, seed in itertools.product(settings, args.seeds):
        where = (setting.noise_type, setting.noise_rate, seed)
        train = load(setting.data, args.data, args.model_name_or_path, *where)[0]
        labels, true = (np.array(train[name]) for name in ("label", TRUE_LABEL))
        tables = features(str(path), tuple(train["text"]))  # once a data set: they don't depend on the noise
        noise = " ".join(str(part) for part in where[:2] if part is not None)
        for method in args.methods:
            start = time.process_time()
            found = METHODS[method](tables, labels, seed)
            seconds = time.process_time() - start
            row = {"data": setting.data, "noise": noise, "seed": seed, "method": method}
            name = " ".join(map(str, row.values()))
            row |= {**measure(found, labels != true), "seconds": seconds}
            rows.append({"name": name, "ratio": None, "target": None, **row, **surroundings()})
            print(f"{name}: AUROC {row['auroc'] or float('nan'):.3f}, {seconds:.0f} s", file=sys.stderr, flush=True)
    print(report(rows))
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(args.json, (json.dumps([*rows, *compare(rows)], indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
