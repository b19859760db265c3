#!/usr/bin/env python
"""Chooses a learning rate for plain LoRA without any true label: by accuracy on noisy labels that are held out.

    python benchmarks/learning_rates.py --data ../shared/data --jobs 2 --seeds 42 \\
        --settings banking77-20:symmetric:0.6 sst5@4000:symmetric:0.6 noisyagnews@2000:real

A tenth of the noisy training set is held out. Nothing looks at the test set or at true labels, so the rate may be used
for a comparison on the same data: `accuracy.py --learning_rate`, for all methods alike. Resumable, as accuracy.py is.
"""

import argparse
import sys
from pathlib import Path

from _running import read_results, run
from _settings import Cell
from _summary import learning_rates
from accuracy import add_shared_arguments, check_methods, settings_of

SETTINGS = ["banking77-20:symmetric:0.6", "sst5@4000:symmetric:0.6", "noisyagnews@2000:real"]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shared_arguments(parser)
    parser.set_defaults(settings=SETTINGS)
    parser.add_argument("--learning_rates", nargs="+", type=float, default=[5e-4, 1e-3, 2e-3, 4e-3])
    parser.add_argument("--method", default="plain")
    parser.add_argument("--output", type=Path, default=Path("outputs/learning_rates"))
    args = parser.parse_args(argv)
    try:
        settings = settings_of(args)
        check_methods([args.method], settings)
        if min(args.learning_rates) <= 0:
            raise ValueError(f"--learning_rates: a learning rate is above 0; got {min(args.learning_rates)}.")
    except (ValueError, ImportError) as error:
        parser.error(str(error))
    cells = [
        Cell(
            args.model_name_or_path,
            *(setting.data, setting.noise_type, setting.noise_rate, seed, setting.peft_method, args.epochs),
            method=args.method,
            learning_rate=rate,
            scored_on="validation",
            bf16=args.bf16,
        )
        for seed in args.seeds
        for setting in settings
        for rate in args.learning_rates
    ]
    failed = run(list(dict.fromkeys(cells)), args)
    print(learning_rates(read_results(args.output / "results.jsonl")))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
