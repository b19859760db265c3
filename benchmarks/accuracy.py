#!/usr/bin/env python
"""Accuracy under label noise: setting (data, noise, PEFT method) x method x seed, several cells at once, resumable.

    python benchmarks/accuracy.py --data ../shared/data --grid main --jobs 2
    python benchmarks/accuracy.py --data ../shared/data --settings banking77-20:symmetric:0.6 noisyagnews@2000:real \\
        --methods plain recommended paper:clear_gamma=0.8 oracle_head_start probe cleanlab --seeds 42

A data set `NAME@N` is N training samples of NAME, drawn once for all; `questions` are made by hf_clear and need no
`--data`. Noise `real` is that of the data themselves,
`none` their true labels.

Methods with PEFT: `plain`; ClearTrainer with its presets, `recommended` (its defaults), `clear`, `paper`, `official`
(`clear:key=value,key=value` with other settings); `elr`, `gce`, `sce` and `label_smoothing`, training losses without
routing; `small_loss`, the criterion of Co-teaching with the true noise rate; `turn`; `cleanlab_plain`, plain on what
cleanlab leaves; `oracle`, plain on the samples whose label is right; `oracle_head_start`, the same with a head that was
fitted to these before. The last three take as many steps as all others. `without_refresh` and others of _ablations.py:
`recommended` with one part left out, changed, or added. On frozen features, without PEFT: `logistic_regression` on
mean-pooled last hidden states, `cleanlab` (that after its pruning), `probe` (TURN's).

Each cell is a line of OUTPUT/results.jsonl; what has its line is skipped. The seed is that of the noise, too. Cells run
seed by seed, then in the order of settings and methods: the most valuable come first. Needs `pip install -e
".[benchmarks]"`.
"""

import argparse
import importlib.util
import itertools
import json
import sys
from pathlib import Path
from typing import Any

from _grids import GRIDS
from _loading import DATA_SETS, DEMO, NO_NOISE, REAL_NOISE, find_data_set, model_path
from _methods import NEED_CLEANLAB, PEERS, changed_settings, check_peft_method, parse_method, resolve
from _running import read_results, run
from _settings import Cell, Setting
from _summary import markdown, summarize
from _targets import evaluate, report

from hf_clear.files import write_atomically
from hf_clear.noise import NOISE_TYPES
from hf_clear.runs import default_learning_rate
from hf_clear.runs.training_arguments import FULL_FINE_TUNING
from hf_clear.tuners import PEFT_METHODS

METHODS = ["plain", "recommended", "oracle", *PEERS]
# What --settings stands instead of, with defaults.
PRODUCT = {
    "data_sets": [name for name, data_set in DATA_SETS.items() if data_set.truth_column is None],
    "noise_types": ["symmetric"],
    "noise_rates": [0.2, 0.4, 0.6],
    "peft_methods": ["lora"],
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shared_arguments(parser)
    parser.add_argument("--output", type=Path, default=Path("outputs/accuracy"))
    parser.add_argument("--grid", choices=GRIDS, help="Settings, methods and seeds by name; see _grids.py.")
    parser.add_argument("--data_sets", nargs="+", help="With all --noise_types. Default: those without own noise.")
    parser.add_argument("--noise_types", nargs="+", choices=[*NOISE_TYPES, NO_NOISE, REAL_NOISE])
    parser.add_argument("--noise_rates", nargs="+", type=float)
    parser.add_argument("--peft_methods", nargs="+", choices=[*PEFT_METHODS, FULL_FINE_TUNING])
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument(
        "--learning_rate", type=float, help="Of all methods alike. Default: that which suits the PEFT method."
    )
    parser.add_argument("--table", action="store_true", help="Run nothing; print what is in results.jsonl.")
    parser.add_argument(
        "--targets", action="store_true", help="As --table, and the targets: met, or missed by how much."
    )
    parser.add_argument("--target_method", default="recommended", help="The method whose targets these are.")
    parser.add_argument("--quick", action="store_true", help="--grid quick; other arguments go before it.")
    parser.add_argument("--json", type=Path, help="Write the rows of the table (and the targets) here, too.")
    known = parser.parse_known_args(argv)[0]
    if known.quick or known.grid:
        parser.set_defaults(**GRIDS["quick" if known.quick else known.grid])
    args = parser.parse_args(argv)
    failed = []
    if not (args.table or args.targets):
        try:
            cells = grid(args)
        except (ValueError, ImportError) as error:
            parser.error(str(error))
        failed = run(cells, args)
    lines = read_results(args.output / "results.jsonl")
    rows = summarize(line for line in lines if line["scored_on"] == "test")
    if not rows:
        print(f"There are no results in {args.output}.", file=sys.stderr)
    print(markdown(rows))
    for method in sorted({line["method"] for line in lines}):
        warn_of_changes(method, [line for line in lines if line["method"] == method])
    if args.targets and rows:
        targets = evaluate(lines, args.target_method)
        print("\n" + report(targets, args.target_method))
        rows += [target.as_row() for target in targets]
    if args.json is not None:
        write_atomically(args.json, (json.dumps(rows, indent=2) + "\n").encode())
    return 1 if failed or not rows else 0


def add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    """What learning_rates.py has, too."""
    parser.add_argument("--data", type=Path, help="Folder with the data sets, one folder each.")
    parser.add_argument(
        "--settings",
        nargs="+",
        help="DATA:NOISE_TYPE:RATE, DATA:real or DATA:none, each with :PEFT_METHOD as you like (default: lora; none: "
        "full fine-tuning).",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--model_name_or_path", default=DEMO, help="Default: all-MiniLM-L6-v2, from the extra `demo`.")
    parser.add_argument("--bf16", action="store_true", help="Mixed precision, of trainings with PEFT.")
    parser.add_argument("--jobs", type=int, default=1, help="Cells at once. They share one GPU, if there is one.")
    parser.add_argument("--threads", type=int, default=1, help="Threads of each.")
    parser.add_argument(
        "--reuse_processes",
        action="store_true",
        help="A job runs its cells in one process, which imports everything once. The memory in a line is then that of "
        "all cells before.",
    )
    parser.add_argument("--minutes", type=float, help="Begin no cell later than so many minutes after the start.")


def warn_of_changes(method: str, lines: list[dict[str, Any]]) -> None:
    """Says it if lines, which are not run again, are of settings that the method has no longer."""
    try:
        changed = [names for names in map(changed_settings, lines) if names]
    except ValueError:  # no method any more
        return
    if changed:
        names = ", ".join(sorted(set().union(*changed)))
        print(
            f"{method}: {len(changed)} of {len(lines)} lines were run with another {names} than it has now. Delete "
            "them, or choose another --output, to run them again.",
            file=sys.stderr,
        )


# ---- The grid ----


def grid(args: argparse.Namespace) -> list[Cell]:
    """The cells that the arguments ask for, seed by seed.

    Raises:
        ValueError: if an argument is wrong or a file is missing.
        ImportError: if a package is missing.
    """
    settings = settings_of(args)
    if args.learning_rate is not None and not args.learning_rate > 0:
        raise ValueError(f"--learning_rate has to be above 0; got {args.learning_rate}.")
    check_methods(args.methods, settings)
    model_path(args.model_name_or_path)  # the extra `demo` may be missing
    cells = []
    for seed, setting, method in itertools.product(args.seeds, settings, args.methods):
        own: dict[str, Any] = {"peft_method": None, "epochs": None}
        if method not in PEERS:
            rate = args.learning_rate or default_learning_rate(setting.peft_method)
            own = {"peft_method": setting.peft_method, "epochs": args.epochs, "learning_rate": rate, "bf16": args.bf16}
        where = (args.model_name_or_path, setting.data, setting.noise_type, setting.noise_rate, seed)
        cells.append(Cell(*where, method=method, **own))
    return list(dict.fromkeys(cells))


def settings_of(args: argparse.Namespace) -> list[Setting]:
    """The settings to run: those of `--settings`, or all combinations of the arguments that it stands instead of.

    Raises:
        ValueError: if one can't be, a file is missing, or another shared argument is wrong.
    """
    for name in ("epochs", "jobs", "threads"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} has to be 1 or above; got {getattr(args, name)}.")
    if args.minutes is not None and not args.minutes >= 0:
        raise ValueError(f"--minutes has to be 0 or above; got {args.minutes}.")
    if min(args.seeds) < 0:
        raise ValueError(f"--seeds: a seed is 0 or above; got {min(args.seeds)}.")
    given = [name for name in PRODUCT if getattr(args, name, None) is not None]
    if args.settings is None:
        parts = [getattr(args, name) if name in given else default for name, default in PRODUCT.items()]
        settings = [Setting(*values) for values in itertools.product(*parts)]
    elif given:
        raise ValueError(f"--settings (which --grid may imply) stands instead of --{given[0]}: drop one of them.")
    else:
        settings = [Setting.parse(text) for text in args.settings]
    for setting in settings:
        folder = find_data_set(setting.data)[0].folder
        if folder and args.data is None:
            raise ValueError(f"--data: name the folder with the data sets, for {setting.data}.")
        for path in (args.data / folder / file for file in ("train.csv", "test.csv")) if folder else ():
            if not path.is_file():
                raise ValueError(f"{setting.data}: there is no {path}.")
    return list(dict.fromkeys(settings))


def check_methods(methods: list[str], settings: list[Setting]) -> None:
    """Raises a ValueError if a method or a setting of it can't be, and an ImportError if a package is missing."""
    for method in methods:
        name, of_clear = parse_method(method)
        for setting in settings:
            check_peft_method(name, setting.peft_method)
            resolve(of_clear, setting.peft_method)
        if name in NEED_CLEANLAB and importlib.util.find_spec("cleanlab") is None:
            raise ImportError(
                f"--methods {name}: cleanlab is not installed. pip install -e '.[benchmarks]', or leave the method out."
            )


if __name__ == "__main__":
    sys.exit(main())
