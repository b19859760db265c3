"""What a grid can't train, said before its first training."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
from argparse import Namespace
from collections.abc import Iterable, Sequence
from typing import Any

from .._names import NO_NOISE
from ..data.folders import splits_in
from .train import script

METHODS = ("none", "clear", "turn")
_DATA = ("task_name", "dataset_name", "train_file", "test_file", "validation_file")


def check_lists(args: Namespace, others: Sequence[str]) -> None:
    """Looks at what a grid goes over.

    Raises:
        ValueError: if a name is none, one is listed twice, or `others` holds what the grid goes over.
    """
    from ..presets import PRESETS

    if others and not others[0].startswith("-"):
        raise ValueError(
            f"{others[0]!r} belongs to no option. `hf-clear train` takes a JSON file of arguments, a grid doesn't."
        )
    taken = {"method": "--methods", "noise_rate": "--noise_rates", "seed": "--seeds", "noise_seed": "--seeds"}
    taken |= dict.fromkeys(_DATA, "--data_sets") if args.data_sets else {}
    taken |= {"peft_method": "--peft_methods"} if args.peft_methods else {}
    if any(":" in method for method in args.methods):
        taken["preset"] = "--methods"
    for other in others:
        option = other.split("=")[0]
        if option.startswith("--") and option[2:].replace("-", "_") in taken:
            instead = taken[option[2:].replace("-", "_")]
            raise ValueError(f"{option} is what the grid goes over: list its values in {instead}.")
    for method in args.methods:
        name, colon, preset = method.partition(":")
        if name not in METHODS or (colon and (name != "clear" or preset not in PRESETS)):
            raise ValueError(
                f"--methods: {method!r} is none. There are {', '.join(METHODS)} and "
                f"{', '.join(f'clear:{known}' for known in PRESETS)}."
            )
    for option, values, known in (
        ("--peft_methods", args.peft_methods, list(_choices("peft_method"))),
        ("--noise_types", args.noise_types, list(_choices("noise_type"))),
    ):
        wrong = [value for value in values if value not in known]
        if wrong:
            raise ValueError(f"{option}: {wrong[0]!r} is none. There are {', '.join(known)}.")
    noisy = [kind for kind in args.noise_types if kind != NO_NOISE]
    if bool(noisy) != bool(args.noise_rates):
        raise ValueError("--noise_types and --noise_rates go together: name a type and one rate or more, or neither.")
    for rate in args.noise_rates:
        if not 0 <= rate <= 1:
            raise ValueError(f"--noise_rates: {rate:g} is no share between 0 and 1.")
    for option in ("data_sets", "methods", "peft_methods", "noise_types", "noise_rates", "seeds"):
        values = getattr(args, option)
        twice = [value for number, value in enumerate(values) if value in values[:number]]
        if twice:
            raise ValueError(f"--{option}: {twice[0]} is there twice.")
    if args.baseline is not None and args.baseline not in args.methods:
        raise ValueError(f"--baseline: {args.baseline!r} is none of --methods, {', '.join(args.methods)}.")


def _choices(option: str) -> Iterable[str]:
    """Of an option of the script."""
    of_script = (script().ModelArguments, script().DataTrainingArguments)
    found = next(one for arguments in of_script for one in dataclasses.fields(arguments) if one.name == option)
    return found.metadata["choices"]


def parsed(arguments: list[str], seed: int, folder: str) -> tuple[Any, Any, Any]:
    """What a training makes of its arguments: those of the model, of the data, and of the training.

    Raises:
        ValueError: if it refuses them, has another seed, or no test data.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            model_args, data_args, training_args = script().parse(arguments)
    except SystemExit as end:
        why = said.getvalue().strip().splitlines()[-1:] or [""]
        raise ValueError(f"{folder} can't be trained: {why[0].partition('error: ')[2] or why[0]}") from end
    except ValueError as error:
        raise ValueError(f"{folder} can't be trained: {error}") from error
    if training_args.seed != seed:
        raise ValueError(f"{folder} would be trained with seed {training_args.seed}: list seeds in --seeds alone.")
    is_file = data_args.train_file is not None and data_args.test_file is None
    if is_file and data_args.task_name is None and data_args.dataset_name is None:
        raise ValueError("There is nothing to compare methods by: name labelled test data, --test_file.")
    if data_args.dataset_name is not None and not os.path.isdir(data_args.dataset_name):
        if os.path.exists(data_args.dataset_name):
            raise ValueError(f"--data_sets: {data_args.dataset_name} is a file. Name a folder, or --train_file.")
    elif data_args.dataset_name is not None:
        files = splits_in(data_args.dataset_name)
        if files is not None and "test" not in files:
            raise ValueError(
                f"There is nothing to compare methods by: {data_args.dataset_name} has {', '.join(files)} data and no "
                "test data, such as test.csv."
            )
    return model_args, data_args, training_args
